# SPDX-License-Identifier: Apache-2.0
"""The options of a classification: the same names in the query, in JSON and in a form.

An unknown key is refused with the most similar option, because a caller that misspells
an option would else get an answer without it. An option that is given twice must have
the same value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from inkling.errors import InvalidRequest
from inkling.types import check_threshold, check_top_k
from inkling_serving.service import Options

__all__ = [
    "CLASSIFY",
    "EXPLAIN",
    "NONE",
    "HttpOptions",
    "Pairs",
    "from_json",
    "from_text",
    "in_query",
    "merged",
    "nearest",
    "shown",
    "unknown",
]

# The options of an address, by name, and what each of them takes.
CLASSIFY = ("top_k", "threshold", "abstain", "timing", "partial")
EXPLAIN = ("top_k", "threshold", "abstain", "timing", "model_input")
NONE: tuple[str, ...] = ()

# A name and its parsed value, in the order in which they came.
Pairs = Iterable[tuple[str, Any]]

_MAX_FIELDS = 16
_TOP_K = re.compile(r"[1-9][0-9]{0,5}")
_NUMBER = re.compile(
    r"(?:[0-9]{1,3}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE]-?[0-9]{1,2})?"
)
_MAX_SHOWN = 40
_SIMILAR = 0.6


@dataclass(frozen=True, slots=True)
class HttpOptions(Options):
    """The options of a request over HTTP.

    Attributes:
        timing: Whether the answer has the header `Server-Timing`.
        model_input: Whether an explanation has the values of the model input.
    """

    timing: bool = False
    model_input: bool = False


_DEFAULTS = HttpOptions()


def merged(*sources: Pairs) -> HttpOptions:
    """Return the options of all parts of a request.

    Raises:
        InvalidRequest: An option has two different values.
    """
    values: dict[str, Any] = {}
    for source in sources:
        for name, value in source:
            if values.setdefault(name, value) != value:
                raise InvalidRequest(
                    f"The request has two values for {name}; send it once."
                )
    return HttpOptions(**values) if values else _DEFAULTS


def in_query(query: str, known: Sequence[str]) -> list[tuple[str, Any]]:
    """Return the options of a query, which is still percent-encoded.

    Raises:
        InvalidRequest: A key is unknown, or a value is invalid.
    """
    if not query:
        return []
    try:
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise InvalidRequest(
            f"The query has more than {_MAX_FIELDS} fields. {_takes(known)}"
        ) from None
    for name, _ in fields:
        if name not in known:
            raise unknown("query", name, known)
    return [(name, from_text(name, text)) for name, text in fields]


def from_text(name: str, text: str) -> Any:
    """Return the value of an option that came as a text.

    Raises:
        InvalidRequest: The text is no value of the option.
    """
    if name == "top_k":
        if not _TOP_K.fullmatch(text):
            raise InvalidRequest("top_k must be a whole number, 1 or more: ?top_k=3")
        return int(text)
    if name == "threshold":
        if not _NUMBER.fullmatch(text):
            raise InvalidRequest("threshold must be a number, 0 to 1: ?threshold=0.5")
        return check_threshold(float(text))
    if text not in ("true", "false"):
        raise InvalidRequest(f"{name} must be true or false: ?{name}=true")
    return text == "true"


def from_json(document: Mapping[str, Any], known: Sequence[str]) -> Pairs:
    """Yield the options of a JSON object.

    Raises:
        InvalidRequest: A value is invalid.
    """
    for name in known:
        if name not in document:
            continue
        yield name, _json_value(name, document[name])


def _json_value(name: str, value: Any) -> Any:
    # True is an integer for Python.
    if name == "top_k":
        if type(value) is not int:
            raise InvalidRequest('"top_k" in the JSON must be a whole number.')
        return check_top_k(value)
    if name == "threshold":
        if type(value) not in (int, float):
            raise InvalidRequest('"threshold" in the JSON must be a number, 0 to 1.')
        return check_threshold(value)
    if not isinstance(value, bool):
        raise InvalidRequest(f'"{name}" in the JSON must be true or false.')
    return value


def unknown(place: str, name: str, known: Sequence[str]) -> InvalidRequest:
    """Return the error for a key that an address does not know."""
    near = nearest(name, known)
    hint = f"Did you mean {near}? " if near else ""
    return InvalidRequest(
        f"The {place} has the unknown key {shown(name)}. {hint}{_takes(known)}"
    )


def nearest(name: str, known: Sequence[str], similar: float = _SIMILAR) -> str | None:
    """Return the known name that is most similar to a name; None if none is."""
    written = name[:_MAX_SHOWN].lower().replace("-", "_")
    return next(iter(difflib.get_close_matches(written, known, 1, similar)), None)


def shown(name: str) -> str:
    """Return a caller's word for a message: short, and without control characters."""
    cut = name if len(name) <= _MAX_SHOWN else name[:_MAX_SHOWN] + "..."
    return repr(cut)


def _takes(known: Sequence[str]) -> str:
    if not known:
        return "This address takes no options."
    return f"Known keys: {', '.join(known)}."
