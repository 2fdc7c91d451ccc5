# SPDX-License-Identifier: Apache-2.0
"""The ports of a gateway: a shared socket for HTTP and a reserved port for gRPC."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from inkling.errors import InvalidRequest

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

__all__ = ["ACCEPTS", "Listener", "Ports", "bound", "reserved"]

_BACKLOG = 2048
# The connections that a slow turn of the event loop accepts; asyncio asks once more.
_SHARE, _SPENT = 32, -1
ACCEPTS = _SHARE + 1
# A turn is slow if it comes so long after the one before; later, there was none.
_SLOW_S, _PAUSE_S = 0.005, 0.5
# A signal to all processes may reach a worker before the supervisor sets `ending`.
_TOLD_S = 0.2
_LOOK_S = 0.01
# The time for handshakes that have begun: the way to the client and back.
_HANDSHAKE_S = 0.2
# From linux/in.h and linux/in6.h: the least time-to-live of a packet for a socket, and
# more of it than the packets of usual systems have.
_IP_MINTTL, _IPV6_MINHOPCOUNT, _FROM_NOWHERE = 21, 73, 255
# After a minute without data, the kernel probes the client three times.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}


class Ports(NamedTuple):
    """The sockets of a gateway's ports.

    Attributes:
        http: A listening socket that all processes share.
        grpc: A bound socket that does not listen. Each process opens another socket on
            the same port, because grpcio does not accept sockets.
    """

    http: socket.socket
    grpc: socket.socket

    @property
    def grpc_address(self) -> tuple[str, int]:
        """The host and the port for gRPC."""
        host, port = self.grpc.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Close both sockets in this process."""
        self.http.close()
        self.grpc.close()


class Listener(socket.socket):
    """A listening socket that loses no connection under load or at the end.

    Attributes:
        ending: Is set when all processes that share the socket end; None if no other
            process shares the socket.
    """

    ending: Event | None = None
    # When the last turn of the loop began that accepted, and what is left of its share.
    _turn_at, _share = 0.0, 0

    def listen(self, backlog: int = _BACKLOG) -> None:
        """Let many connections wait, although asyncio accepts one at a time."""
        super().listen(max(backlog, _BACKLOG))

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; packets of any distance may belong to it.

        asyncio asks again until there is none. A turn of its loop takes one, so that
        the processes share a burst; where turns are slow it takes more, because the
        last connections of the burst would wait for seconds.

        Raises:
            BlockingIOError: No connection waits, or this turn has taken its share.
        """
        if self._share == 0:
            now = time.monotonic()
            pause_s, self._turn_at = now - self._turn_at, now
            self._share = _SHARE if _SLOW_S < pause_s < _PAUSE_S else 1
        elif self._share == _SPENT:
            self._share = 0
            raise BlockingIOError
        self._share = self._share - 1 or _SPENT
        try:
            return self._one()
        except BaseException:
            self._share = 0
            raise

    def _one(self) -> tuple[socket.socket, Any]:
        connection, address = super().accept()
        _set_least_ttl(connection, 0)
        return connection, address

    async def last(self) -> list[socket.socket]:
        """Accept the connections that wait, and stop further ones before the close.

        If only this process ends, the other processes accept the connections. When the
        last listener closes, the kernel resets the connections that wait, perhaps with
        requests in them. The same happens to clients whose handshake is not complete,
        and who may have sent a request already. So this method first stops new
        handshakes, and then gives those that have begun the time to complete. For new
        handshakes the kernel checks how many routers a packet has passed; it does not
        for those that have begun. Clients whose packets are dropped try again, and are
        refused once the socket is closed.
        """
        if self.ending is not None and not await _is_set(self.ending):
            return []
        _set_least_ttl(self, _FROM_NOWHERE)
        await asyncio.sleep(_HANDSHAKE_S)
        return self._accepted()

    def _accepted(self) -> list[socket.socket]:
        found: list[socket.socket] = []
        with suppress(OSError):  # no connection is left
            while True:
                connection, _ = self._one()
                connection.setblocking(False)
                found.append(connection)
        return found


async def _is_set(event: Event) -> bool:
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _TOLD_S
    while not event.is_set() and loop.time() < give_up:
        await asyncio.sleep(_LOOK_S)
    return event.is_set()


def _set_least_ttl(connection: socket.socket, ttl: int) -> None:
    """Drop packets with a smaller time-to-live (RFC 5082); only Linux can."""
    with suppress(OSError):
        # A socket of IPv6 may have clients of both.
        connection.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, ttl)
        if connection.family == socket.AF_INET6:
            connection.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, ttl)


def bound(host: str, port: int, flag: str) -> socket.socket:
    """Return a socket that listens on the address, and that other processes may share.

    Raises:
        InvalidRequest: The port is taken, or the address is not this machine's. The
            message names `flag` as the option for another port.
    """
    listener = _socket(host)
    # Connections inherit the option: a client that lost its network sends no FIN.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    try:
        listener.bind((host, port))
        # Two gateways that start at once can both bind; only one of them can listen.
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise _taken(host, port, flag) from None
    listener.set_inheritable(True)
    return listener


def reserved(host: str, port: int, flag: str) -> socket.socket:
    """Return a socket that reserves the address for the listeners of this gateway.

    Raises:
        InvalidRequest: As for `bound`.
    """
    holder = _socket(host)
    try:
        _bind_alone(holder, (host, port))
        # From now on the processes of this gateway, which set SO_REUSEPORT, can bind
        # the address, and another gateway cannot.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        holder.close()
        raise _taken(host, port, flag) from None
    return holder


def _bind_alone(holder: socket.socket, address: tuple[str, int]) -> None:
    """Bind an address that no other socket has, whatever the others' options are."""
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    try:
        holder.bind(address)
    except OSError:
        # Perhaps only earlier connections have it (TIME_WAIT), which SO_REUSEADDR
        # ignores. It also ignores another gateway that does the same at this moment, so
        # it comes second.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(address)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def _socket(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only for sockets with IPPROTO_TCP. With the
    # algorithm, each response on a kept connection waits 40 ms for a delayed ACK.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def _taken(host: str, port: int, flag: str) -> InvalidRequest:
    return InvalidRequest(
        f"Cannot listen on {host} port {port}: the port is taken, or the address is "
        f"not this machine's. Choose another with {flag} or --host."
    )
