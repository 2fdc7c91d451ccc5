# SPDX-License-Identifier: Apache-2.0
"""HTTP connections that are kept, and whose every step ends by the call's deadline."""

from __future__ import annotations

import http.client
import io
import os
import selectors
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from inkling.network.address import Address
from inkling.network.diagnosis import speaks
from inkling.network.proxies import Proxy

__all__ = ["ConnectionPool", "ProxyRefused", "TimedConnection"]

# Idle connections that are kept, so that so many threads do not connect anew.
_MAX_IDLE = 16
_MAX_PROXY_HEAD_BYTES = 16 * 1024
# The default selector would need a file descriptor of its own.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class ProxyRefused(OSError):
    """A proxy does not lead to the server; the message is for the user."""


class TimedConnection(http.client.HTTPConnection):
    """An HTTP connection whose steps together end by `deadline_s`.

    Attributes:
        deadline_s: When the call under way has to be over, by `time.monotonic`.
        is_kept: Whether it has answered a call before.
        generation: The pool's when it was taken.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        proxy: Proxy | None = None,
    ) -> None:
        super().__init__(host, port)
        self._proxy = proxy
        # The Host header names no port where it is the usual one.
        self.default_port = http.client.HTTPS_PORT if tls else http.client.HTTP_PORT
        self.deadline_s = 0.0
        self.is_kept = False
        self.generation = 0
        self._tls = tls
        # The socket while it connects, and whether another thread has ended the call.
        self._opening: socket.socket | None = None
        self._is_interrupted = False

    def connect(self) -> None:
        """Connect to the first address of the host that answers, or to the proxy."""
        next_host, next_port = self.host, self.port
        if self._proxy:
            next_host, next_port = self._proxy.host, self._proxy.port
        sock = self._connected(next_host, next_port)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls and self._proxy:
                self._tunnel_through(sock, self._proxy)
            if self._tls:
                sock.settimeout(_left_s(self.deadline_s))
                secure = self._tls.wrap_socket(
                    sock, server_hostname=self.host, do_handshake_on_connect=False
                )
                sock = secure  # the socket before is empty now
                self._open(secure)
                secure.do_handshake()
        except OSError:
            sock.close()
            raise
        finally:
            self._opening = None
        self.sock = _TimedSocket(sock, self)

    def _connected(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to one of a host's addresses.

        Raises:
            OSError: The error of the last address, if none could be connected to.
        """
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failure = OSError("no address")
        for place, (family, kind, protocol, _, address) in enumerate(addresses):
            # An address that does not answer leaves time for the others.
            timeout_s = _left_s(self.deadline_s) / (len(addresses) - place)
            sock = socket.socket(family, kind, protocol)
            try:
                self._open(sock)
                sock.settimeout(timeout_s)
                sock.connect(address)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise failure

    def _open(self, sock: socket.socket) -> None:
        """Let `interrupt` end what this socket waits for."""
        self._opening = sock
        if self._is_interrupted:
            raise TimeoutError

    def request(  # type: ignore[override]
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> None:
        """Send a request; a proxy gets the whole URL, without TLS (RFC 9112, 3.2.2)."""
        if self._proxy and not self._tls:
            url = f"http://{self._shown}{url}"
            headers = {**headers, **self._proxy.headers}
        super().request(method, url, body, dict(headers))

    @property
    def _shown(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == self.default_port else f"{host}:{self.port}"

    def _tunnel_through(self, sock: socket.socket, proxy: Proxy) -> None:
        """Ask a proxy for a tunnel to the server (RFC 9110, section 9.3.6).

        Raises:
            ProxyRefused: The proxy makes none.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"CONNECT {host}:{self.port} HTTP/1.1", f"Host: {host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in proxy.headers.items()]
        sock.settimeout(_left_s(self.deadline_s))
        sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        head = bytearray()
        # Byte by byte: what follows the head belongs to TLS.
        while not head.endswith(b"\r\n\r\n"):
            sock.settimeout(_left_s(self.deadline_s))
            piece = sock.recv(1)
            if not piece or len(head) > _MAX_PROXY_HEAD_BYTES:
                raise ProxyRefused("the proxy closed the connection")
            head += piece
        status = head.split(b"\r\n", 1)[0].split(b" ")[1:2]
        if status != [b"200"]:
            shown = b" ".join(status).decode("latin-1")
            raise ProxyRefused(f"the proxy answered {shown:.20} and makes no tunnel")

    def has_input(self) -> bool:
        """Whether the server has sent something, or has closed the connection."""
        with _Selector() as selector:
            selector.register(self.sock, selectors.EVENT_READ)
            return bool(selector.select(0))

    def interrupt(self) -> None:
        """End a call for which another thread waits on this connection."""
        self._is_interrupted = True
        opening, sock = self._opening, self.sock
        with suppress(OSError):  # that thread has closed it meanwhile
            if opening is not None:
                socket.socket.shutdown(opening, socket.SHUT_RDWR)
        with suppress(OSError):
            if sock is not None:
                sock.shutdown()  # type: ignore[call-arg] # of our own class


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

    def __init__(
        self, address: Address, tls: ssl.SSLContext | None, proxy: Proxy | None
    ) -> None:
        """Take the server's address, what encrypts the connections, and the proxy."""
        self._address, self._tls, self._proxy = address, tls, proxy
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
            host, port = self._address.host, self._address.port
            connection = TimedConnection(host, port, self._tls, self._proxy)
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

    def diagnosis(self) -> str:
        """Return why the server gives no answer of HTTP; an empty text if unknown."""
        return "" if self._proxy else speaks(self._address, self._tls)

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


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
