"""The closed-loop generator over gRPC, with frames that are made in advance.

It sends the same frames as grpc's clients, except their bandwidth probes: the first
call has a full head, and the next calls refer to the header table. grpc's own client
(`grpc_loop`) takes longer for a call than the server, so it limits the rate.
"""

from __future__ import annotations

import time

import hpack

from benchmarks.closed_loop import Client
from inkling_serving.http2 import frames
from inkling_serving.http2.frames import ACK, END_HEADERS, END_STREAM, Kind
from inkling_serving.http2.messages import PREFIX_BYTES, prefixed

__all__ = ["METHOD", "GrpcClient"]

METHOD = "/inkling.v1.Classifier/Classify"
_HEAD = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", METHOD),
    (":authority", "127.0.0.1"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("user-agent", "inkling-benchmark"),
]
_encoder = hpack.Encoder()
_FIRST, _LATER = _encoder.encode(_HEAD), _encoder.encode(_HEAD)
_GRANT = 32_768


class GrpcClient(Client):
    """One gRPC connection; its request is an encoded message."""

    def send(self) -> None:
        """Send the request as the next call."""
        block = _FIRST if self._stream < 0 else _LATER
        self._stream += 2
        head = frames.frame(Kind.HEADERS, END_HEADERS, self._stream, block)
        data = prefixed(self._request)
        body = frames.frame(Kind.DATA, END_STREAM, self._stream, data)
        self._sent_at = time.perf_counter()
        self.socket.sendall(head + body)

    def _connect(self) -> None:
        super()._connect()
        self._stream, self._data, self._taken = -1, b"", 0
        self.socket.sendall(frames.PREFACE + frames.settings({}))

    def _whole(self) -> bool | None:
        ended, at = False, 0
        while (start := at + frames.FRAME_HEAD.size) <= len(self._received):
            high, low, kind, flags, _ = frames.FRAME_HEAD.unpack_from(
                self._received, at
            )
            end = start + (high << 16) + low
            if end > len(self._received):
                break
            ended |= self._take(kind, flags, self._received[start:end])
            at = end
        self._received = self._received[at:]
        if not ended:
            return None
        answer, self._data = self._data[PREFIX_BYTES:], b""
        # An error comes without a message.
        return bool(answer) and self._expected in answer

    def _take(self, kind: int, flags: int, payload: bytes) -> bool:
        """Process a frame; return whether it ends the call."""
        if kind == Kind.DATA:
            self._data += payload
            self._taken += len(payload)
            if self._taken > _GRANT:
                self.socket.sendall(frames.window_update(0, self._taken))
                self._taken = 0
        elif kind in (Kind.SETTINGS, Kind.PING) and not flags & ACK:
            same = payload if kind == Kind.PING else b""
            self.socket.sendall(frames.frame(Kind(kind), ACK, 0, same))
        elif kind in (Kind.GOAWAY, Kind.RST_STREAM):
            raise ConnectionError("The server ended the call.")
        return kind in (Kind.HEADERS, Kind.DATA) and bool(flags & END_STREAM)
