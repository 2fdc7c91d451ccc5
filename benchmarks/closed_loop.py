"""A small closed-loop HTTP generator: N kept connections, one request each at a time.

Plain sockets and a selector, because a generator that shares two cores with the server
must cost little: about 20 us a request, a tenth of what a server needs for it.
"""

from __future__ import annotations

import selectors
import socket
import time
from dataclasses import dataclass, field

__all__ = ["Result", "http_request", "run"]

_TIMEOUT_S = 30.0


@dataclass
class Result:
    """What one run saw.

    Attributes:
        seconds: How long requests were sent.
        latencies_s: One per answer, in order of arrival.
        failures: Answers with a status other than 200, and connections that broke.
        last_body: The last good answer, to look at.
    """

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failures: int = 0
    last_body: bytes = b""

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, share: float) -> float:
        """Return the latency in milliseconds that `share` of the answers kept under."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def http_request(path: str, body: bytes, content_type: str = "image/png") -> bytes:
    """Return a whole POST request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run(port: int, request: bytes, connections: int, seconds: float) -> Result:
    """Keep `connections` busy with one request for some seconds."""
    result = Result()
    selector = selectors.DefaultSelector()
    clients = [_Client(port, request, result, selector) for _ in range(connections)]
    started = time.perf_counter()
    for client in clients:
        client.send()
    while (now := time.perf_counter()) < started + seconds:
        for key, _ in selector.select(0.5):
            key.data.receive()
    result.seconds = now - started
    for client in clients:
        client.socket.close()
    selector.close()
    return result


class _Client:
    """One connection."""

    def __init__(
        self,
        port: int,
        request: bytes,
        result: Result,
        selector: selectors.BaseSelector,
    ) -> None:
        self.request, self.result = request, result
        self.socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        selector.register(self.socket, selectors.EVENT_READ, self)

    def send(self) -> None:
        """Send the request."""
        self.sent_at = time.perf_counter()
        self.socket.sendall(self.request)

    def receive(self) -> None:
        """Take what came; once it is an answer, note it and send again."""
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionError("The server hung up in the middle of a run.")
        self.received += piece
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.received[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self.received) < end + 4 + length:
            return
        self.result.latencies_s.append(time.perf_counter() - self.sent_at)
        if head.startswith(b"http/1.1 200"):
            self.result.last_body = self.received[end + 4 :]
        else:
            self.result.failures += 1
        self.received = b""
        self.send()
