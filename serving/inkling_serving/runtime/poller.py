# SPDX-License-Identifier: Apache-2.0
"""A thread that calls a function repeatedly until it is stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

__all__ = ["Repeating"]

_log = logging.getLogger(__name__)
# A call that takes longer than this is not waited for at the end.
_HANGS_S = 2.0


class Repeating:
    """Calls a function repeatedly, with pauses between, in its own thread."""

    def __init__(
        self, name: str, call: Callable[[], None], pause_s: Callable[[], float]
    ) -> None:
        """Start with a pause; `pause_s` is called before each pause."""
        self._call = call
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and return once it has ended, or if its call hangs."""
        self._stop.set()
        self._thread.join(_HANGS_S)

    def _run(self) -> None:
        has_failed = False
        while not self._stop.wait(self._pause_s()):
            try:
                self._call()
            except Exception:  # noqa: BLE001 - the thread must continue after any error
                if not has_failed:  # a full disk would fill the log, too
                    name = self._thread.name
                    _log.exception("%s failed; it will be tried again and again", name)
                has_failed = True
            else:
                if has_failed:
                    _log.info("%s works again", self._thread.name)
                has_failed = False
