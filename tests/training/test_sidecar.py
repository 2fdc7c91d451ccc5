# SPDX-License-Identifier: Apache-2.0
"""When the side-car retrains, what it finishes, and that it is alone; no training here."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inkling.capture.records import Record
from inkling.capture.store import Labelled, Store
from inkling.cli.main import main
from inkling.contract import Contract
from inkling.model.repository import Repository
from inkling_training.data.datasets import Dataset, Split
from inkling_training.sidecar.watch import due, published_by, unfinished


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The store of a directory of captures, without any."""
    opened = Store(tmp_path)
    yield opened
    opened.close()


def _fed(store: Store, *names: str, age_s: float = 0.0) -> None:
    """Capture pictures and give feedback on them, so long ago."""
    record = Record(
        request_id="",
        image=0,
        time=0.0,
        model="mlp",
        version=1,
        contract="",
        label="1",
        abstained=None,
        scores=(1.0,),
        engine_ms=0.1,
        picture="segment/1.png",
        sha256="0",
    )
    labels = [("mlp", 1, '["1", "7"]')]
    store.add([replace(record, request_id=name) for name in names], labels)
    for name in names:
        store.give(name, 0, "7")
    with store._transaction() as connection:
        connection.executemany(
            "UPDATE feedback SET time = ? WHERE request_id = ?",
            [(time.time() - age_s, name) for name in names],
        )


def _options(**options: Any) -> argparse.Namespace:
    given = {"after_feedback": 3, "after_s": 1e6, "dataset": "digits", "data_dir": None}
    return argparse.Namespace(**{"name": "mlp", **given, **options})


def test_enough_feedback_is_due(store: Store) -> None:
    """The third picture makes a retraining due, and the same pictures none again."""
    _fed(store, "a", "b")
    assert due(store, _options()) is None
    _fed(store, "c")
    found = due(store, _options())
    assert found is not None
    assert found.reason == "3 new pictures with feedback, 0 in the data folder"
    assert found.pictures == 3
    assert unfinished(store, "mlp") == found
    store.end_retraining(found.id, None, "failed")

    assert unfinished(store, "mlp") is None
    assert due(store, _options()) is None
    assert due(store, _options(name="cnn")) is None


def test_old_feedback_is_due(store: Store) -> None:
    """One picture is enough once its feedback is old, and not before."""
    _fed(store, "a", age_s=100.0)

    assert due(store, _options(after_s=1000.0)) is None
    found = due(store, _options(after_s=50.0))
    assert found is not None
    assert "s old" in found.reason


def test_new_pictures_in_the_data_folder_are_due(store: Store, tmp_path: Path) -> None:
    """After a first retraining, pictures that came into the folder since then count."""
    data = tmp_path / "data" / "7"
    data.mkdir(parents=True)
    options = _options(dataset="folder", data_dir=tmp_path / "data", after_feedback=2)
    (data / "before.png").touch()
    assert due(store, options) is None
    first = store.begin_retraining("mlp", "first", time.time(), 0)
    store.end_retraining(first.id, 2, "published")
    later = time.time() + 60
    for name in ("1.png", "2.jpg", "notes.txt"):
        (data / name).touch()
        os.utime(data / name, (later, later))

    found = due(store, options)
    assert found is not None
    assert found.reason == "0 new pictures with feedback, 2 in the data folder"


def test_a_published_version_is_found_again(store: Store, published: Path) -> None:
    """A version whose card names another retraining, or none, is not taken for this one's."""
    _fed(store, "a", "b", "c")
    found = due(store, _options())

    assert found is not None
    assert published_by(Repository(published), found) is None


def _sidecar(capture: Path, models: Path) -> int:
    words = ["--model", "mlp", "--models-dir", str(models), "--once"]
    return main(["sidecar", str(capture), *words])


def test_a_sidecar_is_alone(
    store: Store, tmp_path: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second side-car is refused; one that was killed holds no lock."""
    lock = tmp_path / ".sidecar-mlp.lock"
    code = f"import fcntl; f = open({str(lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX)"
    command = [sys.executable, "-c", f"{code}; print(flush=True); input()"]
    holder = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    refused = _sidecar(tmp_path, published)
    holder.kill()
    holder.communicate()

    assert refused == 1
    assert "Another side-car retrains mlp" in capsys.readouterr().err
    assert _sidecar(tmp_path, published) == 0
    assert "no retraining is due" in capsys.readouterr().out
    with lock.open() as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_cannot_be_watched_is_refused(
    tmp_path: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory without captures, and a model that is not published, are named."""
    assert _sidecar(tmp_path, published) == 1
    assert "feedback.sqlite" in capsys.readouterr().err
    Store(tmp_path).close()
    assert _sidecar(tmp_path, tmp_path / "models") == 1
    assert "no published version" in capsys.readouterr().err


def test_feedback_gets_a_share_of_the_training(
    tmp_path: Path,
    digit_contract: Contract,
    clear_digits: list[np.ndarray],
    encode: Callable[..., bytes],
) -> None:
    """Pictures are repeated up to a fifth; those that are gone or damaged are left out."""
    from inkling_training.sidecar.retraining import with_feedback

    split = Split(np.zeros((80, 28, 28), np.uint8), np.zeros(80, np.int64))
    dataset = Dataset("digits", split, split, split, digit_contract)
    labelled = []
    for digit, pixels in enumerate(clear_digits):
        content = encode(pixels)
        (tmp_path / f"{digit}.png").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        label, name = str(digit), f"{digit}.png"
        labelled.append(Labelled(label, 0, 0.0, label, name, sha256))
    gone = Labelled("x", 0, 0.0, "7", "x.png", "0")
    damaged = replace(labelled[0], picture="1.png")
    foreign = replace(labelled[0], label="x")
    found, count = with_feedback(dataset, [*labelled, gone, damaged, foreign], tmp_path)
    validates = sum(int(one.sha256[:8], 16) % 6 == 0 for one in labelled)
    trains = len(labelled) - validates

    assert count == 10
    assert found.test is split
    assert len(found.train) == 80 + trains * round(20 / trains)
    assert len(found.validation) == 80 + validates * (
        round(20 / validates) if validates else 0
    )
    assert found.train.inputs(digit_contract).shape[1:] == (28, 28, 1)
    kept = [one for one in labelled if int(one.sha256[:8], 16) % 6]
    first = int(kept[0].label)
    assert np.array_equal(np.asarray(found.train.pixels)[80], clear_digits[first])
    assert found.train.labels[80] == first
