# SPDX-License-Identifier: Apache-2.0
"""Whether one process gets no answer from the engine is told to the others."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from inkling_serving.engines.silence import SharedSilence

# Another process that tells what the engine does, and ends.
_TELLS = """
import sys
from pathlib import Path
from inkling_serving.engines.silence import SharedSilence
silence = SharedSilence(Path(sys.argv[1]))
for word in sys.argv[2:]:
    silence.tell(word == "silent")
"""


def _other_tells(folder: Path, *words: str) -> None:
    command = [sys.executable, "-c", _TELLS, str(folder), *words]
    subprocess.run(command, check=True, timeout=60)


def test_what_another_process_tells_is_heard(tmp_path: Path) -> None:
    """A process hears of the silence that another one meets, and not of its own."""
    folder = tmp_path / "shared"
    silence = SharedSilence(folder)
    assert not silence.is_told()
    silence.tell(True)
    assert not silence.is_told()
    _other_tells(folder, "silent")

    assert silence.is_told()


def test_an_answer_ends_it(tmp_path: Path) -> None:
    """Once the other process gets answers again, nobody hears of a silence."""
    silence = SharedSilence(tmp_path)
    _other_tells(tmp_path, "silent", "answers")

    assert not silence.is_told()


def test_a_process_that_always_got_answers_writes_nothing(tmp_path: Path) -> None:
    """Each question tells its outcome; a file is there only after a silence."""
    silence = SharedSilence(tmp_path)
    silence.tell(False)
    assert not list(tmp_path.iterdir())
    silence.tell(True)
    [written] = tmp_path.iterdir()
    assert written.name.startswith(f"{os.getpid()}.")
    silence.tell(False)

    assert json.loads(written.read_text()) == {"silent_at": None}


def test_a_process_that_died_is_forgotten(tmp_path: Path) -> None:
    """What was told long ago counts no more."""
    silence = SharedSilence(tmp_path)
    _other_tells(tmp_path, "silent")
    [written] = tmp_path.iterdir()
    written.write_text(json.dumps({"silent_at": time.time() - 60}))

    assert not silence.is_told()


def test_a_single_process_tells_nobody() -> None:
    """Without a folder nothing is written or heard."""
    silence = SharedSilence(None)
    silence.tell(True)

    assert not silence.is_told()


def test_a_folder_that_cannot_be_written_is_a_remark(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The gateway goes on where the others cannot be told, and its log says so."""
    file = tmp_path / "file"
    file.write_text("")
    silence = SharedSilence(file / "folder")
    with caplog.at_level(logging.WARNING):
        silence.tell(True)

    assert "the other processes are not told of the engine" in caplog.text
    assert not silence.is_told()
