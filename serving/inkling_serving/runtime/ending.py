# SPDX-License-Identifier: Apache-2.0
"""The end of a gateway process in two steps: first not ready, then no more requests.

A load balancer notices by the readiness that a process ends, and only some seconds
later sends no more requests to it. Requests of this time are still served.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Ending"]


class Ending:
    """Counts the signals that end a process, and takes the steps when they are due.

    Attributes:
        when_told: Is called at the first signal, on the event loop.
        when_over: Is called when the delay is over, on the event loop.
    """

    def __init__(self, delay_s: float) -> None:
        """Wait `delay_s` between the two steps; a second signal ends the delay."""
        self.when_told: Callable[[], None] = _nothing
        self.when_over: Callable[[], None] = _nothing
        self._delay_s = delay_s
        self._over_at = math.inf

    @property
    def is_over(self) -> bool:
        """Whether the process accepts nothing more."""
        return time.monotonic() >= self._over_at

    def tell(self) -> None:
        """Note a signal; a signal handler may call this."""
        is_first = self._over_at == math.inf
        self._over_at = time.monotonic() + (self._delay_s if is_first else 0.0)

    def take_steps(self) -> None:
        """Take the steps that are due and have not been taken."""
        if self._over_at < math.inf:
            told, self.when_told = self.when_told, _nothing
            told()
        if self.is_over:
            over, self.when_over = self.when_over, _nothing
            over()

    def finish(self) -> None:
        """Take the steps that are left, at once."""
        self._over_at = time.monotonic()
        self.take_steps()


def _nothing() -> None:
    """There is nothing to do."""
