# SPDX-License-Identifier: Apache-2.0
"""Files: descriptors of a process, whether one was replaced, what processes share."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ProcessFiles", "connections_allowed", "state_of"]

_log = logging.getLogger(__name__)
# For models, libraries, the log, probes of the repository, and handshakes.
_SPARE = 128
_PORTS = 2


def connections_allowed(wanted: int) -> int:
    """Raise the limit on open files, and return how many connections a port may have.

    Without a free descriptor, a process accepts nobody, and neither loads a model nor
    answers probes. Many systems start processes with a soft limit of 1,024, which is
    there for programs that use select().
    """
    try:
        import resource  # noqa: PLC0415 - Windows does not have it
    except ModuleNotFoundError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return wanted
    allowed = max(1, (soft - _SPARE) // _PORTS)
    if allowed < wanted:
        _log.warning(
            "the system allows this process %d open files, so each port takes %d "
            "connections instead of %d; raise the limit (ulimit -n)",
            soft,
            allowed,
            wanted,
        )
    return min(wanted, allowed)


def state_of(path: str) -> tuple[int, ...]:
    """Return numbers that change with a file; none without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    # The last changes with the mode, too.
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns)


@dataclass(frozen=True)
class _Told:
    """The JSON that another process has written."""

    pid: int
    content: Any

    @property
    def lives(self) -> bool:
        """Whether the process is still there."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


class ProcessFiles:
    """A JSON file of each process of a gateway, in a folder that they share."""

    def __init__(self, folder: Path | None, kind: str) -> None:
        """Take the folder; None for a process without others.

        Args:
            folder: The folder; it is made, and made again where it was removed.
            kind: What is in the files; it is part of their names.
        """
        self._folder = folder
        self._suffix = f".{kind}"

    @property
    def has_own(self) -> bool:
        """Whether the file of this process is there, or need not be."""
        return self._folder is None or self._own(self._folder).exists()

    def _own(self, folder: Path) -> Path:
        return folder / f"{os.getpid()}{self._suffix}"

    def write(self, content: Any) -> None:
        """Replace the file of this process, by one rename.

        Raises:
            OSError: It cannot be written.
        """
        if self._folder is None:
            return
        path = self._own(self._folder)
        written = path.with_suffix(f".new-{self._suffix[1:]}")
        # Systems clean their directory of temporary files.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        written.write_text(json.dumps(content), encoding="utf-8")
        written.replace(path)

    def others(self) -> Iterator[_Told]:
        """Yield what each other process has written, also those that have ended."""
        if self._folder is None:
            return
        for path in self._folder.glob(f"*{self._suffix}"):
            if path.stem == str(os.getpid()):
                continue
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # it was removed meanwhile
                continue
            yield _Told(int(path.stem), content)
