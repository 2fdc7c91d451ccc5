# SPDX-License-Identifier: Apache-2.0
"""The requests and responses of the HTTP addresses, each with its whole body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import orjson

from inkling.gateway.connection import CALLER_KEY
from inkling_serving.runtime.timings import Timings, request_id_of

__all__ = ["Request", "Response", "json_response"]


@dataclass(slots=True)
class Request:
    """An HTTP request with its whole body.

    Attributes:
        method: The method in capital letters.
        path: The percent-decoded path with one slash at its start, without the query.
        query: The part after the `?`, still percent-encoded.
        headers: The headers by their names in lower case.
        body: The whole body; a body over the limit was refused before.
        timings: The durations of the phases, filled in while the request is answered.
        quickly: Whether `TakesLonger` ends a classification that would keep its thread
            for longer.
        id: The caller's `X-Request-Id`, or a new id if the caller sent none or one with
            characters that must not get into a log.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timings: Timings = field(default_factory=Timings)
    quickly: bool = False
    id: str = ""

    def __post_init__(self) -> None:
        # Flask reads a path with several slashes at its start so, and roles and quotas
        # have to belong to the address that answers.
        if self.path.startswith("//"):
            self.path = "/" + self.path.lstrip("/")
        self.id = request_id_of(self.headers.get("x-request-id", ""))
        self.timings.request_id = self.id
        self.timings.caller = self.headers.get(CALLER_KEY, "")
        if "traceparent" in self.headers:
            self.timings.follow(self.headers["traceparent"])


@dataclass(frozen=True, slots=True)
class Response:
    """A response with its whole body."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def json_response(
    status: int,
    body: Any,
    request_id: str,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """Return a response with a JSON body, which may hold NumPy arrays.

    Args:
        status: The status.
        body: The object or list, or its JSON.
        request_id: The id of the request.
        extra: Further headers, by their names in lower case.
    """
    headers = {
        "content-type": "application/json",
        "x-request-id": request_id,
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        **extra,
    }
    if not isinstance(body, bytes):
        body = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(int(status), body, headers)
