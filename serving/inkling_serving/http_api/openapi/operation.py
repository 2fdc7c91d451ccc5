# SPDX-License-Identifier: Apache-2.0
"""What an address does, takes and answers, for the document at `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from inkling.errors import ErrorCode
from inkling_serving.keys import Role

__all__ = [
    "CALLER",
    "CLASSIFYING",
    "JSON",
    "READING",
    "Content",
    "Group",
    "Header",
    "Operation",
]

JSON = "application/json"
# The types of a body, by their media types.
Content = Mapping[str, Any]

# The errors of an address that only reads the gateway's state.
READING = (
    ErrorCode.INVALID_REQUEST,
    ErrorCode.TOO_LARGE,
    ErrorCode.OVERLOADED,
    ErrorCode.DEADLINE_EXCEEDED,
    ErrorCode.INTERNAL,
)
# The errors of an address that takes pictures.
CLASSIFYING = (
    *READING,
    ErrorCode.INVALID_IMAGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.MODEL_NOT_FOUND,
    ErrorCode.NOT_READY,
)


class Group(StrEnum):
    """The groups of operations."""

    CLASSIFICATION = "Classification"
    MODELS = "Models"
    STATE = "State"
    ADMINISTRATION = "Administration"
    TENSORFLOW_SERVING = "TensorFlow Serving"
    OPEN_INFERENCE = "Open Inference Protocol"


@dataclass(frozen=True)
class Header:
    """A header of a request or a response, with its type."""

    type: Any
    description: str


# The header of an address whose version a share of the callers decides.
CALLER = {
    "X-Inkling-Caller": Header(
        str,
        "A key of the caller. While `canary` has a share of the requests, those with "
        "the same key get the same version.",
    )
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What an address does, takes and answers.

    Attributes:
        id: Its name for programs; it is one word in camel case. Where the address also
            exists for a version or a label, their names follow.
        summary: A sentence without its full stop.
        group: Where it is shown.
        role: The role of the keys that may ask for it; None if it needs no key.
        answer: The types of the answer's body; without any, each answer is a refusal.
        description: More sentences, in Markdown.
        body: The types of the request's body; without any, there is no body.
        needs_body: Whether the body must be there.
        options: The type whose keys are the keys of the query.
        headers: The headers of the request, by their names.
        answer_headers: The headers of the answer, by their names.
        errors: The kinds of errors.
        has_tag: Whether the answer has an ETag, and 304 answers its If-None-Match.
        setting: The name of the setting that switches it on; empty for none.
    """

    id: str
    summary: str
    group: Group
    role: Role | None
    answer: Content
    description: str = ""
    body: Content = field(default_factory=dict)
    needs_body: bool = True
    options: Any = None
    headers: Mapping[str, Header] = field(default_factory=dict)
    answer_headers: Mapping[str, Header] = field(default_factory=dict)
    errors: Sequence[ErrorCode] = READING
    has_tag: bool = False
    setting: str = ""
