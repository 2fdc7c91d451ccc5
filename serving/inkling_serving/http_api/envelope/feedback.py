# SPDX-License-Identifier: Apache-2.0
"""The body of feedback: which label was right for which captured picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from inkling.errors import InvalidRequest, TooLarge, UnsupportedMediaType
from inkling_serving.http_api.envelope.options import shown, unknown

__all__ = ["feedback_of"]

_KEYS = ("request_id", "label", "image")
_EXPECTED = '{"request_id": "...", "label": "..."}'
# A label may be long; it is no picture.
_MAX_BYTES = 16 * 1024
# Positions of images fit into 32 bits over gRPC.
_MAX_PLACE = 2**31 - 1


def feedback_of(headers: Mapping[str, str], body: bytes) -> tuple[str, int, str]:
    """Return the request id, the position of the image, from 0, and the right label.

    Args:
        headers: The headers by their names in lower case.
        body: The whole body.

    Raises:
        InvalidRequest: The body is not a JSON object with these keys.
        TooLarge: It is too long for one.
        UnsupportedMediaType: Its Content-Type is that of a form or of a picture.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith(("image/", "multipart/")):
        raise UnsupportedMediaType(
            f"The feedback has the Content-Type {shown(kind)}; send JSON: {_EXPECTED}."
        )
    if len(body) > _MAX_BYTES:
        raise TooLarge(
            f"The feedback has {len(body):,} bytes; the limit is {_MAX_BYTES:,}. Send "
            f"{_EXPECTED}."
        )
    given = _object(body)
    for key in given:
        if key not in _KEYS:
            raise unknown("JSON", key, _KEYS)
    request_id, label = (_text(given, key) for key in _KEYS[:2])
    image = given.get("image", 0)
    if type(image) is not int or not 0 <= image <= _MAX_PLACE:
        raise InvalidRequest(
            f'The "image" is {image!r:.40}; expected the position of the picture in '
            "its request, from 0."
        )
    return request_id, image, label


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequest(
            f"The feedback is not a JSON object in UTF-8; expected {_EXPECTED}."
        )
    return found


def _text(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    # The store keeps UTF-8, which has no halves of surrogate pairs.
    if not isinstance(value, str) or not value or not _is_utf8(value):
        came = "nothing" if value is None else f"{value!r:.40}"
        raise InvalidRequest(
            f'The feedback has {came} as "{key}"; expected a text: {_EXPECTED}.'
        )
    return value


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
