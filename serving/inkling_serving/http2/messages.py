"""gRPC's own layer: messages with a length before them, and how a call ends.

All of it as in gRPC's PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from urllib.parse import quote

import grpc

from inkling_serving.http2.frames import literal

__all__ = [
    "ENCODINGS",
    "PREFIX_BYTES",
    "Inbox",
    "Status",
    "metadata_fields",
    "prefixed",
    "whole",
]

PREFIX_BYTES = 5
# Letters in a status message; each takes up to 12 bytes, and a frame has 16 KiB.
_MAX_WORDS = 1100
# What zlib calls them: 15 is its largest window, and 16 more is for gzip's own header.
_WINDOW_BITS = {"deflate": 15, "gzip": 31}
ENCODINGS = ("identity", *_WINDOW_BITS)
# What a status message may have as it is; the rest becomes %XX.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class Status(Exception):
    """The end of a call, other than the good one."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        trailing: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Take gRPC's status, words for people, and metadata in ASCII."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.trailing = tuple(trailing)

    def fields(self) -> bytes:
        """Return the trailers, for HPACK; they fit into one frame."""
        words = self.message[:_MAX_WORDS]
        return (
            literal(b"grpc-status", b"%d" % self.code.value[0])
            + literal(b"grpc-message", quote(words, safe=_PLAIN).encode())
            + metadata_fields(self.trailing)
        )


def metadata_fields(pairs: Sequence[tuple[str, str]]) -> bytes:
    """Return metadata, for HPACK."""
    return b"".join(literal(name.encode(), value.encode()) for name, value in pairs)


def prefixed(message: bytes) -> bytes:
    """Return a message with its length before it, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def whole(data: bytes, max_bytes: int) -> bytes | None:
    """Return the message, if these bytes are exactly one that is not compressed."""
    size = len(data) - PREFIX_BYTES
    if not 0 <= size <= max_bytes or data[0]:
        return None
    if int.from_bytes(data[1:PREFIX_BYTES], "big") != size:
        return None
    return data[PREFIX_BYTES:]


class Inbox:
    """Puts the messages of one call together, each bounded in size."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        """Take what compressed messages are in, and how long one may be unpacked."""
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Return the bytes of a message that is not whole yet."""
        return len(self._buffer)

    def put(self, data: bytes) -> list[bytes]:
        """Take what came; return the messages that are whole now.

        Raises:
            Status: One is too long, or not what its first byte says.
        """
        self._buffer += data
        found = []
        while len(self._buffer) >= PREFIX_BYTES:
            size = int.from_bytes(self._buffer[1:PREFIX_BYTES], "big")
            if size > self._max_bytes:
                raise self._too_long()
            end = PREFIX_BYTES + size
            if len(self._buffer) < end:
                break
            found.append(self._unpacked(bytes(self._buffer[:end])))
            del self._buffer[:end]
        return found

    def _too_long(self) -> Status:
        return Status(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"A message has more than {self._max_bytes:,} bytes. Send a smaller "
            "picture, or fewer.",
        )

    def _unpacked(self, data: bytes) -> bytes:
        message = data[PREFIX_BYTES:]
        if data[0] == 0:
            return message
        if data[0] != 1 or self._encoding not in _WINDOW_BITS:
            raise Status(
                grpc.StatusCode.INTERNAL,
                "A message is compressed, and nothing says how.",
            )
        packed = zlib.decompressobj(_WINDOW_BITS[self._encoding])
        try:
            unpacked = packed.decompress(message, self._max_bytes + 1)
        except zlib.error:
            unpacked = b""
        if len(unpacked) > self._max_bytes:
            raise self._too_long()
        if not packed.eof:
            raise Status(grpc.StatusCode.INTERNAL, f"A message is no {self._encoding}.")
        return unpacked
