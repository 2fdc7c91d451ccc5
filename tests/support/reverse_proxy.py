# SPDX-License-Identifier: Apache-2.0
"""A reverse proxy that serves a gateway under a path, as nginx and notebooks do."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Proxy", "proxied"]

_HOP = {"connection", "keep-alive", "transfer-encoding", "date", "server"}


class Proxy(ThreadingHTTPServer):
    """Passes what is asked under a prefix on to a port, without the prefix.

    Attributes:
        elsewhere: The paths that were asked for outside of the prefix.
    """

    def __init__(self, prefix: str, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.prefix, self.port = prefix, port
        self.elsewhere: list[str] = []

    @property
    def url(self) -> str:
        """The proxy's own address, without a path."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        prefix = self.server.prefix
        path = self.path.removeprefix(prefix)
        if self.path.startswith(prefix) and path[:1] in ("", "/", "?"):
            self._answer(path if path.startswith("/") else f"/{path}")
        else:
            self.server.elsewhere.append(self.path)
            self.send_error(404)

    do_POST = do_GET

    def _answer(self, path: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        gateway = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        gateway.request(self.command, path, body or None, headers)
        response = gateway.getresponse()
        content = response.read()
        gateway.close()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""


@contextmanager
def proxied(prefix: str, port: int) -> Iterator[Proxy]:
    """Run a proxy until the block ends."""
    server = Proxy(prefix, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
