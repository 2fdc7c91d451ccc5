# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that a program can check."""

import ast
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import inkling
import inkling_loadtest
import inkling_serving
import inkling_training
from inkling import errors
from inkling.errors import ErrorCode, InklingError
from inkling.gateway.status import GRPC_STATUS
from inkling_serving.http_api.refusals import HTTP_STATUS
from tests.support.alone import alone_in

ROOT = Path(__file__).parent.parent.parent
MEMBERS = {
    "inkling": "client",
    "inkling_serving": "serving",
    "inkling_training": "training",
    "inkling_loadtest": "loadtest",
}

# Locust patches the standard library of the process that imports it.
_PATCHING = "inkling_loadtest.locust_side"


def _modules() -> list[str]:
    packages = (inkling, inkling_serving, inkling_training, inkling_loadtest)
    return [
        module.name
        for package in packages
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        if "__main__" not in module.name and "_pb2" not in module.name
    ]


@pytest.mark.parametrize("name", _modules())
def test_public_names_are_declared_and_sorted(name: str) -> None:
    """`__all__` has the public functions and classes that a module defines, and no more."""
    spec = importlib.util.find_spec(name)
    assert spec
    tree = ast.parse(Path(str(spec.origin)).read_text())
    declared = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "__all__"
        ),
        [],
    )
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    }

    assert defined <= set(declared)
    if not name.startswith(_PATCHING):
        module = importlib.import_module(name)
        assert all(hasattr(module, public) for public in declared)
    assert len(declared) == len(set(declared))


def test_every_error_has_a_status() -> None:
    """Every code maps to a status of each protocol, and every class has a code."""
    classes = [InklingError, *_subclasses(InklingError)]

    assert set(ErrorCode) == set(HTTP_STATUS)
    assert set(ErrorCode) == set(GRPC_STATUS)
    assert all(isinstance(error.code, ErrorCode) for error in classes)
    documented = str(errors.__doc__)
    assert all(name in documented for name in errors.__all__ if name != "ErrorCode")


def _subclasses(parent: type[InklingError]) -> list[type[InklingError]]:
    direct = parent.__subclasses__()
    return [*direct, *(deep for child in direct for deep in _subclasses(child))]


def test_versions_are_one() -> None:
    """All members have one version, require each other at it, and state it."""
    version = inkling.__version__
    for package, folder in MEMBERS.items():
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())[
            "project"
        ]
        assert version == project["version"]
        assert version == importlib.import_module(package).__version__
        for dependency in project["dependencies"]:
            if dependency.startswith("inkling"):
                assert dependency.endswith(f"=={version}")


def test_members_hold_their_package_and_nothing_else() -> None:
    """`import training` must not work, and a member folder holds one directory."""
    for package, folder in MEMBERS.items():
        assert not (ROOT / folder / "__init__.py").exists()
        directories = {
            path.name
            for path in (ROOT / folder).iterdir()
            if path.is_dir() and not path.name.startswith((".", "__pycache__", "dist"))
        }
        assert {package} == directories


def test_wheels_hold_their_package(tmp_path: Path) -> None:
    """A built wheel installs exactly its own package, with its type marker and data."""
    uv = Path(sys.executable).with_name("uv")
    build = [str(uv), "build", "--wheel", "--all-packages", "--out-dir", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    wheels = {path.name.partition("-")[0]: path for path in tmp_path.glob("*.whl")}

    assert set(MEMBERS) == set(wheels)
    for package, wheel in wheels.items():
        names = zipfile.ZipFile(wheel).namelist()
        tops = {name.partition("/")[0] for name in names}
        assert {package} == {top for top in tops if not top.endswith(".dist-info")}
        assert f"{package}/py.typed" in names
    page = zipfile.ZipFile(wheels["inkling_serving"]).namelist()
    assert "inkling_serving/page/index.html" in page
    assert "inkling_serving/page/swagger-ui/LICENSE" in page
    assert "inkling_serving/page/litert/LICENSE" in page
    assert wheels["inkling_serving"].stat().st_size < 4 * 10**6


def test_the_client_runs_alone(tmp_path: Path, published: Path) -> None:
    """With nothing but what it declares, the client lists models and explains a picture."""
    uv = Path(sys.executable).with_name("uv")
    environment = tmp_path / "alone"
    python = environment / "bin" / "python"
    subprocess.run(
        [uv, "venv", "-q", "--python", sys.executable, environment], check=True
    )
    install = [uv, "pip", "install", "-q", "--python", python, ROOT / "client"]
    subprocess.run(install, check=True, timeout=120)
    listed = subprocess.run(
        [uv, "pip", "list", "-q", "--python", python, "--format", "freeze"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    size = sum(f.stat().st_size for f in environment.rglob("*") if f.is_file())
    command = [python, "-m", "inkling", "models", "--models-dir", published]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert {
        "grpcio",
        "inkling",
        "numpy",
        "pillow",
        "protobuf",
        "typing-extensions",
    } == {line.partition("==")[0].partition(" ")[0] for line in listed}
    assert "cnn" in shown
    assert size < 100 * 10**6


def test_no_addresses_are_committed() -> None:
    """The lock file pins every distribution by hash, and names no index."""
    lock = (ROOT / "requirements.lock").read_text()

    assert "://" not in lock
    assert lock.count("--hash=sha256:") > lock.count("==")


def test_the_makefile_explains_itself() -> None:
    """`make help` has a line for every target that a person would call."""
    makefile = (ROOT / "Makefile").read_text()
    [phony] = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    explained = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))

    assert set(phony.split()) <= explained


_MEASURED = """
from tests.support.machine import TooSlow, within
def soon(took_s): within(took_s, 0.5)
def test_helper(): soon(1)
def test_direct(limit_s=9): within(1, limit_s)
def test_raises(): raise TooSlow
def test_patient(): within(1, 2)
def test_other(): assert test_other
"""


def test_fine_measurements_run_alone(tmp_path: Path) -> None:
    """Tests with a limit below two seconds are found, directly and through a helper."""
    file = tmp_path / "test_measures.py"
    file.write_text(_MEASURED)
    found = {name for name in alone_in(file) if name.startswith("test_")}

    assert found == {"test_helper", "test_direct", "test_raises"}


_TRIED = """
import itertools, pytest
from tests.support.machine import until, within
tries = itertools.count(1)
def test_slow_once():
    within(1.0, 0.5 if next(tries) == 1 else 2.0)
def test_slow_always():
    within(1.0, 0.5)
def test_wrong():
    assert 1 == 2
def test_never():
    until(lambda: False, 0.1)
"""


def test_only_what_is_too_slow_is_tried_again(tmp_path: Path) -> None:
    """A test that ends with TooSlow is tried three times, any other failure once."""
    file = tmp_path / "test_tries.py"
    file.write_text(_TRIED)
    command = [sys.executable, "-m", "pytest", "-v", "-c", ROOT / "pyproject.toml"]
    command += ["-p", "no:cacheprovider", "--rootdir", tmp_path, file]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environ
    )
    found = re.findall(r"::test_(\w+) (RERUN|PASSED|FAILED)", done.stdout)

    assert found == [
        ("slow_once", "RERUN"),
        ("slow_once", "PASSED"),
        ("slow_always", "RERUN"),
        ("slow_always", "RERUN"),
        ("slow_always", "FAILED"),
        ("wrong", "FAILED"),
        ("never", "FAILED"),
    ], done.stdout + done.stderr


_LICENCE = "SPDX-License-Identifier: Apache-2.0"
_OUR_FOLDERS = (
    *MEMBERS.values(),
    "tests",
    "scripts",
    "benchmarks",
    "examples",
    "deploy",
)
_SOURCE_SUFFIXES = (".py", ".proto", ".js", ".css", ".sh", ".Dockerfile")


def test_sources_name_their_licence() -> None:
    """One of the first two lines of each source file that we wrote names the licence.

    What others wrote lies in a folder of its own, with their licence.
    """
    files = [
        path
        for folder in _OUR_FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in _SOURCE_SUFFIXES and "_pb2" not in path.name
        if not (path.parent / "LICENSE").exists()
    ]
    without = [
        path
        for path in files
        if not any(_LICENCE in line for line in path.read_text().splitlines()[:2])
    ]

    assert len(files) > 200
    assert without == []
