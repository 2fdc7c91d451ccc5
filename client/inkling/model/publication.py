# SPDX-License-Identifier: Apache-2.0
"""Writes a new version: into a staging directory that appears by one rename."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from inkling.errors import BrokenVersion, InvalidRequest
from inkling.model.litter import is_litter
from inkling.model.regular_files import sha256
from inkling.model.version_files import MANIFEST_FILE, MANIFEST_FORMAT, VersionFiles

__all__ = ["VERSION", "Publication", "entries", "publication"]

# Leading zeros are refused: `7` and `0007` would be one version under two names.
VERSION = re.compile(r"[1-9][0-9]{0,17}")
_STAGING = ".staging-"
_STAGING_MAX_AGE_S = 3600.0


@dataclass(frozen=True)
class Publication:
    """A version before it appears.

    Attributes:
        model: The model's name.
        path: The staging directory.
        before_commit: Is called when all is written, before the version appears.
    """

    model: str
    path: Path
    before_commit: Callable[[], None]

    def seal(self) -> VersionFiles:
        """Write the manifest and return the files, so that they can be checked.

        Raises:
            BrokenVersion: The directory holds a link or another special file.
        """
        _write_manifest(self.path)
        return VersionFiles(self.model, 0, self.path)

    def commit(self) -> VersionFiles:
        """Make the version appear under the next number, and return its files.

        If two publishers commit at once, the second rename fails, because its target is
        a directory with files; that publisher then takes the number after it.

        Raises:
            BrokenVersion: As `seal`.
            InvalidRequest: The largest version number is in use.
        """
        self.seal()
        _fsync_all(self.path)
        self.before_commit()
        parent = self.path.parent
        while True:
            version = _next_version(parent)
            target = parent / str(version)
            try:
                self.path.rename(target)
            except OSError:
                if not target.exists():
                    raise
                continue
            _fsync(parent)
            return VersionFiles(self.model, version, target)


@contextmanager
def publication(
    model: str, directory: Path, before_commit: Callable[[], None]
) -> Iterator[Publication]:
    """Yield a version that appears in the model's directory once it is committed.

    The publisher holds a lock on its staging directory, which tells it from one that a
    killed publisher has left.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=directory))
    staging.chmod(0o755)
    lock = _lock(staging)
    try:
        yield Publication(model, staging, before_commit)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def entries(directory: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a directory; none if it cannot be read."""
    try:
        with os.scandir(directory) as found:
            return list(found)
    except OSError:
        return []


def _lock(directory: Path) -> int | None:
    """Return a descriptor that locks a directory until it is closed.

    Returns:
        None if another process holds the lock, or if nothing here can be locked.
    """
    try:
        import fcntl  # noqa: PLC0415 - Windows does not have it

        descriptor = os.open(directory, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(directory: Path) -> None:
    """Remove staging that no publisher has locked and that is an hour old.

    The age alone would not do: clocks differ, and a large export may take an hour. The
    lock alone would not do: a publisher makes its directory before it locks it.
    """
    for entry in entries(directory):
        if not entry.name.startswith(_STAGING):
            continue
        with suppress(FileNotFoundError):  # another publisher has renamed it by now
            age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
            if age_s <= _STAGING_MAX_AGE_S:
                continue
        lock = _lock(Path(entry.path))
        if lock is not None:
            shutil.rmtree(entry.path, ignore_errors=True)
            os.close(lock)


def _next_version(directory: Path) -> int:
    """Return the largest number in use plus 1; withdrawn versions (`7.denied`) count.

    A time stamp would not do: if the clock jumped, an old version could get the highest
    number.
    """
    numbers = [0]
    for entry in entries(directory):
        stem = entry.name.partition(".")[0]
        if VERSION.fullmatch(stem):
            numbers.append(int(stem))
    version = max(numbers) + 1
    if not VERSION.fullmatch(str(version)):
        raise InvalidRequest(
            f"Version {version - 1} has the largest possible number; remove or rename "
            "that version."
        )
    return version


def _write_manifest(directory: Path) -> None:
    names = sorted(set(_files(directory)) - {MANIFEST_FILE})
    manifest = {
        "format": MANIFEST_FORMAT,
        "files": {name: sha256(directory / name) for name in names},
    }
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    (directory / MANIFEST_FILE).write_text(text, encoding="utf-8")


def _files(directory: Path) -> Iterator[str]:
    """Yield the relative paths of all files below a directory, with `/` in them.

    Raises:
        BrokenVersion: The directory holds a link, whose target could go, or an entry
            that is neither a file nor a directory, such as a pipe.
    """
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not is_litter(name)]
        kept = [name for name in names if not is_litter(name)]
        for name in [*folders, *kept]:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise BrokenVersion(
                    f"{name} is not a regular file; a version is published from files "
                    "and directories without links. Copy the file instead."
                )
            if name in kept:
                yield path.relative_to(directory).as_posix()


def _fsync_all(directory: Path) -> None:
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            _fsync(Path(folder, name))
        _fsync(Path(folder))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
