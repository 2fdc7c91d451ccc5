# SPDX-License-Identifier: Apache-2.0
"""The HTTP connections of one process: at most so many, and the oldest idle ones go."""

from __future__ import annotations

import logging
import time
from http import HTTPStatus
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from inkling_serving.http_api.flow import Flow
    from inkling_serving.runtime.held_bytes import HeldBytes

__all__ = ["Connection", "Connections"]

_log = logging.getLogger(__name__)
# The connections that may end for a new one, those that wait for less first.
_WAITING = tuple(map(attrgetter, ("idle", "in_head", "flow.write_paused")))
# The connections that a new one looks at: those that have waited longest come first.
_LOOKED_AT = 64
_SAY_EVERY_S = 60.0


class Connection(Protocol):
    """A connection, as far as the others need to know it."""

    transport: asyncio.Transport
    flow: Flow

    @property
    def idle(self) -> bool:
        """Whether no request is under way or arrives."""

    @property
    def in_head(self) -> bool:
        """Whether the head of a request arrives."""

    def refuse(self, status: HTTPStatus) -> None:
        """Refuse what arrives, and close the connection."""


class Connections:
    """All connections of a process, in the order of their last request or response.

    Attributes:
        held: The bytes of requests that the process holds.
        ready: The connections whose request has arrived, and is not answered.
    """

    def __init__(self, limit: int, held: HeldBytes) -> None:
        """Create the object; at most `limit` connections may be open."""
        self.held = held
        self.ready: set[Connection] = set()
        self._limit = limit
        self._open: dict[Connection, None] = {}
        self._said = -_SAY_EVERY_S

    def add(self, connection: Connection) -> None:
        """Add a connection; beyond the limit, close the one that was idle longest.

        A connection whose request has not begun to arrive is idle. Without an idle
        connection, one whose head is late ends, or one whose client is slow to take a
        long answer; without that, the new one is refused.
        """
        self._open[connection] = None
        if len(self._open) <= self._limit:
            return
        self._say()
        oldest = [one for one, _ in zip(self._open, range(_LOOKED_AT), strict=False)]
        for is_waiting in _WAITING:
            for one in oldest:
                if is_waiting(one) and one is not connection:
                    self._open.pop(one)
                    one.transport.abort()
                    return
        self._open.pop(connection)
        connection.refuse(HTTPStatus.SERVICE_UNAVAILABLE)

    def moved(self, connection: Connection) -> None:
        """Note that a request or a response of a connection is complete."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def discard(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self._open.pop(connection, None)
        self.ready.discard(connection)

    def _say(self) -> None:
        if time.monotonic() - self._said > _SAY_EVERY_S:
            self._said = time.monotonic()
            _log.warning(
                "%d HTTP connections are open, as many as --max-connections allows; "
                "idle ones are closed for new ones",
                self._limit,
            )
