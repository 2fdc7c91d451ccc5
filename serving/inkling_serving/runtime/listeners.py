"""The ports of a gateway: a shared socket for HTTP and a reserved port for gRPC."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from inkling.errors import InvalidRequest

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

__all__ = ["Listener", "Ports", "bound", "reserved"]

_BACKLOG = 2048
# A signal to all processes may reach a worker before the supervisor sets `ending`.
_TOLD_S = 0.2
_LOOK_S = 0.01
# The number of attempts to empty the queue before the socket is closed in any case.
_TRIES = 100
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

    def listen(self, backlog: int = _BACKLOG) -> None:
        """Let many connections wait, although asyncio accepts one at a time."""
        super().listen(max(backlog, _BACKLOG))

    async def last(self) -> list[socket.socket]:
        """Accept the connections that wait, and stop further ones before the close.

        If only this process ends, the other processes accept the connections. When the
        last listener closes, the kernel resets the connections that wait, perhaps with
        requests in them. So this method closes the queue first: with a backlog of 0,
        Linux lets one connection wait and ignores further clients, which try again and
        are then refused. This process makes that one connection itself.
        """
        if self.ending is not None and not await _is_set(self.ending):
            return []
        super().listen(0)
        found = self._accepted()
        for _ in range(_TRIES):
            if self._is_plugged():
                break
            found += self._accepted()
        return found

    def _is_plugged(self) -> bool:
        """Connect to this listener; return whether this connection fills the queue."""
        host, port = self.getsockname()[:2]
        loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        with socket.socket(self.family, socket.SOCK_STREAM) as plug:
            plug.setblocking(False)
            # On the loopback, the handshake is complete when `connect` returns, unless
            # another client's connection fills the queue.
            plug.connect_ex((loopback, port))
            try:
                plug.getpeername()
            except OSError:
                return False
            return True

    def _accepted(self) -> list[socket.socket]:
        found: list[socket.socket] = []
        with suppress(OSError):  # no connection is left
            while True:
                connection, _ = self.accept()
                connection.setblocking(False)
                found.append(connection)
        return found


async def _is_set(event: Event) -> bool:
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _TOLD_S
    while not event.is_set() and loop.time() < give_up:
        await asyncio.sleep(_LOOK_S)
    return event.is_set()


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
        # SO_REUSEADDR lets the bind ignore earlier connections (TIME_WAIT). After that,
        # the options change: another gateway can no longer bind the address, and the
        # processes of this gateway, which set SO_REUSEPORT, can.
        holder.bind((host, port))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        holder.close()
        raise _taken(host, port, flag) from None
    return holder


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
