"""The sockets that a gateway listens on, shared by its processes."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from inkling.errors import InvalidRequest

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

__all__ = ["Listener", "Listeners", "bound"]

_BACKLOG = 2048
# A signal to all processes may reach a worker before the supervisor has said so.
_TOLD_S = 0.2
# Linux's <asm/socket.h>, and a filter in the form of <linux/filter.h>: of what asks for
# a connection (SYN without ACK among the flags in the 14th byte of TCP's header) take 0
# bytes, of all else all.
_SO_ATTACH_FILTER = 26
_DROP_SYN = (
    (0x30, 0, 0, 13),
    (0x54, 0, 0, 0x12),
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFF_FFFF),
)
# For the rest of a handshake to arrive from far away.
_HANDSHAKE_S = 0.1
# After a minute of silence the system asks three times whether the other side is there.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}


class Listeners(NamedTuple):
    """One for each port."""

    http: socket.socket
    grpc: socket.socket

    def close(self) -> None:
        """Close both."""
        self.http.close()
        self.grpc.close()


class Listener(socket.socket):
    """A listening socket that loses no connection on the way in or at the end.

    Attributes:
        ending: Is set when all processes that share it end; None where none does.
    """

    ending: Event | None = None

    def listen(self, backlog: int = _BACKLOG) -> None:
        """Let many connections wait, also where asyncio accepts one at a time."""
        super().listen(max(backlog, _BACKLOG))

    async def last(self) -> list[socket.socket]:
        """Let no more connections come, and accept those that wait.

        Where only this process ends, the others go on to accept them.
        """
        if self.ending is not None and not self.ending.wait(_TOLD_S):
            return []
        self._fall_silent()
        # Whoever has been greeted believes that it is connected.
        await asyncio.sleep(_HANDSHAKE_S)
        found: list[socket.socket] = []
        with suppress(OSError):  # none is left
            while True:
                connection, _ = self.accept()
                connection.setblocking(False)
                found.append(connection)
        return found

    def _fall_silent(self) -> None:
        """Have the system pass over who asks for a connection.

        One that came between the last look at the queue and the end of the listener
        would be reset, perhaps with a request in it. So its client tries again, as when
        a packet is lost, and is then refused.
        """
        if sys.platform != "linux":
            return
        steps = b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN)
        program = ctypes.create_string_buffer(steps)
        pointer = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
        self.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)


def bound(host: str, port: int, flag: str) -> socket.socket:
    """Return a socket that listens on the address, and that other processes may share.

    Raises:
        InvalidRequest: The port is taken, or the address is not this machine's; `flag`
            is how to choose another port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where it is told that this is TCP; with
    # it, every answer on a kept connection waits 40 ms for the client's delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # What is accepted inherits it: a client whose machine is gone never says goodbye.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    try:
        listener.bind((host, port))
        # Two gateways that start at once would both bind; only one can listen.
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise InvalidRequest(
            f"Cannot listen on {host} port {port}: the port is taken, or the address "
            f"is not this machine's. Choose another with {flag} or --host."
        ) from None
    listener.set_inheritable(True)
    return listener
