# SPDX-License-Identifier: Apache-2.0
"""The bounds of several processes that write captures into one directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from inkling_serving.capture.space import NoSpace, Space

_MIB = 1024**2


def _space(directory: Path) -> Space:
    return Space(directory, 16 * _MIB, max_age_s=1000.0, processes=1)


def test_a_segment_that_is_written_stays(tmp_path: Path) -> None:
    """Segments count whole while they are written, and the fifth finds no room."""
    space = _space(tmp_path)
    written = [space.segment()[0] for _ in range(4)]
    with pytest.raises(NoSpace):
        space.segment()
    written[1].close()

    fifth, removed = space.segment()
    assert removed == []  # a closed one takes what it has, and not what it may have
    assert (tmp_path / written[1].name).is_dir()
    for one in (*written, fifth):
        one.close()


def test_the_oldest_segment_makes_room(tmp_path: Path) -> None:
    """Of closed segments that fill the bound, the first one goes, and no stranger."""
    stranger = tmp_path / "notes"
    stranger.mkdir()
    space, closed = _space(tmp_path), []
    for _ in range(4):
        segment, removed = space.segment()
        assert removed == []
        (tmp_path / segment.name / "picture.png").write_bytes(bytes(4 * _MIB - 8192))
        segment.close()
        closed.append(segment.name)
    segment, removed = space.segment()
    segment.close()

    assert removed == closed[:1]
    assert stranger.is_dir()
    assert not (tmp_path / closed[0]).exists()


def test_a_segment_without_records_is_removed(tmp_path: Path) -> None:
    """The directory of a process that died before its first file goes by its age."""
    space = _space(tmp_path)
    segment, _ = space.segment()
    segment.close()
    (tmp_path / segment.name / "records.ndjson").unlink()

    assert space.tidy() == []
    assert Space(tmp_path, 16 * _MIB, max_age_s=-1.0, processes=1).tidy() == [
        segment.name
    ]
