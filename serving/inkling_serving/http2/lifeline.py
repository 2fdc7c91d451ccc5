"""A connection as the system sees it: made, full, empty, and ended without loss."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import MutableSet
from typing import Any

from inkling_serving.http2.answering import Answering, Options

__all__ = ["LINGER_S", "Lifeline"]

# How long a client may take to agree that this is the end.
LINGER_S = 1.0
_GREETING_TIMEOUT_S = 5.0
# A client that takes nothing for so long is gone.
_STUCK_TIMEOUT_S = 30.0


class Lifeline(asyncio.Protocol):
    """What is common to connections, whatever is said on them."""

    def __init__(self, options: Options, connections: MutableSet[Any]) -> None:
        """Take what is answered, and the set to be in while there is a connection."""
        self._options = options
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        # Whether the client has to read first, and whether what it sends is dropped.
        self._paused = self._over = False
        self._timer: asyncio.TimerHandle | None = None

    @abstractmethod
    def _answer(self, data: bytes) -> None:
        """Send frames of a call."""

    @abstractmethod
    def _after_last(self) -> None:
        """Take note that no call is under way."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client's greeting."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._calls = Answering(self._options, self._answer, self._after_last)
        self._connections.add(self)
        self._wait(_GREETING_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop what is done for a client that is gone."""
        self._over = True
        self._connections.discard(self)
        self._calls.cancel_all()
        self._stop_waiting()

    def eof_received(self) -> None:
        """Take it that nobody waits for what is not done; asyncio closes."""
        self._over = True
        self._calls.cancel_all()
        self._wait(_STUCK_TIMEOUT_S)

    def pause_writing(self) -> None:
        """Read no more from a client that does not read, and make it no answers."""
        self._paused = True
        self._calls.sending.pause()
        if not self._over:
            self._transport.pause_reading()
            self._wait(_STUCK_TIMEOUT_S)

    def resume_writing(self) -> None:
        """Go on with a client that has read."""
        self._paused = False
        if not self._over:
            self._stop_waiting()
            # Not now: asyncio is in the middle of writing.
            self._loop.call_soon(self._go_on)

    def abort(self) -> None:
        """End at once."""
        self._transport.abort()

    def _go_on(self) -> None:
        if self._over or self._paused or self._transport.is_closing():
            return
        self._transport.resume_reading()
        self._calls.sending.resume()
        self.data_received(b"")

    def _hang_up(self) -> None:
        """Say no more, and close once the client has, or has had the time to.

        What it still sends is read and dropped: sent to a closed socket, it would take
        the end of the last answer with it.
        """
        self._over = True
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._linger(self._loop.time() + _STUCK_TIMEOUT_S)

    def _linger(self, until_s: float) -> None:
        self._stop_waiting()
        self._timer = self._loop.call_later(LINGER_S, self._has_lingered, until_s)

    def _has_lingered(self, until_s: float) -> None:
        if not self._transport.get_write_buffer_size():
            self._transport.close()
        elif self._loop.time() < until_s:
            self._linger(until_s)
        else:
            self._transport.abort()

    def _drop(self) -> None:
        """Close without a word."""
        self._over = True
        self._transport.close()
        self._wait(_STUCK_TIMEOUT_S)

    def _wait(self, seconds: float) -> None:
        self._stop_waiting()
        self._timer = self._loop.call_later(seconds, self._transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
