"""The head of a call: what its block of headers says (gRPC's PROTOCOL-HTTP2.md)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TypeAlias, cast

import grpc
import hpack

from inkling_serving.http2.frames import ConnectionFault, Fault, StreamFault
from inkling_serving.http2.messages import ENCODINGS, Status

__all__ = ["MAX_LIST_BYTES", "Head", "Heads"]

# What the headers of a call may take, each with 32 bytes for the trouble (RFC 9113,
# section 6.5.2). More is read, so that it can be refused with a status.
MAX_LIST_BYTES = 16 * 1024
_MAX_DECODED_BYTES = 8 * MAX_LIST_BYTES
_ENTRY_BYTES = 32
# Blocks of one connection that are remembered, and how long one may be.
_MAX_KNOWN = 64
_MAX_KNOWN_BYTES = 1024
_NAME = re.compile(rb":?[a-z0-9_.!#$%&'*+^`|~-]+")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Longer than any call, and not more than a timer takes.
_YEAR_S = 365 * 86_400.0
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_NEEDED = frozenset({b":method", b":scheme", b":path"})
# What belongs to a connection of HTTP/1 (RFC 9113, section 8.2.2).
_FORBIDDEN = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding"}
    | {b"upgrade"}
)
_Fields: TypeAlias = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Head:
    """What is asked for, and how.

    Attributes:
        path: The method, as `/package.Service/Method`.
        timeout_s: What the caller allows; None where it waits for ever.
        encoding: How compressed messages are compressed.
        metadata: Headers by name, in Latin-1; the last of a name.
        refusal: Why it is not answered: HTTP's status where this is no gRPC, or gRPC's.
    """

    path: str
    timeout_s: float | None
    encoding: str
    metadata: Mapping[str, str]
    refusal: HTTPStatus | Status | None = None


class Heads:
    """Reads the blocks of one connection, which build on each other (HPACK)."""

    def __init__(self, admit: Callable[[Head], Status | None]) -> None:
        """Take what says which heads are refused, and why.

        A client sends the same block again and again, so each is looked at once;
        `admit` must say the same of a head whenever it is asked.
        """
        self._admit = admit
        self._decoder = hpack.Decoder(max_header_list_size=_MAX_DECODED_BYTES)
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Return the head that a call begins with.

        Raises:
            StreamFault: It breaks HTTP's rules.
            ConnectionFault: It cannot be read, and so no later one can.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        fields, changed = self._decoded(block)
        head = _head(fields)
        if head.refusal is None:
            refusal = self._admit(head)
            if refusal is not None:
                head = _refused(head, refusal)
        if not changed and len(block) <= _MAX_KNOWN_BYTES:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[block] = head
        return head

    def fields(self, block: bytes) -> _Fields:
        """Return the headers in a block.

        Raises:
            ConnectionFault: It cannot be read.
        """
        return self._decoded(block)[0]

    def _decoded(self, block: bytes) -> tuple[_Fields, bool]:
        """Return the headers in a block, and whether it has changed the table."""
        before = self._state()
        try:
            fields = cast("_Fields", self._decoder.decode(block, raw=True))
        except hpack.HPACKError:
            raise ConnectionFault(
                Fault.COMPRESSION_ERROR, "unreadable headers"
            ) from None
        changed = not _same(before, self._state())
        if changed:
            # What the remembered blocks meant, they need not mean from now on.
            self._known.clear()
        return fields, changed

    def _state(self) -> tuple[int, int, object]:
        """Return what differs whenever a block has changed the table.

        Each entry is an object of its own and new ones come first, so a table has
        changed if its first entry is another one, or if entries were dropped.
        """
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return table.maxsize, len(entries), entries[0] if entries else None


def _same(one: tuple[int, int, object], other: tuple[int, int, object]) -> bool:
    return one[:2] == other[:2] and one[2] is other[2]


def _head(fields: _Fields) -> Head:
    found = _checked(fields)
    metadata = {
        name.decode(): value.decode("latin-1")
        for name, value in found.items()
        if name[:1] != b":"
    }
    encoding = metadata.get("grpc-encoding", "identity")
    given = found.get(b"grpc-timeout")
    timeout = _TIMEOUT.fullmatch(given) if given is not None else None
    timeout_s = int(timeout[1]) * _SECONDS[timeout[2]] if timeout else None
    if timeout_s is not None:
        timeout_s = min(timeout_s, _YEAR_S)
    head = Head(found[b":path"].decode("latin-1"), timeout_s, encoding, metadata)
    if found[b":method"] != b"POST":
        return _refused(head, HTTPStatus.METHOD_NOT_ALLOWED)
    if not found.get(b"content-type", b"").startswith(b"application/grpc"):
        return _refused(head, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    size = sum(len(name) + len(value) + _ENTRY_BYTES for name, value in fields)
    if size > MAX_LIST_BYTES:
        words = f"The metadata takes {size:,} bytes; {MAX_LIST_BYTES:,} is the most."
        return _refused(head, Status(grpc.StatusCode.RESOURCE_EXHAUSTED, words))
    if given is not None and timeout is None:
        words = "grpc-timeout is up to 8 digits and one of H, M, S, m, u, n."
        return _refused(head, Status(grpc.StatusCode.INVALID_ARGUMENT, words))
    if encoding not in ENCODINGS:
        words = f"Messages may be compressed as {' or '.join(ENCODINGS)}."
        return _refused(head, Status(grpc.StatusCode.UNIMPLEMENTED, words))
    return head


def _refused(head: Head, refusal: HTTPStatus | Status) -> Head:
    return replace(head, refusal=refusal)


def _checked(fields: _Fields) -> dict[bytes, bytes]:
    """Return the headers by name, if they are as HTTP/2 wants them.

    Raises:
        StreamFault: They are not (RFC 9113, section 8.3).
    """
    found: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        pseudo = name[:1] == b":"
        if pseudo and (regular or name in found or name not in _PSEUDO):
            raise StreamFault(Fault.PROTOCOL_ERROR)
        if name in _FORBIDDEN or not _NAME.fullmatch(name) or _is_bad(value):
            raise StreamFault(Fault.PROTOCOL_ERROR)
        regular = regular or not pseudo
        found[name] = value
    if not found.keys() >= _NEEDED:
        raise StreamFault(Fault.PROTOCOL_ERROR)
    return found


def _is_bad(value: bytes) -> bool:
    return b"\0" in value or b"\r" in value or b"\n" in value
