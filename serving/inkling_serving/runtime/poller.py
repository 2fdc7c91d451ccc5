"""A thread that does one thing again and again until it is told to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

__all__ = ["Repeating"]

_log = logging.getLogger(__name__)


class Repeating:
    """Calls a function with pauses between, in a thread of its own."""

    def __init__(
        self, name: str, call: Callable[[], None], pause_s: Callable[[], float]
    ) -> None:
        """Start; `pause_s` is asked before each pause, the first one included."""
        self._call = call
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return once the thread has ended."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s()):
            try:
                self._call()
            except Exception:  # noqa: BLE001 - the edge of this thread, which must go on
                _log.exception("%s failed; it will try again", self._thread.name)
