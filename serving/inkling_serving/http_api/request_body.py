"""Finds the encoded images in a request's body: bare, multipart or base64 in JSON."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from werkzeug.http import parse_options_header

from inkling.errors import InvalidRequest, TooLarge, UnsupportedMediaType

__all__ = ["Envelope", "envelope_of"]

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff")
# A JSON body may have 64 of these characters, and 32 more for each image. With more of
# them, the parsed JSON could take up to 24 times the memory of the body.
_JSON_STRUCTURE = b'{}[],:"'
_STRUCTURE_SPARE = 64
_STRUCTURE_PER_IMAGE = 32
# RFC 2046 allows 70 characters in a boundary.
_MAX_BOUNDARY = 70
# The name and the type of a file need fewer bytes.
_MAX_PART_HEAD = 8192
# The server ignores the other fields of a form; a larger field may be a picture that
# was not sent as a file.
_MAX_FIELD = 64 * 1024
_MAX_TYPE = 256
_DAMAGED_FORM = (
    "The multipart body is damaged or cut short; send it as curl -F image=@picture.png "
    "does."
)
# The parameter `filename` or `filename*`, outside of the quoted values before it.
_FILE_NAME = re.compile(
    rb'(?:[^"]|"(?:[^"\\]|\\.)*")*?;\s*filename\*?\s*=', re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class Envelope:
    """The content of a body.

    Attributes:
        images: The encoded images, in order.
        abstain: Whether the model may abstain; only a JSON body can set this.
    """

    images: list[bytes]
    abstain: bool = False


def envelope_of(headers: Mapping[str, str], body: bytes, max_images: int) -> Envelope:
    """Return the content of a body.

    A body that starts like a PNG or JPEG is one image, also with another Content-Type:
    `curl --data-binary` names every body a form.

    Raises:
        InvalidRequest: The body is empty, or does not match its Content-Type.
        TooLarge: The body has more than `max_images` images.
        UnsupportedMediaType: The body is compressed, or multipart without a boundary.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise UnsupportedMediaType(
            "The body is compressed; send it as it is. PNG and JPEG are compressed "
            "already."
        )
    if not body:
        raise InvalidRequest(
            "The body is empty; send a picture, such as: curl --data-binary "
            "@picture.png URL"
        )
    if body.startswith(_PICTURES):
        return Envelope([body])
    kind, options = parse_options_header(headers.get("content-type", "")[:_MAX_TYPE])
    if kind == "multipart/form-data":
        return Envelope(_from_multipart(body, options.get("boundary", ""), max_images))
    if kind == "application/json" or body.lstrip()[:1] == b"{":
        return _from_json(body, max_images)
    return Envelope([body])


def _from_multipart(body: bytes, boundary: str, max_images: int) -> list[bytes]:
    """Return the files of a form, and ignore its other fields."""
    if not 1 <= len(boundary) <= _MAX_BOUNDARY or not boundary.isascii():
        raise UnsupportedMediaType(
            "The Content-Type of the multipart body lacks a boundary of 1 to 70 "
            "letters. Let the HTTP library set the Content-Type: curl -F "
            "image=@picture.png URL"
        )
    images = []
    for head, content in _parts(body, boundary.encode(), 2 * max_images + 8):
        if _is_file(head):
            images.append(content)
        elif len(content) > _MAX_FIELD:
            raise TooLarge(
                f"A field of the form has more than {_MAX_FIELD:,} bytes and is not a "
                "file. Send each picture as a file: curl -F image=@picture.png URL"
            )
    if not images:
        raise InvalidRequest(
            "The form has no file. Send each picture as a file: curl -F "
            "image=@picture.png URL"
        )
    return images


def _parts(
    body: bytes, boundary: bytes, max_parts: int
) -> Iterator[tuple[bytes, bytes]]:
    """Yield head and content of each part (RFC 2046, section 5.1, without preamble)."""
    delimiter = b"\r\n--" + boundary
    if not body.startswith(delimiter[2:]):
        raise InvalidRequest(_DAMAGED_FORM)
    position = len(delimiter) - 2
    for _ in range(max_parts + 1):
        if body.startswith(b"--", position):
            return
        head_end = body.find(b"\r\n\r\n", position, position + _MAX_PART_HEAD)
        end = body.find(delimiter, max(head_end, position))
        if head_end < 0 or end < 0:
            raise InvalidRequest(_DAMAGED_FORM)
        yield body[position:head_end], body[head_end + 4 : end]
        position = end + len(delimiter)
    raise TooLarge(f"The form has more than {max_parts} parts. Send fewer images.")


def _is_file(head: bytes) -> bool:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            return _FILE_NAME.match(value) is not None
    return False


def _from_json(body: bytes, max_images: int) -> Envelope:
    if not body.isascii():
        raise InvalidRequest(
            "The JSON has characters outside ASCII; expected base64 and ASCII names."
        )
    limit = _STRUCTURE_SPARE + _STRUCTURE_PER_IMAGE * max_images
    if sum(body.count(character) for character in _JSON_STRUCTURE) > limit:
        raise TooLarge(
            f"The JSON has more elements than {max_images} images need. Send fewer "
            "images in a request."
        )
    try:
        document = json.loads(
            body.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise InvalidRequest(
            'The body is not JSON in UTF-8; expected {"images": [{"b64": "..."}]}.'
        ) from None
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise InvalidRequest(
            'The JSON has no list of images; expected {"images": [{"b64": "..."}]}.'
        )
    abstain = document.get("abstain", False)
    if not isinstance(abstain, bool):
        raise InvalidRequest('"abstain" in the JSON must be true or false.')
    found = [_from_base64(place, image) for place, image in enumerate(images)]
    return Envelope(found, abstain)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _from_base64(place: int, image: object) -> bytes:
    text = image.get("b64") if isinstance(image, dict) else None
    if not isinstance(text, str):
        raise InvalidRequest(
            f'Image {place} has no "b64"; expected {{"b64": "..."}} with the picture '
            "in base64."
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest(
            f"Image {place} is not base64. Use the standard alphabet with padding and "
            "no line breaks."
        ) from None
