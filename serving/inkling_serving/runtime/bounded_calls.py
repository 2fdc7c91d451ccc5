# SPDX-License-Identifier: Apache-2.0
"""Calls that may hang, such as reading from a volume that does not answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["BoundedCalls"]

_log = logging.getLogger(__name__)


class BoundedCalls:
    """Makes each call in a thread of its own, and waits for it only so long.

    A call that takes longer is left behind in its thread, which does not hold up the
    end of the process. It is not made again before it has ended. One thread uses this
    object.
    """

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self._under_way: dict[str, _Call] = {}

    def result(self, name: str, call: Callable[[], Any]) -> Any:
        """Return the result of a call; None while it takes longer.

        Args:
            name: What is done, in words; one call of a name is under way at a time.
            call: What to call, unless a call of this name is under way.
        """
        found = self._under_way.get(name)
        if found is None:
            found = self._under_way[name] = _Call(name, call)
            found.thread.join(self.wait_s)
            if found.thread.is_alive():
                _log.warning(
                    "%s takes more than %g s; the rest goes on without it",
                    *(name, self.wait_s),
                )
        if found.thread.is_alive():
            return None
        del self._under_way[name]
        return found.result()

    @property
    def are_under_way(self) -> bool:
        """Whether any call has not returned yet."""
        return bool(self._under_way)


class _Call:
    """A call in a thread of its own."""

    def __init__(self, name: str, call: Callable[[], Any]) -> None:
        self._call = call
        self._result: Any = None
        self._error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def result(self) -> Any:
        """Return the result of a call that has ended, or raise its error."""
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._call()
        except Exception as error:  # noqa: BLE001 - `result` raises it
            self._error = error
