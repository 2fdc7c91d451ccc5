# SPDX-License-Identifier: Apache-2.0
"""The head of an HTTP request: which heads are refused, and with which answer."""

from __future__ import annotations

import json
import re
from http import HTTPStatus

__all__ = ["END", "MAX_BYTES", "cannot_begin", "refusal", "refusing", "without_upgrade"]

END = b"\r\n\r\n"
MAX_BYTES = 32 * 1024
_MAX_URL_BYTES = 16 * 1024
_MAX_HEADERS = 100
# This server does not upgrade; it may ignore the header (RFC 9110, section 7.8).
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)


def cannot_begin(start: bytearray) -> bool:
    """Return whether these bytes cannot become a request, whatever bytes follow."""
    return not start[:1].isalpha() or b"\n\n" in start


def refusal(head: bytes) -> HTTPStatus | None:
    """Return the status that refuses a whole head, or None for an accepted head."""
    if len(head) > MAX_BYTES:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    if head.find(b"\r\n") > _MAX_URL_BYTES:
        return HTTPStatus.REQUEST_URI_TOO_LONG
    if head.count(b"\r\n") > _MAX_HEADERS + 2:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return None


def without_upgrade(head: bytes) -> bytes:
    """Return a head without the header that asks for another protocol."""
    return _UPGRADE.sub(b"", head)


def refusing(status: HTTPStatus) -> bytes:
    """Return the whole answer to a request that was not parsed."""
    code, retry = "invalid_request", ""
    message = f"{status.phrase}. The connection is closed."
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        code, retry = "overloaded", "retry-after: 1\r\n"
        message = "The server has too many connections. Try again in a second."
    body = {"error": {"code": code, "message": message, "request_id": ""}}
    content = json.dumps(body).encode()
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "content-type: application/json\r\n"
        f"x-inkling-error-code: {code}\r\n"
        f"{retry}content-length: {len(content)}\r\n"
        "connection: close\r\n\r\n".encode()
        + content
    )
