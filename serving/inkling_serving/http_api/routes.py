# SPDX-License-Identifier: Apache-2.0
"""The one table of the HTTP addresses.

Flask serves all of them (`inkling_serving.http_api.flask_app`); the ASGI application
(`inkling_serving.http_api.asgi_app`) calls the handlers of the direct ones itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from inkling_serving.http_api.dialects import tensorflow_serving as serving
from inkling_serving.http_api.handlers import Handler, Handlers, Names
from inkling_serving.http_api.messages import Request

__all__ = ["ROUTES", "Route", "direct"]

_PLACE = re.compile(r"<name:(\w+)>")


@dataclass(frozen=True)
class Route:
    """An address, its method, and its handler.

    Attributes:
        method: GET or POST.
        rule: The path as a rule of Flask; `name` matches all characters but `/` and
            `:`.
        handler: A method of `Handlers`, or a function with the same arguments.
        direct: Whether the ASGI application calls the handler itself: Flask's dispatch
            takes a third of the CPU time of a small request.
    """

    method: str
    rule: str
    handler: Handler
    direct: bool = False

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The rule as a regular expression for a whole path."""
        return re.compile(_PLACE.sub(r"(?P<\1>[^/:]*)", self.rule))


_MODEL = "/v1/models/<name:model>"
_ONES = (_MODEL + "/versions/<name:version>", _MODEL + "/labels/<name:version_label>")
_TARGETS = (_MODEL, *_ONES)
ROUTES: tuple[Route, ...] = (
    *(
        Route("POST", target + ":classify", Handlers.classify, True)
        for target in _TARGETS
    ),
    *(Route("POST", target + ":explain", Handlers.explain) for target in _TARGETS),
    *(Route("POST", target + ":predict", serving.predict, True) for target in _TARGETS),
    *(Route("GET", target + "/metadata", serving.metadata) for target in _TARGETS),
    *(Route("GET", target, serving.status) for target in _ONES),
    Route("GET", "/v1/models", Handlers.models),
    Route("GET", _MODEL, Handlers.model),
    Route("GET", "/livez", Handlers.live),
    Route("GET", "/readyz", Handlers.ready),
    Route("GET", "/metrics", Handlers.exposition),
)
_DIRECT = [(route.pattern, route.handler) for route in ROUTES if route.direct]


def direct(request: Request) -> tuple[Handler, Names] | None:
    """Return the handler and the names of a direct address; None for another one."""
    if request.method == "POST":
        for pattern, handler in _DIRECT:
            if match := pattern.fullmatch(request.path):
                return handler, match.groupdict()
    return None
