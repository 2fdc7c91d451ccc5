# SPDX-License-Identifier: Apache-2.0
"""Lets the pages of other origins call the gateway (CORS, as in the Fetch standard).

Browsers send such a page's request only after a preflight, an OPTIONS request without
an API key. No cookie is ever allowed, because the gateway has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING

from inkling_serving.http_api.messages import Request, Response
from inkling_serving.http_api.routes import ROUTES
from inkling_serving.security import ANY_ORIGIN, cors_origins

if TYPE_CHECKING:
    from inkling_serving.settings import Settings

__all__ = ["Cors"]

_ALLOWED_HEADERS = (
    "authorization, content-type, inference-header-content-length, x-request-id, "
    "x-inkling-caller, x-requested-with"
)
_EXPOSED_HEADERS = (
    "allow, inference-header-content-length, ratelimit, ratelimit-policy, "
    "retry-after, server-timing, "
    "www-authenticate, x-inkling-captured, x-inkling-error-code, x-request-id"
)
# Browsers remember a preflight for at most two hours (Chromium).
_MAX_AGE_S = "7200"
_PATTERNS = tuple((route.pattern, route.method) for route in ROUTES)
_NOTHING: Mapping[str, str] = MappingProxyType({})


class Cors:
    """The answers to pages of other origins."""

    def __init__(self, settings: Settings) -> None:
        """Take the origins of the settings.

        Raises:
            InvalidRequest: An origin is malformed.
        """
        self._origins = frozenset(cors_origins(settings))

    def headers(self, request: Request) -> Mapping[str, str]:
        """Return the headers that the response to a request needs."""
        if not self._origins:
            return _NOTHING
        if ANY_ORIGIN in self._origins:
            found = {"access-control-allow-origin": ANY_ORIGIN}
        elif request.headers.get("origin") in self._origins:
            origin = request.headers["origin"]
            found = {"access-control-allow-origin": origin, "vary": "Origin"}
        else:
            return {"vary": "Origin"}
        return {**found, "access-control-expose-headers": _EXPOSED_HEADERS}

    def preflight(self, request: Request) -> Response | None:
        """Return the response to an allowed preflight; None for another request."""
        if request.method != "OPTIONS" or not self._origins:
            return None
        wanted = request.headers.get("access-control-request-method")
        allowed = self.headers(request)
        if wanted is None or "access-control-allow-origin" not in allowed:
            return None
        more = {
            "access-control-allow-methods": ", ".join(_methods(request.path)),
            "access-control-allow-headers": _ALLOWED_HEADERS,
            "access-control-max-age": _MAX_AGE_S,
            "x-request-id": request.id,
        }
        return Response(HTTPStatus.NO_CONTENT.value, b"", {**allowed, **more})


def _methods(path: str) -> list[str]:
    """Return the methods of an address; those of all if it does not exist.

    A page can read the 404 only if its preflight was allowed.
    """
    found = {method for pattern, method in _PATTERNS if pattern.fullmatch(path)}
    found = found or {method for _, method in _PATTERNS}
    return sorted(found | {"HEAD"} if "GET" in found else found)
