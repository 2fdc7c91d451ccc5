# SPDX-License-Identifier: Apache-2.0
"""Whether a process of the gateway gets no answer from the engine, told to the others.

Each process asks the engine at its own times. Without this, a load balancer would hear
"ready" and "not ready" in turn, by the process that happens to answer its probe.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from inkling_serving.runtime.files import ProcessFiles

__all__ = ["SharedSilence"]

_log = logging.getLogger(__name__)
# A process tells it again at each question, at most 2 s apart; one that died, never.
_FORGOTTEN_S = 5.0


class SharedSilence:
    """Tells the other processes through files in a folder that they share."""

    def __init__(self, folder: Path | None) -> None:
        """Take the folder; None for a process without others."""
        self._files = ProcessFiles(folder, "silence")
        self._told = False

    def tell(self, silent: bool) -> None:
        """Tell whether this process gets no answer; to be told at each question."""
        if not silent and not self._told:
            return
        try:
            self._files.write({"silent_at": time.time() if silent else None})
        except OSError as error:
            _log.warning("the other processes are not told of the engine: %s", error)
        else:
            self._told = silent

    def is_told(self) -> bool:
        """Return whether another process gets no answer now."""
        oldest = time.time() - _FORGOTTEN_S
        return any(
            (other.content["silent_at"] or 0.0) > oldest
            for other in self._files.others()
        )
