# SPDX-License-Identifier: Apache-2.0
"""Bodies that came compressed (RFC 9110, section 8.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from inkling.errors import InvalidRequest, UnsupportedMediaType
from inkling_serving.runtime.inflating import inflated

if TYPE_CHECKING:
    from inkling_serving.http_api.messages import Request
    from inkling_serving.runtime.held_bytes import Holding

__all__ = ["inflate", "is_compressed"]

_HEADER = "content-encoding"
_KNOWN = ("gzip", "x-gzip", "deflate")


def is_compressed(headers: Mapping[str, str]) -> bool:
    """Return whether a body is compressed, in whatever format."""
    return _encoding(headers) not in ("identity", "")


def inflate(request: Request, max_bytes: int, holding: Holding) -> None:
    """Put the inflated body into a request, and take the header away.

    Args:
        request: The request, with a compressed body.
        max_bytes: The most bytes of the inflated body.
        holding: Counts these bytes.

    Raises:
        UnsupportedMediaType: The body has another format than gzip or deflate.
        InvalidRequest: The body is damaged, or cut short.
        TooLarge: The inflated body has more bytes.
        Overloaded: The process holds too many bytes.
    """
    encoding = _encoding(request.headers)
    if encoding not in _KNOWN:
        raise UnsupportedMediaType(
            f"The Content-Encoding is {encoding[:40]!r}; expected gzip or deflate. PNG "
            "and JPEG are compressed already, and gain nothing."
        )
    body = inflated(request.body, max_bytes, holding)
    if body is None:
        raise InvalidRequest(
            f"The Content-Encoding is {encoding}, and the body of "
            f"{len(request.body):,} bytes is not, or is cut short."
        )
    request.body = body
    request.headers = {k: v for k, v in request.headers.items() if k != _HEADER}


def _encoding(headers: Mapping[str, str]) -> str:
    return headers.get(_HEADER, "").strip().lower()
