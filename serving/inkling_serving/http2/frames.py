"""HTTP/2's frames: what they are called, and how they are written (RFC 9113)."""

from __future__ import annotations

import struct
from enum import IntEnum

__all__ = [
    "ACK",
    "DEFAULT_WINDOW",
    "END_HEADERS",
    "END_STREAM",
    "FRAME_HEAD",
    "MAX_WINDOW",
    "PADDED",
    "PREFACE",
    "PRIORITISED",
    "ConnectionFault",
    "Fault",
    "Kind",
    "Setting",
    "StreamFault",
    "frame",
    "goaway",
    "literal",
    "reset",
    "settings",
    "unpadded",
    "window_update",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Length (its upper 8 bits, then 16), kind, flags, stream: section 4.1.
FRAME_HEAD = struct.Struct(">BHBBI")
END_STREAM = ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
PRIORITISED = 0x20
DEFAULT_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1
_WORD = struct.Struct(">I")
_PAIR = struct.Struct(">HI")


class Kind(IntEnum):
    """What a frame is: section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    """What either side tells the other at the start: section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Fault(IntEnum):
    """Why a stream or a connection ends: section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class StreamFault(Exception):
    """One stream cannot go on."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.name)
        self.fault = fault


class ConnectionFault(Exception):
    """The connection cannot go on; the words are for whoever debugs the client."""

    def __init__(self, fault: Fault, words: str) -> None:
        super().__init__(words)
        self.fault = fault
        self.words = words


def frame(kind: Kind, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame; its payload has at most 2**24 - 1 bytes."""
    size = len(payload)
    return FRAME_HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    pairs = b"".join(_PAIR.pack(name, value) for name, value in values.items())
    return frame(Kind.SETTINGS, 0, 0, pairs)


def reset(stream: int, fault: Fault) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(Kind.RST_STREAM, 0, stream, _WORD.pack(fault))


def goaway(last: int, fault: Fault, words: str = "") -> bytes:
    """Return a GOAWAY frame; streams after `last` were and will not be looked at."""
    payload = _WORD.pack(last) + _WORD.pack(fault) + words.encode()
    return frame(Kind.GOAWAY, 0, 0, payload)


def window_update(stream: int, size: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, _WORD.pack(size))


def unpadded(payload: bytes, flags: int) -> bytes:
    """Return what a frame carries without its padding: section 6.1.

    Raises:
        ConnectionFault: There is more padding than frame.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(Fault.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header as HPACK has it without tables: RFC 7541, section 6.2.2."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    return _integer(len(text)) + text


def _integer(value: int) -> bytes:
    """Return a number with a prefix of seven bits: RFC 7541, section 5.1."""
    if value < 0x7F:
        return bytes([value])
    rest, found = value - 0x7F, [0x7F]
    while rest >= 0x80:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    found.append(rest)
    return bytes(found)
