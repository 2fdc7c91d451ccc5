# SPDX-License-Identifier: Apache-2.0
"""Reads files that others may have replaced by links, pipes or devices.

A link is followed wherever it leads, but only a regular file is opened. So a pipe, a
socket or a device in the place of a file is an error, and reading it never waits.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["NotRegular", "fault", "may_pass", "read", "sha256", "state"]

_CHUNK_BYTES = 1024 * 1024
# Windows has no O_NONBLOCK, and needs O_BINARY.
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
# The attributes of a file that change when its content or its owner is replaced.
_ATTRIBUTES = (
    *("st_mtime_ns", "st_size", "st_ino", "st_dev"),
    *("st_mode", "st_uid", "st_gid"),
)


# The faults of a volume or of this process, which the file does not cause.
_PASSING = tuple(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "ENXIO", "EREMOTEIO"),
        *("EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EINTR"),
    )
    if hasattr(errno, name)
)


class NotRegular(OSError):
    """The path leads to a directory, a pipe, a socket or a device."""


def read(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file, or a link to it.
        max_bytes: The largest size to read; a larger file is an error.

    Raises:
        OSError: The file is missing, too large, not regular, or cannot be read.
        ValueError: No file can have this name.
    """
    with _opened(path) as (file, size):
        if size > max_bytes:
            raise OSError(errno.EFBIG, "the file is too large")
        return file.read(size)


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a regular file; raises as `read`."""
    digest = hashlib.sha256()
    with _opened(path) as (file, size):
        # The size is the bound, because a file may grow while it is read.
        left = size
        while left > 0 and (chunk := file.read(min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def state(path: Path) -> tuple[int, ...]:
    """Return numbers that differ once a file was replaced; empty if it is missing."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    return tuple(getattr(found, name) for name in _ATTRIBUTES)


def fault(path: Path, error: Exception) -> str:
    """Return why a file could not be read, as the end of a sentence about it."""
    if isinstance(error, NotRegular):
        return "is not a regular file; expected a file, or a link to one"
    if isinstance(error, PermissionError):
        return "may not be read by this user; change its permissions"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "is larger than such a file can be"
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "is a link that leads back to itself"
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return "cannot be read"
    if _passes_a_link(path):
        return "is a link to a file that is not there; is its volume mounted?"
    return "is missing"


def may_pass(error: Exception) -> bool:
    """Return whether the same file may be read later, though nobody changes it."""
    return isinstance(error, OSError) and error.errno in _PASSING


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file; yield it with its size in bytes."""
    # To open a device can have an effect, so that it is looked at before.
    _check(os.stat(path))
    with os.fdopen(_descriptor(path), "rb") as file:
        found = os.fstat(file.fileno())
        _check(found)
        yield file, found.st_size


def _descriptor(path: Path) -> int:
    try:
        # Without waiting, should a pipe have taken the place of the file meanwhile.
        return os.open(path, _FLAGS | _NONBLOCK)
    except BlockingIOError:
        # Another process, such as Samba, holds a lease of the file, and gives it back.
        return os.open(path, _FLAGS)


def _check(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotRegular(errno.EINVAL, "not a regular file")


def _passes_a_link(path: Path) -> bool:
    """Return whether the file, or the directory that holds it, is a link."""
    return path.is_symlink() or path.parent.is_symlink()
