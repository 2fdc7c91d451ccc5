# SPDX-License-Identifier: Apache-2.0
"""The commands in the documents are run, and their tables compared with the code."""

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inkling.capture.records import Record
from inkling.cli.main import parser
from inkling.errors import ErrorCode
from inkling.gateway.status import GRPC_STATUS
from inkling_serving.http_api.refusals import HTTP_STATUS
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
    """The folder from which the README runs: models/, data/ and picture.png."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(published, folder / "models")
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(folder / "picture.png")
    (folder / "data").mkdir()
    np.savez(folder / "data" / "fashion_mnist.npz", **_clothes(200, 50))
    return folder


def _clothes(num_train: int, num_test: int) -> dict[str, np.ndarray]:
    """Return pictures in the form of Fashion-MNIST, told apart by where they are bright."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", num_train), ("test", num_test)):
        labels = np.arange(count) % 10
        pixels = random.integers(0, 60, (count, 28, 28), np.uint8)
        for picture, label in zip(pixels, labels, strict=True):
            picture[2 * label + 3 : 2 * label + 6, 4:24] += 180
        arrays |= {f"x_{part}": pixels, f"y_{part}": labels}
    return arrays


def _commands() -> list[str]:
    lines = [line for block in _blocks("console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def _marked(command: str) -> Any:
    # Other tests train by the command, on pictures that are quicker to learn.
    trains = command.startswith("inkling train")
    return pytest.param(command, marks=[pytest.mark.soak] if trains else [])


@pytest.fixture(scope="module")
def ports(
    place: Path, tmp_path_factory: pytest.TempPathFactory, serve_gateway: Any
) -> Iterator[Any]:
    """The gateway that the README starts, on free ports; maps its ports to these."""
    log = tmp_path_factory.mktemp("readme-gateway") / "log"
    assert any(command.startswith("inkling serve") for command in _commands())
    with serve_gateway(place / "models", log=log) as gateway:
        yield lambda text: text.replace("8080", str(gateway.port)).replace(
            "8081", str(gateway.grpc_port)
        )


def _run(command: list[str], place: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command,
        cwd=place,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize("command", [_marked(each) for each in _commands()])
def test_readme_commands_run(command: str, place: Path, ports: Any) -> None:
    """Every command of the README succeeds in the folder from which it is run."""
    if command.startswith("inkling serve"):
        options = parser().parse_args(command.split()[1:])
        assert Path("models") == options.models_dir
        return  # it runs, as the gateway that the other commands ask
    if command.startswith("inkling train"):
        command += " --epochs 1"  # the pictures are made up; there is little to learn
    done = _run(["bash", "-c", ports(command).replace("curl", "curl -sSf")], place)

    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    if ":classify" in command or "--json" in command:
        assert '"label"' in done.stdout


@pytest.mark.parametrize("block", _blocks("python"))
def test_readme_python_runs(block: str, place: Path, ports: Any) -> None:
    """Every Python block of the README runs as it stands."""
    done = _run([sys.executable, "-c", ports(block)], place)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


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
        row = f"| `{code}` | {HTTP_STATUS[code].value} | {GRPC_STATUS[code].name} |"
        assert row in text


def test_feedback_document_states_the_format() -> None:
    """docs/feedback.md has every key of a record, and its commands can be parsed."""
    text = (ROOT / "docs" / "feedback.md").read_text()
    table = text.partition("### The format")[2].partition("## Feedback")[0]
    keys = {
        key
        for row in re.findall(r"(?m)^\| `.*$", table)
        for key in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    commands = re.findall(r"(?m)^\$ inkling (.*)$", text)

    assert keys == {"format", *Record.__slots__}
    assert len(commands) == 4
    for command in commands:
        assert parser().parse_args(command.split()).run


def test_links_lead_somewhere() -> None:
    """Every relative link in the documents names a file that is there."""
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("examples/*.md"),
    ]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
