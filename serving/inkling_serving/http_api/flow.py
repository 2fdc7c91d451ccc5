# SPDX-License-Identifier: Apache-2.0
"""uvicorn's flow control of a connection, with limits on both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl

__all__ = ["Flow"]

# A client that does not take an answer for so long is disconnected; at the end, sooner.
_TAKE_TIMEOUT_S, _LAST_TAKE_TIMEOUT_S = 30.0, 2.0


class Flow(FlowControl):
    """Reads no more while too many bytes came early; writes for a limited time.

    Attributes:
        full: Whether too many bytes came early.
        waits: Whether other connections have their turn to read a long body.
        last: Whether the server ends.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        last: bool,
        when_paused: Callable[[], None],
    ) -> None:
        """Create the object; `when_paused` is called when the client has to take."""
        super().__init__(transport)
        self._loop = loop
        self._when_paused = when_paused
        self._take_by: asyncio.TimerHandle | None = None
        self.full, self.waits, self.last = False, False, last

    def read_at_once(self, count: int) -> None:
        """Read at most so many bytes in a turn of the loop; over TLS asyncio decides."""
        if hasattr(self._transport, "max_size"):
            self._transport.max_size = count

    def resume_reading(self) -> None:
        """Read on, unless this has to wait; uvicorn does at each answer."""
        if not (self.full or self.waits):
            super().resume_reading()

    def pause_writing(self) -> None:
        """Limit the time in which the client takes an answer; uvicorn waits forever."""
        super().pause_writing()
        self._when_paused()
        self.limit_taking()

    def resume_writing(self) -> None:
        """Stop the timer."""
        self.stop()
        super().resume_writing()

    def limit_taking(self) -> None:
        """Abort the connection, unless its client takes what was written in time."""
        self.stop()
        within_s = _LAST_TAKE_TIMEOUT_S if self.last else _TAKE_TIMEOUT_S
        self._take_by = self._loop.call_later(within_s, self._transport.abort)

    def stop(self) -> None:
        """Stop the timer; the connection has ended."""
        if self._take_by is not None:
            self._take_by.cancel()
            self._take_by = None
