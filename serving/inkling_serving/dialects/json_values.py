# SPDX-License-Identifier: Apache-2.0
"""Reads JSON that may hold numbers in nested lists, within limits on its cost.

The limits hold before the JSON is parsed and before a list becomes an array, because a
parsed JSON of small numbers takes many times the memory of its text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from inkling.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["MAX_RANK", "MAX_VALUES", "array_of", "document_of"]

# The most values of a tensor: 27 pictures of 224x224 pixels in three colours as raw
# bytes. In JSON, each list counts as well as each value, and one of them may take up to
# 90 bytes. The parser keeps the interpreter's lock to its end, so that every other
# request waits: with half as many elements it would be for half as long, but clients of
# TensorFlow Serving send five pictures of 224x224 in three colours this way.
MAX_VALUES = 4 * 1024 * 1024
_MAX_ELEMENTS = 1024 * 1024
# A list with at most so many parts becomes an array part by part, so that other threads
# have turns between them.
_MAX_PARTS = 1024
# A batch of pictures has four dimensions.
MAX_RANK = 8
_STRUCTURE = b",[{:"
# The tokens that TensorFlow Serving and Python read as numbers and orjson does not.
_NO_NUMBERS = (b"NaN", b"Infinity")


def document_of(body: bytes, expected: str) -> dict[str, Any]:
    """Return the JSON object of a body.

    Args:
        body: The body in UTF-8; NaN, Infinity and -Infinity are numbers.
        expected: An example for the error's message.

    Raises:
        InvalidRequest: The body is not a JSON object.
        TooLarge: The JSON has too many elements.
    """
    if not body.strip():
        raise InvalidRequest(
            f"JSON Parse error: The document is empty. Expected {expected}."
        )
    if sum(body.count(character) for character in _STRUCTURE) > _MAX_ELEMENTS:
        raise TooLarge(
            f"The JSON has more than {_MAX_ELEMENTS:,} elements. Send fewer rows in a "
            "request, or the pictures themselves in base64, or a binary protocol."
        )
    document = _parsed(body, expected)
    if not isinstance(document, dict):
        raise InvalidRequest(f"The JSON is not an object; expected {expected}.")
    return document


def _parsed(body: bytes, expected: str) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        if any(token in body for token in _NO_NUMBERS):
            return json.loads(body)
    except (ValueError, RecursionError):
        pass
    raise InvalidRequest(
        f"JSON Parse error: The body is not JSON in UTF-8; expected {expected}."
    )


def array_of(nested: Any, what: str) -> npt.NDArray[Any]:
    """Return the array of numbers in nested lists, float64 or an integer type.

    Args:
        nested: A number or lists, as JSON has them; all lists of a depth have the same
            length.
        what: The name of the value in messages.

    Raises:
        InvalidRequest: The lists are no array of numbers.
    """
    depth, inner = 0, nested
    while isinstance(inner, list):
        depth, inner = depth + 1, inner[0] if inner else None
        if depth > MAX_RANK:
            raise InvalidRequest(f"{what} has more than {MAX_RANK} dimensions.")
    try:
        found = _array(nested)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{what} is no array: its lists have different lengths or depths."
        ) from None
    if found.dtype.kind not in "iuf" and found.size:
        raise InvalidRequest(
            f"{what} has values that are not numbers. A picture is sent in base64, as "
            "docs/clients.md shows for each protocol."
        )
    return found


def _array(nested: Any) -> npt.NDArray[Any]:
    is_deep = isinstance(nested, list) and nested and isinstance(nested[0], list)
    if is_deep and len(nested) == 1:
        return _array(nested[0])[np.newaxis]
    if is_deep and len(nested) <= _MAX_PARTS:
        return np.stack([np.asarray(part) for part in nested])
    return np.asarray(nested)
