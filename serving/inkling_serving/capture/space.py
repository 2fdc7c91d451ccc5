# SPDX-License-Identifier: Apache-2.0
"""The bounds of the captures on disk: all their bytes, and their age.

A process reserves the bytes of a whole segment before it writes one. Closed segments
are removed, the oldest first, until the reservation fits. Only the threads that write
captures wait for the lock of the directory.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from inkling.capture.records import RECORDS_FILE
from inkling.capture.store import STORE_FILE
from inkling_serving.capture.segment import Segment, disk_bytes, held_by_nobody

__all__ = ["NoSpace", "Space"]

_LOCK = ".lock"
_SEGMENT = re.compile(r"\d{8}T\d{6}\.\d{6}Z-\d+")
# Of four segments of a process, one is being written, and three can be read.
_SEGMENTS = 4
_MOST_BYTES = 64 * 1024**2
# So many segments have passed before the oldest picture is as old as it may be.
_AGES = 10


class NoSpace(Exception):
    """The bound on bytes leaves no room for a segment, because others write theirs."""


class Space:
    """The directory of the captures, with its bounds.

    Attributes:
        segment_bytes: The most bytes of a segment.
        segment_s: The seconds after which a segment takes no more.
    """

    def __init__(
        self, directory: Path, max_bytes: int, max_age_s: float, processes: int
    ) -> None:
        """Take the bounds.

        Args:
            directory: The directory of the captures, which exists.
            max_bytes: The most bytes of all captures.
            max_age_s: The seconds after which a capture is removed.
            processes: The number of processes that write captures.
        """
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self.segment_bytes = min(max_bytes // (_SEGMENTS * processes), _MOST_BYTES)
        self.segment_s = max_age_s / _AGES

    def segment(self) -> Segment:
        """Return a new segment, for which the oldest ones may be removed.

        Raises:
            NoSpace: Other processes write too many segments.
            OSError: The disk is full or cannot be written.
        """
        with self._locked():
            self._remove(reserved=self.segment_bytes)
            return Segment(self._directory)

    def tidy(self) -> None:
        """Remove what is too old.

        Raises:
            OSError: The directory cannot be written.
        """
        with self._locked(), suppress(NoSpace):
            self._remove(reserved=0)

    def has(self, segment: str) -> bool:
        """Return whether a segment is there."""
        return (self._directory / segment).is_dir()

    def _remove(self, reserved: int) -> None:
        closed, taken = [], reserved + self._store_bytes()
        for path in sorted(self._directory.iterdir()):
            if not _SEGMENT.fullmatch(path.name):
                continue
            if held_by_nobody(path):
                closed.append(path)
                taken += _bytes_of(path)
            else:
                taken += self.segment_bytes
        oldest = time.time() - self._max_age_s
        for path in closed:
            if taken <= self._max_bytes and _last_change(path) >= oldest:
                continue
            taken -= _bytes_of(path)
            shutil.rmtree(path)
        if taken > self._max_bytes:
            raise NoSpace

    def _store_bytes(self) -> int:
        found = self._directory.glob(STORE_FILE + "*")
        return sum(disk_bytes(path.stat().st_size) for path in found)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._directory / _LOCK
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _bytes_of(segment: Path) -> int:
    with os.scandir(segment) as files:
        return disk_bytes(1) + sum(disk_bytes(one.stat().st_size) for one in files)


def _last_change(segment: Path) -> float:
    for path in (segment / RECORDS_FILE, segment):
        with suppress(FileNotFoundError):
            return path.stat().st_mtime
    return 0.0
