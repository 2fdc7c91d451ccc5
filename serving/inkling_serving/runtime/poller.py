"""A thread that calls a function again and again until it is told to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

__all__ = ["Repeating"]

_log = logging.getLogger(__name__)


class Repeating:
    """Calls a function in a thread of its own, with pauses between the calls."""

    def __init__(
        self, name: str, call: Callable[[], None], pause_s: Callable[[], float]
    ) -> None:
        """Start the thread, which pauses first.

        Args:
            name: What the function does, for the log.
            call: The function; an error that it raises is logged.
            pause_s: Returns the seconds to wait; asked before each pause.
        """
        self._call = call
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and return once a call under way has ended."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s()):
            try:
                self._call()
            except Exception:  # noqa: BLE001 - the edge of this thread, which must go on
                _log.exception("%s failed and is tried again", self._thread.name)
