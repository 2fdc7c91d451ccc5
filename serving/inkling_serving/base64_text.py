# SPDX-License-Identifier: Apache-2.0
"""Pictures as text: base64 in the forms in which callers write it, and data: URLs."""

from __future__ import annotations

import base64
import binascii
import re

from inkling.errors import InvalidRequest
from inkling.image.formats.catalogue import FORMATS, format_of

__all__ = ["decoded", "is_picture_text"]

# Letters of base64 in which the first bytes of every picture stand, and those with
# which a picture begins.
_START = re.compile(rb"(?:[A-Za-z0-9+/_-]{4}){1,8}")
_FIRST = tuple(
    {
        encode(start)[:1]
        for one in FORMATS
        for start in one.starts
        for encode in (base64.b64encode, base64.urlsafe_b64encode)
    }
)
_SCHEME = b"data:"
# The part of a data: URL before its data (RFC 2397); a longer one is none.
_MAX_HEAD = 256
_IS_BASE64 = re.compile(rb";\s*base64\s*$", re.IGNORECASE)
# base64url (RFC 4648, section 5), and a plus sign that a form has turned into a space.
_STANDARD = bytes.maketrans(b"-_ ", b"+/+")
# The letters that are decoded at once, and the bytes that they stand for.
_PIECE, _BYTES_OF_PIECE = 256 * 1024, 192 * 1024
_LINE_ENDS = b"\r\n\t"
_WRONG = (
    "The picture is not base64 (RFC 4648). Both alphabets, missing padding and line "
    "breaks are understood; other characters and cut texts are not."
)


def is_picture_text(text: bytes) -> bool:
    """Return whether a text is a data: URL, or begins as a picture in base64 does."""
    start = text[:64].lstrip()
    if start[: len(_SCHEME)].lower() == _SCHEME:
        return True
    letters = _START.match(start) if start.startswith(_FIRST) else None
    if letters is None:
        return False
    return format_of(binascii.a2b_base64(letters[0].translate(_STANDARD))) is not None


def decoded(text: str | bytes) -> bytes:
    """Return the bytes of a text in base64, or of a data: URL.

    Raises:
        InvalidRequest: The text is neither, or is a data: URL without base64.
    """
    try:
        # The largest texts have the plain form, of which no copy is needed.
        return _in_pieces(text)
    except ValueError:  # binascii.Error is one
        pass
    try:
        bare = _bare(text.encode("ascii") if isinstance(text, str) else text)
        return _in_pieces(bare)
    except ValueError:
        raise InvalidRequest(_WRONG) from None


def _in_pieces(text: str | bytes) -> bytes:
    """Return the bytes of a text in the standard alphabet.

    Other threads may run between two pieces; for a picture they would wait 50 ms.

    Raises:
        ValueError: The text is something else.
    """
    if len(text) <= _PIECE:
        return binascii.a2b_base64(text, strict_mode=True)
    found = bytearray()
    for start in range(0, len(text), _PIECE):
        piece = text[start : start + _PIECE]
        decoded_piece = binascii.a2b_base64(piece, strict_mode=True)
        if len(decoded_piece) < _BYTES_OF_PIECE and start + _PIECE < len(text):
            raise ValueError  # padding before the end
        found += decoded_piece
    return bytes(found)


def _bare(text: bytes) -> bytes:
    """Return a text without its data: URL and line ends, in the standard alphabet."""
    text = _after_head(text.strip())
    without = text.translate(None, _LINE_ENDS)
    if len(without) != len(text) and b" " in without:
        raise InvalidRequest(_WRONG)  # a space may be indentation or a plus sign
    data = without.translate(_STANDARD).rstrip(b"=")
    return data + b"=" * (-len(data) % 4)


def _after_head(text: bytes) -> bytes:
    if text[: len(_SCHEME)].lower() != _SCHEME:
        return text
    head, comma, data = text[:_MAX_HEAD].partition(b",")
    if not comma or not _IS_BASE64.search(head):
        raise InvalidRequest(
            "The data: URL is not in base64; expected data:image/png;base64,... (an "
            'empty canvas gives "data:,").'
        )
    del data
    return text[len(head) + 1 :]
