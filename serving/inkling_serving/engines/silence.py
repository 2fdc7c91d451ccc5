# SPDX-License-Identifier: Apache-2.0
"""Whether a process of the gateway gets no answer from the engine, told to the others.

Each process asks the engine at its own times. Without this, a load balancer would hear
"ready" and "not ready" in turn, by the process that happens to answer its probe.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

__all__ = ["SharedSilence"]

_log = logging.getLogger(__name__)
_SUFFIX = ".silent"
# A process tells it again at each question, at most 2 s apart; one that died, never.
_FORGOTTEN_S = 5.0


class SharedSilence:
    """Tells the other processes through files in a folder that they share."""

    def __init__(self, folder: Path | None) -> None:
        """Take the folder; None for a process without others."""
        self._folder = folder
        self._own = f"{os.getpid()}{_SUFFIX}"

    def tell(self, silent: bool) -> None:
        """Tell whether this process gets no answer; to be told at each question."""
        if self._folder is None:
            return
        path = self._folder / self._own
        try:
            if silent:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.touch()
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("the other processes are not told of the engine: %s", error)

    def is_told(self) -> bool:
        """Return whether another process gets no answer now."""
        if self._folder is None:
            return False
        oldest = time.time() - _FORGOTTEN_S
        return any(
            path.name != self._own and _changed_at(path) > oldest
            for path in self._folder.glob(f"*{_SUFFIX}")
        )


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it was removed meanwhile
        return 0.0
