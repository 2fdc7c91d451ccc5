# SPDX-License-Identifier: Apache-2.0
"""Reads the parts of a form: multipart with Werkzeug's parser, and urlencoded fields.

Werkzeug's parser has no limit on the head of a part and on the text before the first
part, so it gets these in small pieces, and may keep only a few of them. The content of
a part comes in larger pieces: in small ones it would cost 3 ms of CPU time for each MB.
"""

from __future__ import annotations

import re
from binascii import a2b_qp
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote_plus, unquote_to_bytes

from werkzeug.datastructures import Headers
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
# The head of a part and the text before the first part may have these bytes. Werkzeug
# reads some heads in quadratic time.
_MAX_HEAD = 4096
_PIECE, _CONTENT_PIECE = 2048, 256 * 1024
_MAX_NAME = 256
# Only a picture in base64 is longer.
_MAX_TEXT = 4096
_QUOTED_PRINTABLE = bytes.maketrans(b"%", b"=")
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


class _Decoder(MultipartDecoder):
    """werkzeug's parser, for clients that name their files in Latin-1, too."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        try:
            return super()._parse_headers(data)
        except UnicodeDecodeError:
            return super()._parse_headers(data.decode("latin-1").encode())


def multipart(body: bytes, content_type: str, max_parts: int) -> Iterator[Part]:
    """Yield the parts of a multipart body (RFC 2046 and 7578).

    Raises:
        InvalidRequest: The body is damaged.
        TooLarge: The body has more than `max_parts` parts.
        UnsupportedMediaType: The content type lacks a valid boundary.
    """
    boundary = _boundary(content_type)
    # A boundary must not occur in the content of a part (RFC 2046, section 5.1.1).
    if body.count(b"--" + boundary) > max_parts + 1:
        raise TooLarge(f"The form has more than {max_parts} parts. Send fewer images.")
    part: Field | File | None = None
    content = bytearray()
    for event in _events(_Decoder(boundary), body):
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


def _events(decoder: MultipartDecoder, body: bytes) -> Iterator[Event]:
    start = 0
    # What follows the last part means nothing.
    while start < len(body) and decoder.state is not State.EPILOGUE:
        end = start + _piece_size(decoder, body, start)
        decoder.receive_data(body[start:end])
        yield from _ready(decoder)
        start = end
    if decoder.state is not State.EPILOGUE:
        raise InvalidRequest(_DAMAGED)


def _piece_size(decoder: MultipartDecoder, body: bytes, start: int) -> int:
    """Return how many bytes of a body the parser gets next."""
    if decoder.state is not State.DATA:
        if len(decoder.buffer) > _MAX_HEAD:
            raise InvalidRequest(_DAMAGED)
        return _PIECE
    # A head follows the boundary, so that a large piece ends before it.
    boundary = body.find(b"--" + decoder.boundary, start, start + _CONTENT_PIECE)
    return _CONTENT_PIECE if boundary < 0 else max(_PIECE, boundary - start)


def _ready(decoder: MultipartDecoder) -> Iterator[Event]:
    try:
        while (event := decoder.next_event()) is not NEED_DATA:
            yield event
    except ValueError:
        raise InvalidRequest(_DAMAGED) from None


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
    # Unquoting would split a long value at each percent sign, in much memory. Quoted-
    # printable is the same encoding with another sign, and base64 needs no padding.
    return a2b_qp(value.rstrip(b"=").translate(_QUOTED_PRINTABLE))
