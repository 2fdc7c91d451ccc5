# SPDX-License-Identifier: Apache-2.0
"""The classification of a folder, in one process and in those of Ray."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from inkling.cli.batch import files_of

_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture
def folder(tmp_path: Path, picture: bytes) -> Path:
    """A folder with pictures at two depths, a hidden file and one that is no picture."""
    place = tmp_path / "pictures"
    (place / "b").mkdir(parents=True)
    for name in ("c.png", "a.png", "b/2.png", "b/1.png"):
        (place / name).write_bytes(picture)
    (place / "d.txt").write_text("no picture")
    (place / ".hidden").write_text("no picture either")
    return place


def _classify(
    folder: Path, published: Path, *more: str
) -> subprocess.CompletedProcess[str]:
    version = published / "mlp" / "1"
    return subprocess.run(
        [
            *(sys.executable, "-m", "inkling", "classify", str(folder)),
            *("--on-device", str(version), "--json", *more),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def _told(found: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what the command said on stderr; LiteRT says lines of its own there."""
    return [line for line in found.stderr.splitlines() if line.startswith("inkling: ")]


def test_a_folder_stands_for_its_files(folder: Path, tmp_path: Path) -> None:
    """Its files come by name at any depth, without hidden ones; other paths stay."""
    absent = tmp_path / "absent.png"
    names = ["a.png", "b/1.png", "b/2.png", "c.png", "d.txt"]
    assert [absent, *(folder / name for name in names)] == files_of([absent, folder])


def test_a_folder_without_files_is_named(tmp_path: Path, published: Path) -> None:
    """A folder with nothing but hidden files is an error, and not a silent success."""
    (tmp_path / ".hidden").write_text("")
    found = _classify(tmp_path, published)

    assert 1 == found.returncode
    assert [f"inkling: {tmp_path} cannot be read (Is a directory)"] == [
        line.partition(";")[0] for line in _told(found)
    ]


def test_a_folder_is_classified(folder: Path, published: Path) -> None:
    """Each picture has a line in the order of the names; what is none is named."""
    found = _classify(folder, published)
    lines = [json.loads(line) for line in found.stdout.splitlines()]

    assert 1 == found.returncode
    assert ["a.png", "1.png", "2.png", "c.png"] == [
        Path(line["picture"]).name for line in lines
    ]
    [told] = _told(found)
    assert told.startswith(f"inkling: {folder / 'd.txt'}: ")


@pytest.mark.skipif(_RAY, reason="Ray is installed")
def test_without_ray_one_sentence_says_so(folder: Path, published: Path) -> None:
    """The client does not need Ray, and says how to install it."""
    found = _classify(folder, published, "--runner", "ray")

    assert 1 == found.returncode
    assert not found.stdout
    [told] = _told(found)
    assert told.endswith("pip install ray")


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_ray_answers_as_one_process_does(folder: Path, published: Path) -> None:
    """Lines, errors and exit code are the same, over several tasks of Ray."""
    if not _RAY:
        pytest.skip(
            "Ray is not installed; NOTHING was classified with it. To run this: "
            "pip install ray"
        )
    source = (folder / "a.png").read_bytes()
    for number in range(300):
        (folder / "b" / f"{number}.png").write_bytes(source)
    alone = _classify(folder, published)
    found = _classify(folder, published, "--runner", "ray")

    assert 302 <= len(alone.stdout.splitlines())
    assert alone.stdout == found.stdout
    assert _told(alone) == _told(found)
    assert alone.returncode == found.returncode
