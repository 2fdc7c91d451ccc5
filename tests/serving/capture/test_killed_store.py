# SPDX-License-Identifier: Apache-2.0
"""Captures and feedback of a process that is killed while it writes both."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from inkling.capture.records import records
from inkling.capture.store import STORE_FILE, Store
from tests.support.machine import until

_MANY = [pytest.param(count, marks=pytest.mark.soak) for count in range(5, 255, 5)]
# It captures without an end, and gives feedback on each picture that is indexed.
_WRITER = """
import sys, threading
import numpy as np
from inkling.contract import Contract, TrainingData
from inkling.errors import UnknownRequest
from inkling_serving.capture.capture import Capture
from inkling_serving.capture_settings import CaptureOptions
from inkling_serving.runtime.timings import Timings

class Version:
    model, version = "mlp", 1
    contract = Contract(height=28, width=28, channels=1, labels=tuple("0123456789"),
        kind="sample", training_data=TrainingData("digits", "sha256:none"))

capture = Capture(CaptureOptions(capture=sys.argv[1], capture_share=1.0), 1)
scores = np.eye(10, dtype=np.float32)[[7]]
number = 0
while True:
    timings = Timings()
    timings.request_id = str(number)
    if capture.note(Version, [(0, b"picture %d" % number)], scores, (), timings):
        number += 1
    try:
        capture.feedback(str(number - 1), 0, "7")
    except UnknownRequest:
        pass
"""


def _lines(directory: Path) -> int:
    return sum(
        path.read_bytes().count(b"\n") for path in directory.glob("*/records.ndjson")
    )


@pytest.mark.parametrize("count", [1, 60, *_MANY])
def test_a_killed_process_leaves_a_whole_store(tmp_path: Path, count: int) -> None:
    """Killed after so many captures, everything that was written can be read and used."""
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)])
    try:
        until(lambda: _lines(tmp_path) >= count or process.poll() is not None)
    finally:
        process.kill()
        process.wait()
    with sqlite3.connect(tmp_path / STORE_FILE) as connection:
        [(verdict,)] = connection.execute("PRAGMA integrity_check")
    connection.close()
    found = list(records(tmp_path))
    store = Store(tmp_path)
    indexed = {one.request_id for one in store.labelled("mlp")}

    assert verdict == "ok"
    assert len(found) >= count
    assert indexed <= {one.request_id for one in found}
    for one in found:
        assert one.content(tmp_path) == f"picture {one.request_id}".encode()
    store.close()
