# SPDX-License-Identifier: Apache-2.0
"""The HTTP connections of one process: at most so many, and idle and slow ones go.

Few of them read a long body at a time. A turn of the event loop reads from all that
have sent something, and everybody else waits for it: with 100 bodies under way a turn
took 50 ms of CPU time.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from inkling_serving.client_address import client_of

if TYPE_CHECKING:
    import asyncio

    from inkling_serving.http_api.flow import Flow
    from inkling_serving.runtime.held_bytes import HeldBytes

__all__ = ["LONG_BYTES", "Connection", "Connections", "Turns"]

_log = logging.getLogger(__name__)
# The connections that may end for a new one, those that wait for less first.
_WAITING = tuple(map(attrgetter, ("idle", "in_head", "flow.write_paused")))
_BODY_RATE: Callable[[Connection], float] = attrgetter("flow.body_rate")
# The connections that a new one looks at: those that have waited longest come first.
_LOOKED_AT = 64
_SAY_EVERY_S = 60.0
# A body with more bytes is read in turns; the number of bodies that are read at once,
# and the seconds of a turn.
LONG_BYTES, _AT_ONCE, _TURN_S = 64 * 1024, 8, 0.05


class Connection(Protocol):
    """A connection, as far as the others need to know it."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    flow: Flow

    @property
    def idle(self) -> bool:
        """Whether no request is under way or arrives."""

    @property
    def in_head(self) -> bool:
        """Whether the head of a request arrives."""

    def refuse(self, status: HTTPStatus) -> None:
        """Refuse what arrives, and close the connection."""


class Turns:
    """The connections that read long bodies, and those that wait for their turn."""

    def __init__(self) -> None:
        """Create the object; all calls come from one event loop."""
        self._reading: dict[Connection, None] = {}
        # The next one first.
        self._waiting: dict[Connection, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, connection: Connection) -> None:
        """Let a connection read a long body, as soon as it has its turn.

        A new one comes next, so that a single picture does not wait for many others.
        """
        if connection in self._reading or connection in self._waiting:
            return
        if len(self._reading) < _AT_ONCE:
            self._reading[connection] = None
            return
        self._waiting = {connection: None, **self._waiting}
        _pause(connection)
        if self._timer is None:
            self._timer = connection.loop.call_later(_TURN_S, self._go_on)

    def end(self, connection: Connection) -> None:
        """Note that a body has arrived, or that its connection has ended."""
        if connection in self._waiting:
            del self._waiting[connection]
            _resume(connection)
        elif connection in self._reading:
            del self._reading[connection]
            self._fill()

    def _go_on(self) -> None:
        """Give the turns to others."""
        self._timer = None
        for connection in list(self._reading)[: len(self._waiting)]:
            del self._reading[connection]
            self._waiting[connection] = None
            _pause(connection)
        self._fill()
        if self._waiting:
            last = next(iter(self._waiting))
            self._timer = last.loop.call_later(_TURN_S, self._go_on)

    def _fill(self) -> None:
        while self._waiting and len(self._reading) < _AT_ONCE:
            connection = next(iter(self._waiting))
            del self._waiting[connection]
            self._reading[connection] = None
            _resume(connection)


def _pause(connection: Connection) -> None:
    connection.flow.waits = True
    connection.flow.pause_reading()


def _resume(connection: Connection) -> None:
    connection.flow.waits = False
    connection.flow.resume_reading()


class Connections:
    """All connections of a process, in the order of their last request or response.

    Attributes:
        held: The bytes of requests that the process holds.
        ready: The connections whose request has arrived, and is not answered.
        long: The connections that read long bodies.
    """

    def __init__(
        self, limit: int, held: HeldBytes, limit_of_one: int | None = None
    ) -> None:
        """Create the object.

        Args:
            limit: The most connections that may be open.
            held: The bytes of requests that the process holds.
            limit_of_one: The most connections of one address; None for no such limit.
        """
        self.held = held
        self.ready: set[Connection] = set()
        self.long = Turns()
        self._limit, self._limit_of_one = limit, limit_of_one
        self._open: dict[Connection, None] = {}
        self._of: Counter[str] = Counter()
        self._said = -_SAY_EVERY_S

    def add(self, connection: Connection) -> None:
        """Add a connection; beyond the limit, close the one that was idle longest.

        A connection whose request has not begun to arrive is idle. Without an idle
        connection, one whose head is late ends, or one whose client is slow to take a
        long answer. Then, of the bodies that have been arriving for some time, the
        slowest is refused; without one, the new connection is. Where an address has
        too many connections, one of its own ends.
        """
        self._open[connection] = None
        owner = self.owner(connection)
        self._of[owner] += 1
        most = self._limit_of_one
        if most is not None and self._of[owner] > most:
            self._end_one(connection, (c for c in self._open if self.owner(c) == owner))
        elif len(self._open) > self._limit:
            self._say()
            self._end_one(connection, self._open)

    def owner(self, connection: Connection) -> str:
        """Return the address that has a share of its own; nothing if none has."""
        if self._limit_of_one is None:
            return ""
        peer = connection.transport.get_extra_info("peername")
        return client_of(peer[0]) if peer else ""

    def _end_one(
        self, connection: Connection, candidates: Iterable[Connection]
    ) -> None:
        oldest = list(islice(candidates, _LOOKED_AT))
        for is_waiting in _WAITING:
            for one in oldest:
                if is_waiting(one) and one is not connection:
                    self._forget(one)
                    one.transport.abort()
                    return
        slowest = min(oldest, key=_BODY_RATE)
        if _BODY_RATE(slowest) == math.inf:
            slowest = connection
        self._forget(slowest)
        slowest.refuse(HTTPStatus.SERVICE_UNAVAILABLE)

    def moved(self, connection: Connection) -> None:
        """Note that a request or a response of a connection is complete."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def discard(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self._forget(connection)
        self.ready.discard(connection)
        self.long.end(connection)

    def _forget(self, connection: Connection) -> None:
        if connection in self._open:
            del self._open[connection]
            owner = self.owner(connection)
            self._of[owner] -= 1
            if not self._of[owner]:
                del self._of[owner]

    def _say(self) -> None:
        if time.monotonic() - self._said > _SAY_EVERY_S:
            self._said = time.monotonic()
            _log.warning(
                "%d HTTP connections are open, as many as --max-connections allows; "
                "idle ones are closed for new ones",
                self._limit,
            )
