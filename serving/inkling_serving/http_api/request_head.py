# SPDX-License-Identifier: Apache-2.0
"""The head of an HTTP request: where it ends, and which heads are refused, and how."""

from __future__ import annotations

import json
import re
from http import HTTPStatus

__all__ = [
    "END",
    "MAX_BYTES",
    "cannot_begin",
    "chunked_count",
    "refusal",
    "refusing",
    "without_upgrade",
]

END = b"\r\n\r\n"
MAX_BYTES = 32 * 1024
_MAX_URL_BYTES = 16 * 1024
_MAX_HEADERS = 100
# The most bytes of a chunked body that the parser gets at once.
_CHUNKED_BYTES = 4096
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


def chunked_count(tail: bytes, received: bytearray) -> int:
    """Return the number of bytes to the next place where a chunked body may end.

    Args:
        tail: The last bytes of the body before `received`, at most three.
        received: What has come of the body, and maybe of the next request.
    """
    seam = (tail + bytes(received[:3])).find(END)
    if seam >= 0:
        return seam + len(END) - len(tail)
    end = received.find(END, 0, _CHUNKED_BYTES)
    return end + len(END) if end >= 0 else _CHUNKED_BYTES


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
