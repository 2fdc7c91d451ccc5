"""How an answer begins and ends, in frames."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

from inkling_serving.http2 import frames
from inkling_serving.http2.frames import (
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    Fault,
    Kind,
    literal,
)
from inkling_serving.http2.messages import ENCODINGS, Status, metadata_fields

if TYPE_CHECKING:
    from inkling_serving.http2.calls import Call

__all__ = ["end", "good", "head", "plain", "refusal"]

_HEAD = (
    b"\x88"  # :status 200
    + literal(b"content-type", b"application/grpc")
    + literal(b"grpc-accept-encoding", ",".join(ENCODINGS).encode())
)
_GOOD = literal(b"grpc-status", b"0")
# Of the frames around a plain answer, all but the number of the stream.
_HEAD_FRAME = frames.frame(Kind.HEADERS, END_HEADERS, 0, _HEAD)
_GOOD_FRAME = frames.frame(Kind.HEADERS, END_HEADERS | END_STREAM, 0, _GOOD)
_STREAM = slice(FRAME_HEAD.size - 4, FRAME_HEAD.size)
_PLAIN_START = _HEAD_FRAME[: _STREAM.start]
_PLAIN_END = _GOOD_FRAME[: _STREAM.start]
_DATA = bytes([Kind.DATA, 0])


def head(number: int, first: bytes) -> bytes:
    """Return what comes before the messages of an answer.

    Here and below `first` is what HPACK wants at the start of the block, if anything.
    """
    return frames.frame(Kind.HEADERS, END_HEADERS, number, first + _HEAD)


def plain(number: int, message: bytes) -> bytes:
    """Return a whole good answer to a request that has been heard, in one go."""
    stream = number.to_bytes(4, "big")
    data = len(message).to_bytes(3, "big") + _DATA
    return b"".join(
        (_PLAIN_START, stream, _HEAD, data, stream, message, _PLAIN_END, stream, _GOOD)
    )


def good(trailing: Sequence[tuple[str, str]]) -> bytes:
    """Return the trailers of a good answer, for HPACK."""
    return _GOOD + metadata_fields(trailing)


def end(call: Call, first: bytes) -> bytes:
    """Return what comes after the messages of an answer."""
    assert call.last_words is not None
    fields = call.last_words if call.head_sent else _HEAD + call.last_words
    return _end(call.number, first + fields, call.heard_all)


def refusal(
    number: int, why: Status | HTTPStatus, heard_all: bool, first: bytes
) -> bytes:
    """Return an answer that is nothing but its end."""
    if isinstance(why, Status):
        return _end(number, first + _HEAD + why.fields(), heard_all)
    return _end(number, first + literal(b":status", b"%d" % why), heard_all)


def _end(number: int, fields: bytes, heard_all: bool) -> bytes:
    last = frames.frame(Kind.HEADERS, END_HEADERS | END_STREAM, number, fields)
    if not heard_all:
        # The client need not send the rest (RFC 9113, section 8.1).
        last += frames.reset(number, Fault.NO_ERROR)
    return last
