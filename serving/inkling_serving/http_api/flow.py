# SPDX-License-Identifier: Apache-2.0
"""uvicorn's flow control of a connection, with limits on both directions.

It also tells how fast a body arrives: where connections are short, the slowest ends.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl

__all__ = ["Flow"]

# A client that does not take an answer for so long is disconnected; at the end, sooner.
_TAKE_TIMEOUT_S, _LAST_TAKE_TIMEOUT_S = 30.0, 2.0
# A body that arrives for less time does not end for another connection.
_FRESH_S = 1.0
# The most bytes that are read from a connection in one turn of the loop. asyncio reads
# 256 KiB: with 150 connections that send fast, a turn took 0.1 s. Of the bodies of at
# least the second length, few are read at once, so these are read as asyncio does.
_READ_BYTES, _LONG_READ_BYTES = 64 * 1024, 256 * 1024


class Flow(FlowControl):
    """Reads no more while too many bytes came early; writes for a limited time.

    Attributes:
        full: Whether too many bytes came early.
        waits: Whether other connections have their turn to read a long body.
        last: Whether the server ends.
        body_bytes: The bytes of the body that have arrived.
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
        self._body_since, self.body_bytes = math.inf, 0
        self._read_at_once(_READ_BYTES)

    def begin_body(self, length: int) -> None:
        """Note that a body begins to arrive; its length is 0 if it is not known."""
        self._body_since, self.body_bytes = self._loop.time(), 0
        if length >= _LONG_READ_BYTES:
            self._read_at_once(_LONG_READ_BYTES)

    def end_body(self) -> None:
        """Note that the body has arrived."""
        self._body_since = math.inf
        self._read_at_once(_READ_BYTES)

    def _read_at_once(self, count: int) -> None:
        if hasattr(self._transport, "max_size"):  # not over TLS
            self._transport.max_size = count

    @property
    def body_rate(self) -> float:
        """The bytes per second of a body that arrives; infinite without or at first."""
        took_s = self._loop.time() - self._body_since
        return self.body_bytes / took_s if took_s >= _FRESH_S else math.inf

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
