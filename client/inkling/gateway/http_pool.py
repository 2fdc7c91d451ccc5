"""HTTP connections that are kept, and whose every step ends by the call's deadline."""

from __future__ import annotations

import http.client
import io
import os
import selectors
import socket
import ssl
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import Any
from urllib.parse import SplitResult

__all__ = ["ConnectionPool", "TimedConnection"]

# Idle connections that are kept, so that so many threads do not connect anew.
_MAX_IDLE = 16
# The default selector would need a file descriptor of its own.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class TimedConnection(http.client.HTTPConnection):
    """An HTTP connection whose steps together end by `deadline_s`.

    Attributes:
        deadline_s: When the call under way has to be over, by `time.monotonic`.
        is_kept: Whether it has answered a call before.
        generation: The pool's when it was taken.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(host, port)
        # The Host header names no port where it is the usual one.
        self.default_port = http.client.HTTPS_PORT if tls else http.client.HTTP_PORT
        self.deadline_s = 0.0
        self.is_kept = False
        self.generation = 0
        self._tls = tls

    def connect(self) -> None:
        """Connect to the first address of the host that answers."""
        sock = _connected(self.host, self.port, self.deadline_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            sock.settimeout(_left_s(self.deadline_s))
            sock = self._tls.wrap_socket(sock, server_hostname=self.host)
        self.sock = _TimedSocket(sock, self)

    def has_input(self) -> bool:
        """Whether the server has sent something, or has closed the connection."""
        with _Selector() as selector:
            selector.register(self.sock, selectors.EVENT_READ)
            return bool(selector.select(0))

    def interrupt(self) -> None:
        """End a call for which another thread waits on this connection."""
        sock: Any = self.sock
        if sock is not None:
            with suppress(OSError):  # that thread has closed it meanwhile
                sock.shutdown()


class _TimedSocket:
    """A socket as `http.client` uses it, with one deadline for all its operations."""

    def __init__(self, sock: socket.socket, owner: TimedConnection) -> None:
        self._sock, self._owner = sock, owner
        self.fileno = sock.fileno

    def sendall(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            self._sock.settimeout(_left_s(self._owner.deadline_s))
            left = left[self._sock.send(left) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._owner))

    def shutdown(self) -> None:
        # TLS's own shutdown would end the decryption for the thread that reads.
        socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()


class _TimedReader(io.RawIOBase):
    """The reading side of such a socket.

    It reads an answer that arrived in time, even if its caller reads it late, or after
    the socket was closed.
    """

    def __init__(self, sock: socket.socket, owner: TimedConnection) -> None:
        self._sock, self._owner = sock, owner
        self._file = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(max(self._owner.deadline_s - monotonic(), 0.0))
        try:
            count = self._file.readinto(buffer)
        except ssl.SSLWantReadError:
            count = None
        if count is None:
            raise TimeoutError
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class ConnectionPool:
    """Connections to one server, for all threads of this process."""

    def __init__(self, url: SplitResult, tls: ssl.SSLContext | None) -> None:
        """Take the server's address, and what encrypts the connections to it."""
        self._host, self._tls = url.hostname or "", tls
        usual = http.client.HTTPS_PORT if tls else http.client.HTTP_PORT
        self._port = url.port or usual
        self._process = os.getpid()
        # Threads share both, by operations that the interpreter does not interrupt.
        self._idle: deque[TimedConnection] = deque()
        self._busy: set[TimedConnection] = set()
        # Counts the calls of `close`.
        self.generation = 0

    def take(self, deadline_s: float, *, fresh: bool = False) -> TimedConnection:
        """Return a connection for one call: a kept one, or one that is not open yet."""
        self._leave_parents()
        connection = None if fresh else self._kept()
        if connection is None:
            connection = TimedConnection(self._host, self._port, self._tls)
        connection.deadline_s, connection.generation = deadline_s, self.generation
        self._busy.add(connection)
        return connection

    def give_back(self, connection: TimedConnection, *, reusable: bool) -> None:
        """Keep a connection whose call is over, if it can be used again."""
        is_ours = connection in self._busy
        self._busy.discard(connection)
        if reusable and is_ours and len(self._idle) < _MAX_IDLE:
            connection.is_kept = True
            self._idle.append(connection)
            if connection.generation != self.generation:
                self._close_idle()  # `close` came in between, and did not see it
        else:
            connection.close()

    def close(self) -> None:
        """Close the connections, and interrupt the calls under way."""
        self._leave_parents()
        self.generation += 1
        busy, self._busy = self._busy, set()
        # Another thread may still add to the set that it has looked up.
        for connection in list(busy):
            connection.interrupt()
        self._close_idle()

    def _kept(self) -> TimedConnection | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if not connection.has_input():
                return connection
            connection.close()

    def _leave_parents(self) -> None:
        """Close our copies of the connections of the process that forked this one."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._busy = set()
            self._close_idle()

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, deque()
        with suppress(IndexError):  # other threads take from it meanwhile
            while True:
                idle.pop().close()


def _connected(host: str, port: int, deadline_s: float) -> socket.socket:
    """Return a socket that is connected to one of a host's addresses.

    Raises:
        OSError: The error of the last address, if none could be connected to.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure = OSError("no address")
    for place, (family, kind, protocol, _, address) in enumerate(addresses):
        # An address that does not answer leaves time for the others.
        timeout_s = _left_s(deadline_s) / (len(addresses) - place)
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout_s)
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
