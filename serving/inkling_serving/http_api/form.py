"""Reads the parts of a form: multipart with Werkzeug's parser, and urlencoded fields.

Werkzeug's parser has no limit on the head of a part and on the text before the first
part, so it gets the body in small pieces, and may keep only a few of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_plus, unquote_to_bytes

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import (
    NEED_DATA,
    Data,
    Event,
    Field,
    File,
    MultipartDecoder,
    State,
)

from inkling.errors import InvalidRequest, TooLarge, UnsupportedMediaType

__all__ = ["Part", "multipart", "urlencoded"]

# RFC 2046 allows 70 characters in a boundary.
_MAX_BOUNDARY = 70
# Clients leave the quotes out also where a boundary needs them.
_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"]*)"|([^\s;"]*))', re.IGNORECASE)
_PIECE = 8192
# What the parser may keep: the head of a part, or the text before the first part.
_MAX_HEAD = 2 * _PIECE
# A value that may be a picture in base64 is longer; its plus signs and slashes are
# percent-encoded.
_MAX_TEXT = 4096
_MAX_NAME = 256
_ESCAPES = tuple(
    (written, bytes.fromhex(code.decode()))
    for code in (b"2B", b"2F", b"3D", b"3A", b"3B", b"2C", b"0D", b"0A", b"20")
    for written in {b"%" + code, b"%" + code.lower()}
)
_DAMAGED = (
    "The multipart body is damaged or cut short: each part begins with --BOUNDARY, a "
    "short head with a Content-Disposition, and an empty line, in UTF-8. Send it as "
    "curl -F image=@picture.png does."
)


@dataclass(frozen=True, slots=True)
class Part:
    """A field or a file of a form.

    Attributes:
        name: The name of the field; it may be empty.
        filename: The name of the file; None for a field.
        kind: The media type in lower case; empty if the part states none.
        encoding: The Content-Transfer-Encoding in lower case, mostly empty.
        content: The content as it came.
    """

    name: str
    filename: str | None
    kind: str
    encoding: str
    content: bytes


def multipart(body: bytes, content_type: str, max_parts: int) -> Iterator[Part]:
    """Yield the parts of a multipart body (RFC 2046 and 7578).

    Raises:
        InvalidRequest: The body is damaged.
        TooLarge: The body has more than `max_parts` parts.
        UnsupportedMediaType: The content type lacks a valid boundary.
    """
    decoder = MultipartDecoder(_boundary(content_type), _MAX_HEAD, max_parts=max_parts)
    part: Field | File | None = None
    content = bytearray()
    for event in _events(decoder, body, max_parts):
        if isinstance(event, Field | File):
            part, content = event, bytearray()
        elif isinstance(event, Data) and part is not None:
            content += event.data
            if not event.more_data:
                yield _part(part, bytes(content))


def _boundary(content_type: str) -> bytes:
    match = _BOUNDARY.search(content_type)
    boundary = (match[1] or match[2] or "").rstrip() if match else ""
    if not 1 <= len(boundary) <= _MAX_BOUNDARY or not boundary.isascii():
        raise UnsupportedMediaType(
            "The Content-Type of the multipart body lacks a boundary of 1 to 70 "
            "letters. Let the HTTP library set the Content-Type: curl -F "
            "image=@picture.png URL"
        )
    return boundary.encode()


def _events(decoder: MultipartDecoder, body: bytes, max_parts: int) -> Iterator[Event]:
    try:
        for start in range(0, len(body), _PIECE):
            decoder.receive_data(body[start : start + _PIECE])
            yield from _ready(decoder, max_parts)
            if decoder.state is State.EPILOGUE:
                return  # what follows the last part means nothing
        decoder.receive_data(None)
        yield from _ready(decoder, max_parts)
    except (ValueError, RequestEntityTooLarge):
        raise InvalidRequest(_DAMAGED) from None


def _ready(decoder: MultipartDecoder, max_parts: int) -> Iterator[Event]:
    while True:
        try:
            event = decoder.next_event()
        except RequestEntityTooLarge:
            raise TooLarge(
                f"The form has more than {max_parts} parts. Send fewer images."
            ) from None
        if event is NEED_DATA:
            return
        yield event


def _part(event: Field | File, content: bytes) -> Part:
    headers = event.headers
    return Part(
        event.name or "",
        event.filename if isinstance(event, File) else None,
        headers.get("content-type", "").partition(";")[0].strip().lower(),
        headers.get("content-transfer-encoding", "").strip().lower(),
        content,
    )


def urlencoded(body: bytes, max_fields: int) -> Iterator[Part]:
    """Yield the fields of a body of the type application/x-www-form-urlencoded.

    Raises:
        TooLarge: The body has more than `max_fields` fields.
    """
    if body.count(b"&") >= max_fields:
        raise TooLarge(f"The form has more than {max_fields} fields.")
    for field in body.split(b"&"):
        name, _, value = field.partition(b"=")
        text = unquote_plus(name[:_MAX_NAME].decode("latin-1"))
        yield Part(text, None, "", "", _unescaped(value))


def _unescaped(value: bytes) -> bytes:
    if len(value) <= _MAX_TEXT:
        return unquote_to_bytes(value.replace(b"+", b" "))
    # Unquoting would split a long value at each percent sign, in much memory.
    for written, character in _ESCAPES:
        value = value.replace(written, character)
    return value
