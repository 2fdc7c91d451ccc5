"""What the documents say is run, or compared with the code."""

import argparse
import dataclasses
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inkling.cli import parser
from inkling.errors import ErrorCode
from inkling_serving.http_gateway import HTTP_STATUS
from inkling_serving.settings import Settings

ROOT = Path(__file__).parent.parent.parent
_BLOCK = re.compile(r"(<!-- not run:.*?-->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def _blocks(kind: str) -> list[str]:
    """Return the README's blocks of a kind, but for those that say why they are not run."""
    readme = (ROOT / "README.md").read_text()
    return [
        text for skip, lang, text in _BLOCK.findall(readme) if lang == kind and not skip
    ]


@pytest.fixture(scope="module")
def place(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the README supposes it: models/, data/ and picture.png."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(published, folder / "models")
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(folder / "picture.png")
    random = np.random.default_rng(0)
    (folder / "data").mkdir()
    np.savez(
        folder / "data" / "fashion_mnist.npz",
        x_train=random.integers(0, 256, (600, 28, 28), np.uint8),
        y_train=random.integers(0, 10, 600),
        x_test=random.integers(0, 256, (100, 28, 28), np.uint8),
        y_test=random.integers(0, 10, 100),
    )
    return folder


@contextmanager
def _running(command: str, folder: Path) -> Iterator[None]:
    """Run a server until the block ends; it is there once its port answers."""
    port = int(re.findall(r"--http-port (\d+)", command)[0])
    process = subprocess.Popen(command, shell=True, cwd=folder, process_group=0)
    try:
        while process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_readme_commands_run(place: Path) -> None:
    """Every console block of the README does what it says, from the folder it supposes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    commands = [
        line.removeprefix("$ ").replace("8080", port).replace("curl", "curl -sSf")
        for block in _blocks("console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    server = next(line for line in commands if line.startswith("inkling serve"))
    environ_path = f"export PATH={Path(sys.executable).parent}:$PATH; exec "

    with _running(environ_path + server, place):
        for command in commands:
            if command == server:
                continue
            done = subprocess.run(
                ["bash", "-c", environ_path + command],
                cwd=place,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            if "classify" in command:
                assert '"label"' in done.stdout


def test_readme_python_runs(place: Path) -> None:
    """Every Python block of the README runs as it stands."""
    for block in _blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", block], cwd=place, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_every_setting_is_documented() -> None:
    """The table of settings has each with its flag, variable, default and meaning."""
    text = (ROOT / "docs" / "operations.md").read_text()
    for item in dataclasses.fields(Settings):
        row = (
            f"| `--{item.name.replace('_', '-')}` | `INKLING_{item.name.upper()}` | "
            f"{item.default} | {item.metadata['help']} |"
        )
        assert row in text, row


def test_every_option_is_documented() -> None:
    """Each option of each subcommand stands in the README or the docs."""
    texts = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(path.read_text() for path in texts)
    for name, sub in _subparsers().items():
        assert f"inkling {name}" in text, name
        for action in sub._actions:
            for option in action.option_strings:
                if option.startswith("--") and option != "--help":
                    assert option in text, f"{name} {option}"
            assert action.help, f"{name} {action.dest}"


def _subparsers() -> dict[str, argparse.ArgumentParser]:
    for action in parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("inkling has no subcommands")


def test_every_error_code_is_documented() -> None:
    """The table of errors has each code with its status."""
    text = (ROOT / "docs" / "api.md").read_text()
    for code in ErrorCode:
        assert f"| `{code}` | {HTTP_STATUS[code].value} |" in text


def test_links_lead_somewhere() -> None:
    """Every relative link in the documents names a file that is there."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
