# SPDX-License-Identifier: Apache-2.0
"""A small server over plain sockets, for the ways in which servers can be odd."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

Answering = Callable[["Request"], bytes | None]


@dataclass(frozen=True)
class Request:
    """An HTTP request; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class RawServer:
    """Takes connections on the loopback, and has each handled in a thread of its own.

    Attributes:
        handle: What is done with a connection; it is closed afterwards.
        tls: What encrypts the connections, if anything does.
        connections: How many have come.
    """

    handle: Callable[[socket.socket], None]
    tls: ssl.SSLContext | None = None
    family: int = socket.AF_INET
    connections: int = 0
    _listener: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        host = "::1" if self.family == socket.AF_INET6 else "127.0.0.1"
        self._listener = socket.create_server((host, 0), family=self.family)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def url(self) -> str:
        """Its address."""
        host = "[::1]" if self.family == socket.AF_INET6 else "127.0.0.1"
        return f"http{'s' if self.tls else ''}://{host}:{self.port}"

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._handled, args=(sock,), daemon=True).start()

    def _handled(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            if self.tls is not None:
                with self.tls.wrap_socket(sock, server_side=True) as encrypted:
                    self.handle(encrypted)
            else:
                self.handle(sock)


def answering(answer: Answering) -> Callable[[socket.socket], None]:
    """Return a handler that answers each request in turn, until an answer is None."""

    def handle(sock: socket.socket) -> None:
        while request := read_request(sock):
            content = answer(request)
            if content is None:
                return
            sock.sendall(content)

    return handle


def read_request(sock: socket.socket) -> Request | None:
    """Read a request whose length is stated; None at the end of the connection."""
    content = b""
    while b"\r\n\r\n" not in content:
        piece = sock.recv(65536)
        if not piece:
            return None
        content += piece
    head, _, body = content.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        body += sock.recv(length - len(body))
    method, path, _ = line.split(" ")
    return Request(method, path, headers, body)


def response(status: int, body: object, *headers: str) -> bytes:
    """Return an answer; a body that is not bytes goes as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content
