# SPDX-License-Identifier: Apache-2.0
"""`inkling replay` compares versions and formats on captured pictures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inkling.capture.records import RECORDS_FILE, Record, line_of
from inkling.capture.store import Store
from inkling.cli.main import main
from inkling.model.loading import load_version
from inkling.model.repository import Repository


@pytest.fixture
def capture(
    tmp_path: Path, published: Path, clear_digits: list[np.ndarray], encode: Any
) -> Path:
    """Captures of ten digits by the MLP: one label is wrong, and one picture is gone."""
    files = Repository(published).files("mlp", 1)
    runner = load_version(files, "float32")
    directory = tmp_path / "capture"
    segment = directory / "20261128T000000.000000Z-1"
    segment.mkdir(parents=True)
    found = []
    for digit, pixels in enumerate(clear_digits):
        picture = encode(pixels)
        inputs = (pixels[np.newaxis, :, :, np.newaxis] / 255).astype(np.float32)
        inputs = inputs * np.float32(255 * runner.contract.scale[0])
        [scores] = runner.run(inputs + np.float32(runner.contract.offset[0]))
        name = f"{digit}.png"
        (segment / name).write_bytes(picture)
        found.append(
            Record(
                request_id=f"r{digit}",
                image=0,
                time=float(digit),
                model="mlp",
                version=1,
                contract=runner.contract.hash,
                label="1" if digit == 7 else str(int(scores.argmax())),
                abstained=None,
                scores=tuple(float(one) for one in scores),
                engine_ms=float(digit + 1),
                picture=f"{segment.name}/{name}",
                sha256=hashlib.sha256(picture).hexdigest(),
            )
        )
    (segment / RECORDS_FILE).write_bytes(b"".join(map(line_of, found)))
    (segment / "9.png").unlink()
    store = Store(directory)
    store.add(found, [("mlp", 1, json.dumps(list("0123456789")))])
    for digit in (6, 7):
        store.give(f"r{digit}", 0, str(digit))
    store.close()
    return directory


def _run(capture: Path, published: Path, *words: str) -> int:
    where = ["--models-dir", str(published), "--model", "mlp"]
    return main(["replay", str(capture), *where, *words])


def test_versions_and_formats_are_compared(
    capture: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The captured answers and each format have agreement, difference and accuracy."""
    assert _run(capture, published, "--format", "float32", "int8", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    captured, exact, int8 = found["rows"]

    assert (found["answered_by"], found["missing"]) == ([1], 1)
    assert [row["pictures"] for row in found["rows"]] == [9, 9, 9]
    assert [row["labelled"] for row in found["rows"]] == [2, 2, 2]
    assert (captured["accuracy"], captured["p50_ms"], captured["p99_ms"]) == (0.5, 5, 9)
    assert exact["agreement"] == pytest.approx(8 / 9)
    assert exact["accuracy"] == 1.0
    assert exact["largest_difference"] < 1e-5
    assert int8["version"] == 1
    assert int8["format"] == "int8"
    assert exact["largest_difference"] < int8["largest_difference"] < 0.5


def test_the_table_says_the_same(
    capture: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table has a row for the captured answers, and one for the version."""
    assert _run(capture, published, "--version", "1") == 0
    first, _, head, captured, version = capsys.readouterr().out.splitlines()

    assert first.startswith("9 captured pictures of mlp, answered by version 1; 2 have")
    assert head.split()[0] == "agrees"
    assert captured.split()[-1] == "50.00%"
    assert version.split()[3] == "88.89%"
    assert version.split()[-1] == "100.00%"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--version", "9"], "no version 9"),
        (["--model", "cnn"], "no captured picture of the model cnn"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    capture: Path,
    published: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A version that is not there, or a model without captures, is named."""
    assert _run(capture, published, *words) == 1
    assert message in capsys.readouterr().err


def test_a_directory_without_captures_is_refused(
    tmp_path: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory that is not there is named, with the option that makes one."""
    assert _run(tmp_path / "none", published) == 1
    assert "--capture" in capsys.readouterr().err
