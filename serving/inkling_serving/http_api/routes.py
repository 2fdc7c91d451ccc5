# SPDX-License-Identifier: Apache-2.0
"""The one table of the HTTP addresses.

Flask serves all of them (`inkling_serving.http_api.flask_app`); the ASGI application
(`inkling_serving.http_api.asgi_app`) calls the handlers of the direct ones itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from inkling_serving.http_api.dialects import open_inference as inference
from inkling_serving.http_api.dialects import tensorflow_serving as serving
from inkling_serving.http_api.handlers import Handler, Handlers, Names
from inkling_serving.http_api.messages import Request

__all__ = ["ROUTES", "Route", "direct"]

# Says of a request and its names whether its answer may be quick.
IsQuick = Callable[[Handlers, Request, Names], bool]
_PLACE = re.compile(r"<name:(\w+)>")


@dataclass(frozen=True)
class Route:
    """An address, its method, and its handler.

    Attributes:
        method: GET or POST.
        rule: The path as a rule of Flask; `name` matches all characters but `/` and
            `:`.
        handler: A method of `Handlers`, or a function with the same arguments.
        direct: Says whether a request may be quicker than a hand-over to a thread, if
            the ASGI application calls the handler itself: Flask's dispatch takes a
            third of the CPU time of a small request. None leaves it to Flask.
    """

    method: str
    rule: str
    handler: Handler
    direct: IsQuick | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The rule as a regular expression for a whole path."""
        return re.compile(_PLACE.sub(r"(?P<\1>[^/:]*)", self.rule))


_MODEL = "/v1/models/<name:model>"
_ONES = (_MODEL + "/versions/<name:version>", _MODEL + "/labels/<name:version_label>")
_TARGETS = (_MODEL, *_ONES)
_V2 = "/v2/models/<name:model>"
_V2_TARGETS = (_V2, _V2 + "/versions/<name:version>")
_REPOSITORY = "/v2/repository"
ROUTES: tuple[Route, ...] = (
    *(
        Route("POST", target + ":classify", Handlers.classify, Handlers.is_quick)
        for target in _TARGETS
    ),
    *(Route("POST", target + ":explain", Handlers.explain) for target in _TARGETS),
    *(
        Route("POST", target + ":predict", serving.predict, serving.is_quick)
        for target in _TARGETS
    ),
    *(Route("GET", target + "/tflite", Handlers.tflite) for target in _TARGETS),
    *(
        Route("GET", target + "/tflite/<name:sha256>", Handlers.tflite)
        for target in _TARGETS
    ),
    *(Route("GET", target + "/metadata", serving.metadata) for target in _TARGETS),
    *(Route("GET", target, serving.status) for target in _ONES),
    *(
        Route("POST", one + "/infer", inference.infer_tensor, inference.is_quick)
        for one in _V2_TARGETS
    ),
    *(Route("GET", one, inference.model_metadata) for one in _V2_TARGETS),
    *(Route("GET", one + "/ready", inference.model_ready) for one in _V2_TARGETS),
    *(Route("GET", one + "/config", inference.model_config) for one in _V2_TARGETS),
    *(Route("GET", one + "/stats", inference.model_statistics) for one in _V2_TARGETS),
    Route("GET", "/v2/models/stats", inference.model_statistics),
    Route("GET", "/v2", inference.server_metadata),
    Route("GET", "/v2/health/live", inference.server_live),
    Route("GET", "/v2/health/ready", inference.server_ready),
    Route("POST", _REPOSITORY + "/index", inference.repository_index),
    Route("POST", _REPOSITORY + "/models/<name:model>/load", inference.repository_load),
    Route(
        "POST", _REPOSITORY + "/models/<name:model>/unload", inference.repository_unload
    ),
    Route("GET", "/v1/models", Handlers.models),
    Route("GET", _MODEL, Handlers.model),
    Route("GET", "/livez", Handlers.live),
    Route("GET", "/readyz", Handlers.ready),
    Route("GET", "/metrics", Handlers.exposition),
)
_DIRECT = [
    (route.pattern, route.handler, route.direct)
    for route in ROUTES
    if route.direct is not None
]


def direct(request: Request) -> tuple[Handler, Names, IsQuick] | None:
    """Return the handler of a direct address, its names, and whether it is quick.

    None stands for another address.
    """
    if request.method == "POST":
        for pattern, handler, is_quick in _DIRECT:
            if match := pattern.fullmatch(request.path):
                return handler, match.groupdict(), is_quick
    return None
