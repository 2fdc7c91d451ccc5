# SPDX-License-Identifier: Apache-2.0
"""The bounds of several processes that write captures into one directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from inkling.capture.records import Record
from inkling.capture.store import Store
from inkling_serving.capture.capture import Capture
from inkling_serving.capture.segment import Segment
from inkling_serving.capture.space import NoSpace, Space
from inkling_serving.capture_settings import CaptureOptions
from tests.support.machine import until

_MIB = 1024**2


def _space(directory: Path) -> Space:
    return Space(directory, 16 * _MIB, max_age_s=1000.0, processes=1)


def test_a_segment_that_is_written_stays(tmp_path: Path) -> None:
    """Segments count whole while they are written: the fifth waits until one is closed."""
    space = _space(tmp_path)
    written = [space.segment() for _ in range(4)]
    with pytest.raises(NoSpace):
        space.segment()
    assert all(space.has(one.name) for one in written)
    written[1].close()

    fifth = space.segment()
    assert [space.has(one.name) for one in written] == [True, False, True, True]
    for one in (*written, fifth):
        one.close()


def test_the_oldest_segment_makes_room(tmp_path: Path) -> None:
    """Of closed segments that fill the bound, the first one goes, and no stranger."""
    stranger = tmp_path / "notes"
    stranger.mkdir()
    space, closed = _space(tmp_path), []
    for _ in range(4):
        segment = space.segment()
        (tmp_path / segment.name / "picture.png").write_bytes(bytes(4 * _MIB - 8192))
        segment.close()
        closed.append(segment.name)
    assert all(map(space.has, closed))
    space.segment().close()

    assert [space.has(name) for name in closed] == [False, True, True, True]
    assert stranger.is_dir()


def test_a_segment_without_records_is_removed(tmp_path: Path) -> None:
    """The directory of a process that died before its first file goes by its age."""
    space = _space(tmp_path)
    segment = space.segment()
    segment.close()
    (tmp_path / segment.name / "records.ndjson").unlink()
    space.tidy()
    assert space.has(segment.name)

    Space(tmp_path, 16 * _MIB, max_age_s=-1.0, processes=1).tidy()
    assert not space.has(segment.name)


def test_the_index_forgets_what_is_gone(tmp_path: Path) -> None:
    """Rows of a segment that any process has removed go, and others stay."""
    capture = Capture(
        CaptureOptions(capture=str(tmp_path), capture_max_age_s=10.0), processes=1
    )
    store = Store(tmp_path)
    kept = Segment(tmp_path)
    for name, segment in (("kept", kept.name), ("gone", "20200101T000000.000000Z-1")):
        record = Record(
            *(name, 0, 0.0, "mlp", 1, "", "7", None, (), 0.0),
            *(f"{segment}/1.png", "0"),
        )
        store.add([record], [("mlp", 1, "[]")])
    until(lambda: store.segments() == [kept.name])
    kept.close()
    capture.close()
    store.close()
