# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 frames to and from a gRPC port, with which a client can misbehave (RFC 9113)."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

__all__ = [
    "CONTINUATION",
    "DATA",
    "GOAWAY",
    "HEADERS",
    "INITIAL_WINDOW",
    "PING",
    "PREFACE",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "Connection",
    "Frame",
    "frame",
    "head",
    "literal",
    "message",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
# A flag of DATA and HEADERS, one of HEADERS, and one of SETTINGS and PING.
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
# The number of a setting: bytes of a stream that may be under way to this side.
INITIAL_WINDOW = 4


class Frame(NamedTuple):
    """A frame that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def ends_stream(self) -> bool:
        """Whether its stream has nothing more from the server."""
        ended = self.kind in (DATA, HEADERS) and self.flags & _END_STREAM
        return bool(ended) or self.kind == RST_STREAM


def frame(kind: int, payload: bytes = b"", stream: int = 0, flags: int = 0) -> bytes:
    """Return the bytes of a frame."""
    length = len(payload).to_bytes(3, "big")
    return length + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header field without indexing and without Huffman's code (RFC 7541)."""
    return b"\0" + _integer(len(name)) + name + _integer(len(value)) + value


def _integer(number: int) -> bytes:
    if number < 127:
        return bytes([number])
    out, number = b"\x7f", number - 127
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def head(path: str) -> bytes:
    """Return the header block of a gRPC call."""
    return b"".join(
        literal(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"x"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"grpc-accept-encoding", b"identity, deflate, gzip"),
        )
    )


def message(body: bytes) -> bytes:
    """Return a message as gRPC writes it, uncompressed."""
    return b"\0" + len(body).to_bytes(4, "big") + body


class Connection:
    """A connection to a gRPC port that sends what it is told, and no more.

    Attributes:
        socket: For bytes that are no frames.
        hung_up: Whether `frames` has come to the end of the connection.
    """

    def __init__(self, port: int, settings: Sequence[tuple[int, int]] = ()) -> None:
        """Connect, and send the preface with these settings, by their numbers."""
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.hung_up = False
        self._received = b""
        self._next = 1
        wanted = [n.to_bytes(2, "big") + v.to_bytes(4, "big") for n, v in settings]
        ack = frame(SETTINGS, flags=_ACK)  # of the server's settings, whatever they are
        self.send(PREFACE + frame(SETTINGS, b"".join(wanted)) + ack)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def call(self, path: str, *messages: bytes, end: bool = False) -> int:
        """Begin a call with some whole messages; return the number of its stream."""
        stream, self._next = self._next, self._next + 2
        sent = frame(HEADERS, head(path), stream, _END_HEADERS)
        if messages or end:
            data = b"".join(map(message, messages))
            sent += frame(DATA, data, stream, _END_STREAM if end else 0)
        self.send(sent)
        return stream

    def frames(self, seconds: float) -> Iterator[Frame]:
        """Yield what comes in so many seconds, or until the server hangs up."""
        give_up = time.monotonic() + seconds
        while True:
            while (came := self._taken()) is not None:
                yield came
            left = give_up - time.monotonic()
            if left <= 0:
                return
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(65_536)
            except TimeoutError:
                return
            except ConnectionError:
                data = b""
            finally:
                self.socket.settimeout(10)
            if not data:
                self.hung_up = True
                return
            self._received += data

    def _taken(self) -> Frame | None:
        received = self._received
        end = 9 + int.from_bytes(received[:3], "big")
        if len(received) < max(9, end):
            return None
        self._received = received[end:]
        stream = int.from_bytes(received[5:9], "big")
        return Frame(received[3], received[4], stream, received[9:end])

    def of(self, stream: int, seconds: float = 10) -> Iterator[Frame]:
        """Yield the frames of a stream to its end, which must come in time."""
        for came in self.frames(seconds):
            if came.stream == stream:
                yield came
                if came.ends_stream:
                    return
        raise AssertionError(f"the stream did not end within {seconds:g} s")

    def end_of(self, stream: int, seconds: float = 10) -> float:
        """Return after how many seconds a stream ends."""
        started = time.monotonic()
        list(self.of(stream, seconds))
        return time.monotonic() - started
