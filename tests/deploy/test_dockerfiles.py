# SPDX-License-Identifier: Apache-2.0
"""The Dockerfiles: their build steps are done for real, in a folder."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from inkling_serving.settings import Settings
from tests.support.gateway_process import Running
from tests.support.machine import until

ROOT = Path(__file__).parent.parent.parent
_IMAGES = ("gateway", "training", "loadtest")
_COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

Stage = list[tuple[str, str]]


def _stages(image: str) -> list[Stage]:
    """Return the two stages of a Dockerfile, each as (instruction, text), lines joined."""
    text = (ROOT / "deploy" / "docker" / f"{image}.Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    _, build, runtime = re.split(r"^FROM ", text, flags=re.MULTILINE)
    return [
        [
            (line.split()[0], " ".join(line.split()[1:]))
            for line in lines
            if line.strip()
        ]
        for lines in (build.splitlines()[1:], runtime.splitlines()[1:])
    ]


def _said(stage: Stage, instruction: str) -> list[str]:
    return [text for name, text in stage if name == instruction]


@pytest.mark.parametrize("image", _IMAGES)
def test_the_image_is_what_compose_starts(image: str) -> None:
    """Only the environment is taken over from the build; the user is Compose's."""
    _, runtime = _stages(image)
    names = [name for name, _ in runtime]
    service = _COMPOSE["services"][image]

    assert _said(runtime, "COPY") == ["--from=build /opt/inkling /opt/inkling"]
    assert [service["user"]] == _said(runtime, "USER")
    assert not {"RUN", "COPY"} & set(names[names.index("USER") :])
    assert _said(runtime, "ENTRYPOINT") == ['["inkling"]']
    assert service["build"]["dockerfile"] == f"deploy/docker/{image}.Dockerfile"
    if image == "gateway":
        pairs = (pair.split("=", 1) for pair in _said(runtime, "ENV")[0].split())
        mine = {key: value for key, value in pairs if key.startswith("INKLING_")}
        # Whoever starts the image says that it may be reached.
        assert Settings.from_env(mine).host == "127.0.0.1"


def test_the_builder_is_given_what_is_copied() -> None:
    """.dockerignore lets through what the Dockerfiles copy, and nothing else."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {
        text.split()[0]
        for image in _IMAGES
        for text in _said(_stages(image)[0], "COPY")
    }

    assert "*" in rules
    assert copied == {rule[1:] for rule in rules if rule.startswith("!")}


class Replay:
    """The build stage of a Dockerfile, done in a folder instead of an image."""

    def __init__(self, image: str, root: Path) -> None:
        self.build, self.runtime = _stages(image)
        self.root = root
        self.bin = root / "opt" / "inkling" / "bin"
        (root / "src").mkdir(parents=True)
        for text in _said(self.build, "COPY"):
            source, target = text.split()
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "dist")
                shutil.copytree(ROOT / source, root / "src" / target, ignore=ignored)
            else:
                shutil.copy(ROOT / source, root / "src" / target)

    def run(self, step: str, tools: Path) -> subprocess.CompletedProcess[str]:
        """Do a RUN step, with its paths under the folder."""
        step = re.sub(r"--mount=\S+ ", "", step).replace("/tools", str(tools))
        step = step.replace("/opt/inkling", str(self.bin.parent))
        unwanted = ("VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH")
        environ = {k: v for k, v in os.environ.items() if k not in unwanted}
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", step],
            cwd=self.root / "src",
            env=environ,
            capture_output=True,
            text=True,
            timeout=240,
        )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    """The gateway, installed as its Dockerfile says."""
    replay = Replay("gateway", tmp_path_factory.mktemp("gateway-image") / "root")
    for step in _said(replay.build, "RUN"):
        done = replay.run(step, replay.root / "tools")
        assert done.returncode == 0, done.stdout + done.stderr
    return replay


def _strangers(found: dict[str, str]) -> dict[str, str]:
    """Return the distributions at versions that the lock file does not have."""
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([\w.-]+)==([\w.+]+)", lock, re.MULTILINE))
    return {
        name: version
        for name, version in found.items()
        if not name.startswith("inkling") and (name, version) not in locked
    }


_LIST = r"""
import re
from importlib.metadata import distributions
for each in distributions():
    print(re.sub(r"[-_.]+", "-", each.name).lower(), each.version)
"""


def test_the_gateway_is_its_closure(built: Replay) -> None:
    """Only what the gateway needs, at locked versions, compiled, with its commands."""
    listing = [built.bin / "python", "-I", "-c", _LIST]
    lines = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    found = dict(line.split() for line in lines.splitlines())
    files = [file for file in built.bin.parent.rglob("*") if file.is_file()]
    shown = subprocess.run([built.bin / "inkling", "--help"], capture_output=True)

    assert {"inkling", "inkling-serving", "ai-edge-litert", "flask"} <= set(found)
    assert not {"tensorflow", "keras", "pip", "uv", "locust", "pytest"} & set(found)
    assert _strangers(found) == {}
    assert sum(file.stat().st_size for file in files) <= 150 * 10**6
    assert not [file for file in files if file.suffix == ".pyi"]
    bill = json.loads((built.bin.parent / "sbom.cdx.json").read_text())
    listed = {each["name"].lower() for each in bill["components"]}
    assert {re.sub(r"[-_.]+", "-", name) for name in listed} == set(found)
    assert any(f.match("inkling_serving/__pycache__/service.*.pyc") for f in files)
    commands = set(re.findall(r"^ {4}(\w+) ", shown.stdout.decode(), re.MULTILINE))
    own = {"classify", "doctor", "models", "promote", "rollback"}
    assert own | {"serve", "up"} == commands


def test_the_installed_gateway_lives_without_its_engine(
    built: Replay, tmp_path: Path
) -> None:
    """Started as Compose starts it, it is well by the image's own check, and not ready."""
    variables = {
        **_COMPOSE["services"]["gateway"]["environment"],
        "INKLING_HOST": "127.0.0.1",
        "INKLING_HTTP_PORT": "0",
        "INKLING_GRPC_PORT": "0",
        "INKLING_TENSORFLOW_SERVING": "127.0.0.1:1",
    }
    [check] = _said(built.runtime, "HEALTHCHECK")
    code = json.loads(check.partition(" CMD ")[2])[2]
    port = f"'127.0.0.1', {Settings().http_port},"
    assert code.count(port) == 1

    def well(code: str) -> bool:
        command = [built.bin / "python", "-c", code]
        return subprocess.run(command, capture_output=True).returncode == 0

    command = [built.bin / "inkling", *json.loads(_said(built.runtime, "CMD")[0])]
    environ = {**os.environ, **variables}
    environ.pop("PYTHONPATH", None)
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environ, stderr=output, cwd=tmp_path)
    running = Running(process, log, 0.0)
    try:
        mine = code.replace(port, f"'127.0.0.1', {running.port},")
        until(lambda: well(mine))
        assert not well(code.replace(port, "'127.0.0.1', 1,"))
        assert not well(mine.replace("/livez", "/readyz"))
    finally:
        assert running.stop() == 0, log.read_text()


def test_a_wrong_hash_is_refused(built: Replay, tmp_path: Path) -> None:
    """The hashes of the lock file are held, though it is given as constraints."""
    replay = Replay("gateway", tmp_path / "image")
    lock = replay.root / "src" / "requirements.lock"
    before, flask, rest = re.split(r"^(flask==)", lock.read_text(), flags=re.MULTILINE)
    block, end, after = rest.partition("\n    # via")
    wrong = re.sub(r"sha256:.{8}", "sha256:00000000", block)
    lock.write_text(before + flask + wrong + end + after)
    done = replay.run(_said(replay.build, "RUN")[1], built.root / "tools")

    assert done.returncode != 0
    assert "Hash mismatch for `flask" in done.stderr


@pytest.mark.parametrize(
    ("image", "needed", "unwanted"),
    [
        (
            "training",
            {"tensorflow", "keras", "tensorflow-serving-api"},
            {"flask", "uvicorn", "locust", "pytest"},
        ),
        ("loadtest", {"locust", "grpcio"}, {"tensorflow", "uvicorn"}),
    ],
)
def test_others_would_be_their_closures(
    built: Replay, tmp_path: Path, image: str, needed: set[str], unwanted: set[str]
) -> None:
    """Resolved but not downloaded: what each image needs, at locked versions."""
    replay = Replay(image, tmp_path / "image")
    first, install, _ = _said(replay.build, "RUN")
    dry = install.replace("pip install", "pip install --dry-run")
    done = replay.run(dry, built.root / "tools")
    # " + name==1.0", and " + name @ file:///..." for what is built from a folder.
    found = dict(re.findall(r"^ \+ ([\w.-]+)(?:==| @ )(\S+)", done.stderr, re.M))

    assert done.returncode == 0, done.stderr
    assert _said(built.build, "RUN")[0] == first
    assert {"inkling", f"inkling-{image}", *needed} <= set(found)
    assert not unwanted & set(found)
    assert _strangers(found) == {}
