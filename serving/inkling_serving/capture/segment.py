# SPDX-License-Identifier: Apache-2.0
"""A segment of captures that this process writes, and holds by a lock meanwhile."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from inkling.capture.records import RECORDS_FILE, Record, line_of
from inkling.image.formats.catalogue import format_of

__all__ = ["Segment", "disk_bytes", "held_by_nobody"]

# File systems give a file whole blocks, most of them of this size.
_BLOCK = 4096
# A record of a model with a thousand labels has at most about so many bytes.
_LINE = 16 * 1024


def disk_bytes(size: int) -> int:
    """Return the bytes that a file of a size takes on disk."""
    return -(-size // _BLOCK) * _BLOCK


class Segment:
    """A new directory for pictures, with the file of their records.

    Attributes:
        name: Its name in the directory of the captures.
        bytes: What it takes on disk.
        began: When it was made, from `time.monotonic`.

    Raises:
        OSError: The disk is full or cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.name = f"{now}-{os.getpid()}"
        self._path = directory / self.name
        self._path.mkdir(mode=0o700)
        self._records = os.open(
            self._path / RECORDS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        # The system releases it with the process, however that ends.
        fcntl.flock(self._records, fcntl.LOCK_EX)
        self.bytes = 2 * _BLOCK
        self.began = time.monotonic()
        self._count = 0
        self._is_flushed = True

    def has_room(self, size: int, limit: int) -> bool:
        """Return whether a picture of a size fits in the segment's most bytes."""
        return self.bytes + disk_bytes(size) + _LINE <= limit

    def add(self, picture: bytes, record: Record) -> Record:
        """Write a picture, then its record; return the record with the file's name.

        Raises:
            OSError: The disk is full; the segment takes no more.
        """
        self._count += 1
        kind = format_of(picture)
        suffix = kind.suffixes[0] if kind else ".bin"
        path = self._path / f"{self._count:06d}{suffix}"
        record = replace(record, picture=f"{self.name}/{path.name}")
        text = line_of(record)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        descriptor = os.open(path, flags, 0o600)
        try:
            _write(descriptor, picture)
            _write(self._records, text)
        except OSError:
            with suppress(OSError):
                path.unlink()
            raise
        finally:
            os.close(descriptor)
        self.bytes += disk_bytes(len(picture)) + len(text)
        self._is_flushed = False
        return record

    def flush(self) -> None:
        """Let the records reach the disk.

        Raises:
            OSError: The disk is full or broken.
        """
        if not self._is_flushed:
            os.fdatasync(self._records)
            self._is_flushed = True

    def close(self) -> None:
        """Let others remove the segment."""
        with suppress(OSError):
            os.close(self._records)


def held_by_nobody(path: Path) -> bool:
    """Return whether no process writes the segment at a path any more.

    The caller holds the lock of the directory, so that no segment is just being made.
    """
    try:
        descriptor = os.open(path / RECORDS_FILE, os.O_RDONLY)
    except FileNotFoundError:  # its process died before it made the file
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
