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
from inkling_serving.keys import Role

if TYPE_CHECKING:
    from inkling_serving.settings import Settings

__all__ = ["ROUTES", "Route", "admit", "direct", "role_of"]

# Says of a request and its names whether its answer may be quick.
IsQuick = Callable[[Handlers, Request, Names], bool]
# The pages need no key, because they contain no information about the models.
_PAGE = re.compile(r"/|/docs|/page/.*")
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
    Route("GET", _MODEL + "/comparisons", Handlers.comparisons, gateway.COMPARISONS),
    Route("GET", _MODEL + "/labels", Handlers.labels, gateway.LABELS),
    *(
        Route("POST", one + end, handler, operation)
        for one in (_MODEL, _MODEL + "/labels/<name:version_label>")
        for end, handler, operation in (
            (":promote", Handlers.promote, gateway.PROMOTE),
            (":rollback", Handlers.roll_back, gateway.ROLL_BACK),
        )
    ),
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


def admit(handlers: Handlers, request: Request) -> None:
    """Check the API key of a request, if it needs one, and the key's quota.

    Raises:
        Unauthenticated: The request has no valid key.
        PermissionDenied: Its key does not have the role for the address.
        QuotaExceeded: Its key has used up its quota.
    """
    role = role_of(request.method, request.path)
    if role is not None:
        handlers.admit(request, role)


# The expressions of the whole table take 20 us.
@lru_cache(maxsize=256)
def role_of(method: str, path: str) -> Role | None:
    """Return the role of the keys for a request; None if it needs no key.

    At an address that is not there, any key is asked for, so that without one nobody
    learns which addresses there are.
    """
    if _PAGE.fullmatch(path):
        return None
    wanted = "GET" if method == "HEAD" else method
    roles = {r.method: r.operation.role for r in ROUTES if r.pattern.fullmatch(path)}
    is_open = bool(roles) and not any(roles.values())
    return roles.get(wanted, None if is_open else Role.READ)
