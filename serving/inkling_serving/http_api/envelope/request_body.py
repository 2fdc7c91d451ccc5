# SPDX-License-Identifier: Apache-2.0
"""Finds the encoded images in a request's body: bare, in a form, or base64 in JSON.

A picture may stand in each place as bytes, as base64, or as a data: URL, because
browsers and phones have it in these forms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from inkling.errors import (
    InklingError,
    InvalidImage,
    InvalidRequest,
    TooLarge,
    UnsupportedMediaType,
)
from inkling.image.formats.catalogue import format_of
from inkling_serving.base64_text import decoded, is_picture_text
from inkling_serving.http_api.envelope.form import Part, multipart, urlencoded
from inkling_serving.http_api.envelope.options import (
    CLASSIFY,
    from_json,
    from_text,
    nearest,
    shown,
    unknown,
)

__all__ = ["Envelope", "envelope_of"]

# The first bytes of a PNG whose line ends were changed, and of a PNG or JPEG that was
# read as a text in UTF-8 or Latin-1.
_AS_TEXT = (
    b"\x89PNG\n\x1a",
    b"\x89PNG\x1a",
    b"\x89PNG\r\r\n",
    b"\xef\xbf\xbdPNG",
    b"\xc2\x89PNG",
    b"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd",
    b"\xc3\xbf\xc3\x98\xc3\xbf",
)
# A JSON body may have 64 of these characters and quotation marks beside its texts, and
# 32 more for each image. With more of them, the parsed JSON could take up to 24 times
# the memory of the body.
_JSON_STRUCTURE = b"{}[],:"
_STRUCTURE_SPARE = 64
_STRUCTURE_PER_IMAGE = 32
# The bytes of a JSON body beside its texts: blanks for the most part. A number of a
# million digits would stop all other threads while it is read.
_MAX_BESIDE_TEXTS = 64 * 1024
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# A form may have fields of a page's own. A larger field may be a picture that was not
# sent as a file.
_MAX_FIELD = 64 * 1024
_MAX_TYPE = 512
# A field of a form is a misspelt option only if it is this similar to one.
_MISSPELT = 0.75
_IMAGE_KEYS = ("b64",)
_AS_IT_IS = ("", "7bit", "8bit", "binary")
_EXPECTED_JSON = '{"images": [{"b64": "..."}]}'


@dataclass(frozen=True)
class Envelope:
    """The content of a body.

    Attributes:
        images: The encoded images, in order; an error stands for an image that cannot
            be taken out of the body.
        names: The names of the images, for messages; an empty name is unknown.
        options: The options of the body, as pairs of name and value.
    """

    images: Sequence[bytes | InklingError]
    names: Sequence[str] = ()
    options: Sequence[tuple[str, Any]] = field(default=())


def envelope_of(
    headers: Mapping[str, str],
    body: bytes,
    max_images: int,
    known: Sequence[str] = CLASSIFY,
) -> Envelope:
    """Return the content of a body.

    A body that starts like a picture is one image, also with another Content-Type:
    `curl --data-binary` names every body a form.

    Args:
        headers: The headers by their names in lower case.
        body: The whole body.
        max_images: The most images of a request.
        known: The options of the address.

    Raises:
        InvalidRequest: The body is empty, does not match its Content-Type, or has an
            unknown key.
        TooLarge: The body has more parts than `max_images` images need.
        UnsupportedMediaType: The body is multipart without a boundary.
    """
    if not body:
        raise InvalidRequest(
            "The body is empty; send a picture, such as: curl --data-binary "
            "@picture.png URL"
        )
    if _is_image(body) or body.startswith(_AS_TEXT) or is_picture_text(body):
        return Envelope([_picture(body)])
    content_type = headers.get("content-type", "")[:_MAX_TYPE]
    kind = content_type.partition(";")[0].strip().lower()
    most = 2 * max_images + 8
    if kind.startswith("multipart/"):
        return _from_form(multipart(body, content_type, most), known)
    if _is_json(kind, body):
        return _from_json(body, max_images, known)
    if kind == "application/x-www-form-urlencoded" and _has_fields(body):
        return _from_form(urlencoded(body, most), known)
    return Envelope([body])


def _is_image(content: bytes) -> bool:
    return format_of(content) is not None


def _picture(content: bytes) -> bytes | InklingError:
    """Return the image that a part is; an error if it was damaged on its way."""
    if is_picture_text(content):
        return _from_base64(content)
    if content.startswith(_AS_TEXT):
        return InvalidImage(
            "The picture was handled as a text on its way; send its bytes unchanged: "
            "curl --data-binary @picture.png instead of curl -d."
        )
    return content


def _from_base64(text: str | bytes) -> bytes | InklingError:
    try:
        return decoded(text)
    except InvalidRequest as error:
        return error.with_traceback(None)  # its frames hold the text


# Forms.


def _from_form(parts: Iterator[Part], known: Sequence[str]) -> Envelope:
    """Return the pictures and options of a form; its other fields mean nothing."""
    images: list[bytes | InklingError] = []
    names: list[str] = []
    options = []
    for part in parts:
        if _is_picture(part):
            images.append(_transferred(part))
            names.append(part.filename or part.name)
        elif part.filename is None:
            options += _option(part, known)
    if not images:
        raise InvalidRequest(
            "The form has no picture. Send each picture as a file: curl -F "
            "image=@picture.png URL"
        )
    return Envelope(images, names, options)


def _is_picture(part: Part) -> bool:
    if part.filename is not None:
        # A browser sends a field without a chosen file as an empty file without a name.
        return bool(part.filename or part.content)
    return (
        part.kind.startswith("image/")
        or part.kind == "application/octet-stream"
        or _is_image(part.content)
        or is_picture_text(part.content)
    )


def _transferred(part: Part) -> bytes | InklingError:
    """Return the image of a part, decoded where an older client has encoded it."""
    if part.encoding == "base64":
        return _from_base64(part.content)
    if part.encoding not in _AS_IT_IS:
        return UnsupportedMediaType(
            f"The part has the Content-Transfer-Encoding {shown(part.encoding)}; send "
            "it as binary."
        )
    return _picture(part.content)


def _option(part: Part, known: Sequence[str]) -> list[tuple[str, Any]]:
    if len(part.content) > _MAX_FIELD:
        raise TooLarge(
            f"A field of the form has more than {_MAX_FIELD:,} bytes and is not a "
            "file. Send each picture as a file: curl -F image=@picture.png URL"
        )
    if part.kind.startswith("multipart/"):
        raise UnsupportedMediaType(
            "A part of the form is multipart itself; send each picture as a part of "
            "its own (RFC 7578, section 4.3)."
        )
    if part.name in known:
        text = part.content.decode("utf-8", "replace").strip()
        return [(part.name, from_text(part.name, text))]
    if nearest(part.name, known, _MISSPELT):
        raise unknown("form", part.name, known)
    return []


def _has_fields(body: bytes) -> bool:
    """Return whether a body may be fields; `curl -d` names every text a form."""
    return b"=" in body and body.isascii()


# JSON.


def _is_json(kind: str, body: bytes) -> bool:
    if kind == "application/json" or kind.endswith("+json"):
        return True
    start = body[:64].removeprefix(_UTF8_MARK)
    if start.startswith(_UTF16_MARKS):
        return b"{" in start[2:6]
    return start.lstrip()[:1] == b"{"


def _from_json(body: bytes, max_images: int, known: Sequence[str]) -> Envelope:
    document = _parsed(body, max_images)
    images = document.get("images") if isinstance(document, dict) else None
    keys = list(document) if isinstance(document, dict) else []
    for key in keys:
        if key != "images" and key not in known:
            raise unknown("JSON", key, ("images", *known))
    if not isinstance(images, list):
        raise InvalidRequest(
            f"The JSON has no list of images; expected {_EXPECTED_JSON}."
        )
    options = list(from_json(document, known))
    return Envelope([_from_object(image) for image in images], (), options)


def _parsed(body: bytes, max_images: int) -> Any:
    if body.startswith(_UTF16_MARKS) or b"\0" in body[:4]:
        raise InvalidRequest(
            "The JSON is in UTF-16 or UTF-32; send it in UTF-8 (RFC 8259, section 8.1)."
        )
    body = body.removeprefix(_UTF8_MARK)
    if not body.isascii():
        raise InvalidRequest(
            "The JSON has characters outside ASCII; expected base64 and ASCII names."
        )
    limit = _STRUCTURE_SPARE + _STRUCTURE_PER_IMAGE * max_images
    beside, texts = _beside_texts(body, limit)
    if 2 * texts + sum(beside.count(c) for c in _JSON_STRUCTURE) > limit:
        raise TooLarge(
            f"The JSON has more elements than {max_images} images need. Send fewer "
            "images in a request."
        )
    if len(beside) > _MAX_BESIDE_TEXTS:
        raise TooLarge(
            f"The JSON has more than {_MAX_BESIDE_TEXTS:,} bytes of blanks and numbers"
            f"; expected {_EXPECTED_JSON}."
        )
    try:
        return json.loads(
            body.decode(),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError):
        raise InvalidRequest(
            f"The body is not JSON in UTF-8; expected {_EXPECTED_JSON}."
        ) from None


def _beside_texts(body: bytes, most: int) -> tuple[bytes, int]:
    """Return what is in no text of a JSON body, and the number of its texts.

    Both end early beyond their limits. A quotation mark in a text, which no picture
    has, ends the text here.
    """
    beside, texts, start = bytearray(), 0, 0
    while texts <= most and len(beside) <= _MAX_BESIDE_TEXTS:
        quote = body.find(b'"', start)
        end = quote if quote >= 0 else len(body)
        beside += body[start : min(end, start + _MAX_BESIDE_TEXTS + 1)]
        start = body.find(b'"', quote + 1) + 1 if quote >= 0 else 0
        if not start:
            break
        texts += 1
    return bytes(beside), texts


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise InvalidRequest(
                f"The JSON has the key {shown(key)} twice in one object; send it once."
            )
        values[key] = value
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _from_object(image: object) -> bytes | InklingError:
    for key in image if isinstance(image, dict) else ():
        if key not in _IMAGE_KEYS:
            raise unknown("JSON of an image", key, _IMAGE_KEYS)
    text = image.pop("b64", None) if isinstance(image, dict) else None
    if not isinstance(text, str):
        return InvalidRequest(
            'The image has no "b64"; expected {"b64": "..."} with the picture in '
            "base64."
        )
    return _from_base64(text)
