# SPDX-License-Identifier: Apache-2.0
"""A closed-loop generator over persistent connections with one open request each.

It uses plain sockets and a selector, because it shares the machine with the server and
must cost little: about 20 us per request, a tenth of the server's cost.
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
    """The result of one run.

    Attributes:
        seconds: Time from the first request to the last answer.
        latencies_s: The latency of each answer, in seconds.
        failures: The number of wrong or missing answers.
    """

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failures: int = 0

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, share: float) -> float:
        """Return the percentile of the latencies in milliseconds; `share` is 0 to 1."""
        ordered = sorted(self.latencies_s)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def http_request(path: str, body: bytes, content_type: str = "image/png") -> bytes:
    """Return a whole POST request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run(
    port: int,
    request: bytes,
    expected: bytes,
    connections: int,
    seconds: float,
) -> Result:
    """Keep connections busy with one request, and close them at the end.

    An answer must say that all went well, and have the bytes `expected` in its body.
    """
    result, started = Result(), time.perf_counter()
    end = started + seconds
    with selectors.DefaultSelector() as selector:
        clients = [
            _Client(port, request, expected, result, selector)
            for _ in range(connections)
        ]
        for client in clients:
            client.send()
        waiting = len(clients)
        while waiting and time.perf_counter() < end + _TIMEOUT_S:
            answered = [key.data for key, _ in selector.select(0.5) if key.data.take()]
            if time.perf_counter() < end:
                for client in answered:
                    client.send()
            else:
                waiting -= len(answered)
        result.seconds = time.perf_counter() - started
        for client in clients:
            client.socket.close()
    result.failures += waiting
    return result


class _Client:
    """One connection."""

    def __init__(
        self,
        port: int,
        request: bytes,
        expected: bytes,
        result: Result,
        selector: selectors.BaseSelector,
    ) -> None:
        self._port, self._request, self._expected = port, request, expected
        self._result, self._selector = result, selector
        self._received = b""
        self._connect()

    def send(self) -> None:
        """Send the request."""
        self._sent_at = time.perf_counter()
        self.socket.sendall(self._request)

    def take(self) -> bool:
        """Receive bytes; return True and store the result of a complete answer."""
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionError("The server closed the connection inside an answer.")
        self._received += piece
        good = self._whole()
        if good is None:
            return False
        self._result.latencies_s.append(time.perf_counter() - self._sent_at)
        self._result.failures += not good
        return True

    def _whole(self) -> bool | None:
        """Return whether the answer is right; None if it is incomplete."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self._received[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._received) < end + 4 + length:
            return None
        good = b" 200 " in head[:16] and self._expected in self._received
        self._received = b""
        if b"\r\nconnection: close" in head:
            self._selector.unregister(self.socket)
            self.socket.close()
            self._connect()
        return good

    def _connect(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self._port), _TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(self.socket, selectors.EVENT_READ, self)
