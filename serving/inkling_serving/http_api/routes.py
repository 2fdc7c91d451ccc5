# SPDX-License-Identifier: Apache-2.0
"""The one table of the HTTP addresses.

Flask serves all of them (`inkling_serving.http_api.flask_app`); the ASGI application
(`inkling_serving.http_api.asgi_app`) calls the handlers of the direct ones itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson

from inkling_serving.http_api.dialects import open_inference as inference
from inkling_serving.http_api.dialects import tensorflow_serving as serving
from inkling_serving.http_api.handlers import Handler, Handlers, Names
from inkling_serving.http_api.messages import Request, Response, json_response
from inkling_serving.http_api.openapi import gateway, open_inference, tensorflow_serving
from inkling_serving.http_api.openapi.document import document
from inkling_serving.http_api.openapi.operation import Operation

if TYPE_CHECKING:
    from inkling_serving.settings import Settings

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
        operation: What the address does, takes and answers, for `/openapi.json`.
        direct: Says whether a request may be quicker than a hand-over to a thread, if
            the ASGI application calls the handler itself: Flask's dispatch takes a
            third of the CPU time of a small request. None leaves it to Flask.
    """

    method: str
    rule: str
    handler: Handler
    operation: Operation
    direct: IsQuick | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The rule as a regular expression for a whole path."""
        return re.compile(_PLACE.sub(r"(?P<\1>[^/:]*)", self.rule))


def _document(handlers: Handlers, request: Request, _: Names) -> Response:
    """Answer `/openapi.json`."""
    return json_response(HTTPStatus.OK, _described(handlers.settings), request.id)


# A process has one gateway, but for tests.
@lru_cache(maxsize=1)
def _described(settings: Settings) -> bytes:
    """Return the description of all addresses as JSON."""
    return orjson.dumps(document(ROUTES, settings))


_MODEL = "/v1/models/<name:model>"
_ONES = (_MODEL + "/versions/<name:version>", _MODEL + "/labels/<name:version_label>")
_TARGETS = (_MODEL, *_ONES)
_V2 = "/v2/models/<name:model>"
_V2_TARGETS = (_V2, _V2 + "/versions/<name:version>")
_REPOSITORY = "/v2/repository"
ROUTES: tuple[Route, ...] = (
    *(
        Route(
            "POST",
            one + ":classify",
            Handlers.classify,
            gateway.CLASSIFY,
            Handlers.is_quick,
        )
        for one in _TARGETS
    ),
    *(
        Route("POST", one + ":explain", Handlers.explain, gateway.EXPLAIN)
        for one in _TARGETS
    ),
    Route("POST", "/v1/feedback", Handlers.feedback, gateway.FEEDBACK),
    Route("GET", "/v1/models", Handlers.models, gateway.MODELS),
    Route("GET", _MODEL, Handlers.model, gateway.MODEL),
    Route("GET", "/livez", Handlers.live, gateway.LIVE),
    Route("GET", "/readyz", Handlers.ready, gateway.READY),
    Route("GET", "/metrics", Handlers.exposition, gateway.METRICS),
    Route("GET", "/openapi.json", _document, gateway.DOCUMENT),
    *(Route("GET", one + "/tflite", Handlers.tflite, gateway.FILE) for one in _TARGETS),
    *(
        Route(
            "GET",
            one + "/tflite/<name:sha256>",
            Handlers.tflite,
            gateway.FILE_OF_HASH,
        )
        for one in _TARGETS
    ),
    *(
        Route(
            "POST",
            one + ":predict",
            serving.predict,
            tensorflow_serving.PREDICT,
            serving.is_quick,
        )
        for one in _TARGETS
    ),
    *(
        Route("GET", one + "/metadata", serving.metadata, tensorflow_serving.METADATA)
        for one in _TARGETS
    ),
    *(Route("GET", one, serving.status, tensorflow_serving.STATUS) for one in _ONES),
    *(
        Route(
            "POST",
            one + "/infer",
            inference.infer_tensor,
            open_inference.INFER,
            inference.is_quick,
        )
        for one in _V2_TARGETS
    ),
    *(
        Route("GET", one + end, handler, operation)
        for one in _V2_TARGETS
        for end, handler, operation in (
            ("", inference.model_metadata, open_inference.MODEL_METADATA),
            ("/ready", inference.model_ready, open_inference.MODEL_READY),
            ("/config", inference.model_config, open_inference.MODEL_CONFIG),
            ("/stats", inference.model_statistics, open_inference.MODEL_STATISTICS),
        )
    ),
    Route(
        "GET",
        "/v2/models/stats",
        inference.model_statistics,
        open_inference.ALL_STATISTICS,
    ),
    Route("GET", "/v2", inference.server_metadata, open_inference.SERVER_METADATA),
    Route("GET", "/v2/health/live", inference.server_live, open_inference.LIVE),
    Route("GET", "/v2/health/ready", inference.server_ready, open_inference.READY),
    *(
        Route("POST", _REPOSITORY + end, handler, operation)
        for end, handler, operation in (
            ("/index", inference.repository_index, open_inference.INDEX),
            (
                "/models/<name:model>/load",
                inference.repository_load,
                open_inference.LOAD,
            ),
            (
                "/models/<name:model>/unload",
                inference.repository_unload,
                open_inference.UNLOAD,
            ),
        )
    ),
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
