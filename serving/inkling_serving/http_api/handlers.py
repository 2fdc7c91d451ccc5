# SPDX-License-Identifier: Apache-2.0
"""The handlers of the HTTP addresses: they turn a request into a response.

A handler reads the request, calls the service and writes the response; it contains no
other logic. `ROUTES` is the only table of addresses. Flask serves all addresses
(`inkling_serving.http_api.flask_app`), and the ASGI application
(`inkling_serving.http_api.asgi_app`) calls the handler of a classification directly.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

from inkling.errors import (
    ErrorCode,
    InklingError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from inkling.image.decoding import TakesLonger
from inkling_serving.http_api.envelope.options import (
    CLASSIFY,
    EXPLAIN,
    NONE,
    HttpOptions,
    in_query,
    merged,
)
from inkling_serving.http_api.envelope.request_body import Envelope, envelope_of
from inkling_serving.http_api.response_json import (
    answer_json,
    error_json,
    model_json,
    stages_json,
)
from inkling_serving.runtime.metrics import CONTENT_TYPE_LATEST
from inkling_serving.runtime.timings import Timings
from inkling_serving.runtime.tracebacks import without_frames
from inkling_serving.security import needs_key
from inkling_serving.service import Target

if TYPE_CHECKING:
    from inkling_serving.runtime.metrics import Metrics
    from inkling_serving.security import ApiKeys
    from inkling_serving.service import Service

__all__ = [
    "HTTP_STATUS",
    "NOTHING_HERE",
    "ROUTES",
    "Handler",
    "Handlers",
    "Request",
    "Response",
    "Route",
    "classification_names",
]

_log = logging.getLogger(__name__)

HTTP_STATUS: Mapping[ErrorCode, HTTPStatus] = MappingProxyType(
    {
        ErrorCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
        ErrorCode.INVALID_IMAGE: HTTPStatus.BAD_REQUEST,
        ErrorCode.INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
        ErrorCode.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.MODEL_NOT_FOUND: HTTPStatus.NOT_FOUND,
        ErrorCode.NOT_READY: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
        ErrorCode.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
        ErrorCode.METHOD_NOT_ALLOWED: HTTPStatus.METHOD_NOT_ALLOWED,
        ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    }
)

NOTHING_HERE = (
    "There is nothing at this address. GET /v1/models lists the models; POST a picture "
    "to /v1/models/NAME:classify."
)
# The metrics do not count these: orchestrators and Prometheus poll them all the time.
_UNCOUNTED = frozenset({"/livez", "/readyz", "/metrics"})
# An id must only differ from other ids. Random bytes from the system would take four
# times as long.
_ids = random.Random()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_VERSION = re.compile(r"-?[0-9]{1,19}")
_PLACE = re.compile(r"<name:(\w+)>")


@dataclass(slots=True)
class Request:
    """An HTTP request with its whole body.

    Attributes:
        method: The method in capital letters.
        path: The percent-decoded path, without the query.
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
        given = self.headers.get("x-request-id", "")
        if given and _REQUEST_ID.fullmatch(given):
            self.id = given
        else:
            self.id = f"{_ids.getrandbits(128):032x}"


@dataclass(frozen=True, slots=True)
class Response:
    """A response with its whole body."""

    status: int
    body: bytes
    headers: Mapping[str, str]


Names = Mapping[str, str | None]
Handler = Callable[["Handlers", Request, Names], Response]


@dataclass(frozen=True)
class Route:
    """An address, its method, and its handler.

    Attributes:
        method: GET or POST.
        rule: The path as a rule of Flask; `name` matches all characters but `/` and
            `:`.
        handler: A method of `Handlers`.
    """

    method: str
    rule: str
    handler: Handler

    @property
    def pattern(self) -> re.Pattern[str]:
        """The rule as a regular expression for a whole path."""
        return re.compile(_PLACE.sub(r"(?P<\1>[^/:]*)", self.rule))


class Handlers:
    """The handlers of one service."""

    def __init__(
        self, service: Service, metrics: Metrics, keys: ApiKeys, max_batch: int
    ) -> None:
        """Create the handlers; a request may have up to `max_batch` images."""
        self._service = service
        self._metrics = metrics
        self._keys = keys
        self._max_batch = max_batch

    def check_key(self, request: Request) -> None:
        """Check the API key of a request.

        Raises:
            Unauthenticated: The path needs a key, and the request has no valid one.
        """
        if needs_key(request.path):
            self._keys.check(request.headers.get("authorization"))

    def answer(self, handler: Handler, request: Request, names: Names) -> Response:
        """Return the response of a handler, or the response for its error.

        Raises:
            TakesLonger: `request.quickly` holds, and the classification takes longer.
        """
        try:
            response = handler(self, request, names)
        except TakesLonger:
            raise
        except Exception as error:  # noqa: BLE001 - every error becomes a response
            return self.refuse(error, request)
        if request.path not in _UNCOUNTED:
            self._metrics.observe("http", "ok", request.timings)
        return response

    def refuse(self, error: Exception, request: Request) -> Response:
        """Return the response for an error, and count it."""
        response = _error_response(error, request.id)
        if request.path not in _UNCOUNTED:
            code = error.code if isinstance(error, InklingError) else ErrorCode.INTERNAL
            self._metrics.observe("http", code, request.timings)
        without_frames(error)
        return response

    def is_quick(self, request: Request, names: Names) -> bool:
        """Return whether a classification may be quicker than a hand-over to a thread.

        This looks only at the names and at the start of the body.
        """
        try:
            return self._service.is_quick(_target(names), request.body)
        except InvalidRequest:
            return True

    def classify(self, request: Request, names: Names) -> Response:
        """Answer `:classify`: a prediction for each image of the body."""
        asked, options = self._asked(request, CLASSIFY, self._max_batch)
        answer = self._service.classify(
            _target(names),
            asked.images,
            options,
            names=asked.names,
            timings=request.timings,
            quickly=request.quickly,
        )
        return _answer_response(answer_json(answer), request, options)

    def explain(self, request: Request, names: Names) -> Response:
        """Answer `:explain`: a prediction, and each stage of the preprocessing."""
        asked, options = self._asked(request, EXPLAIN, 1)
        if len(asked.images) != 1:
            raise InvalidRequest(
                f"The request has {len(asked.images)} images; explain takes one."
            )
        answer, stages = self._service.explain(
            _target(names), asked.images[0], options, timings=request.timings
        )
        shown = {**answer_json(answer), "stages": stages_json(stages)}
        return _answer_response(shown, request, options)

    @staticmethod
    def _asked(
        request: Request, known: Sequence[str], max_images: int
    ) -> tuple[Envelope, HttpOptions]:
        """Return the content of a request, and its options from all places."""
        query = in_query(request.query, known)
        asked = envelope_of(request.headers, request.body, max_images, known)
        return asked, merged(query, asked.options)

    def models(self, request: Request, _: Names) -> Response:
        """Answer `GET /v1/models`."""
        in_query(request.query, NONE)
        models = [model_json(status) for status in self._service.models()]
        return _json_response(HTTPStatus.OK, {"models": models}, request.id)

    def model(self, request: Request, names: Names) -> Response:
        """Answer `GET /v1/models/NAME`."""
        in_query(request.query, NONE)
        if not names["model"]:
            raise NotFound(NOTHING_HERE)
        shown = model_json(self._service.model(names["model"]))
        return _json_response(HTTPStatus.OK, shown, request.id)

    def live(self, request: Request, _: Names) -> Response:
        """Answer `/livez`: this process can answer requests."""
        return _json_response(HTTPStatus.OK, {"live": True}, request.id)

    def ready(self, request: Request, _: Names) -> Response:
        """Answer `/readyz`: at least one model can classify."""
        self._service.check_ready()
        return _json_response(HTTPStatus.OK, {"ready": True}, request.id)

    def metrics(self, _: Request, __: Names) -> Response:
        """Answer `/metrics` in Prometheus's format, for all processes."""
        headers = {"content-type": CONTENT_TYPE_LATEST, "cache-control": "no-store"}
        return Response(HTTPStatus.OK.value, self._metrics.exposition(), headers)


_TARGETS = (
    "/v1/models/<name:model>",
    "/v1/models/<name:model>/versions/<name:version>",
    "/v1/models/<name:model>/labels/<name:version_label>",
)
ROUTES: tuple[Route, ...] = (
    *(Route("POST", target + ":classify", Handlers.classify) for target in _TARGETS),
    *(Route("POST", target + ":explain", Handlers.explain) for target in _TARGETS),
    Route("GET", "/v1/models", Handlers.models),
    Route("GET", "/v1/models/<name:model>", Handlers.model),
    Route("GET", "/livez", Handlers.live),
    Route("GET", "/readyz", Handlers.ready),
    Route("GET", "/metrics", Handlers.metrics),
)
_CLASSIFICATIONS = [r.pattern for r in ROUTES if r.handler is Handlers.classify]


def classification_names(request: Request) -> Names | None:
    """Return the names in the path of a classification; None for another request."""
    if request.method == "POST":
        for pattern in _CLASSIFICATIONS:
            if match := pattern.fullmatch(request.path):
                return match.groupdict()
    return None


def _error_response(error: Exception, request_id: str) -> Response:
    """Return the response for an error; an unexpected error goes to the log."""
    if not isinstance(error, InklingError):
        _log.error("request %s failed", request_id, exc_info=error)
        error = InternalError(
            "The server failed; your request is not the cause. The server's log has "
            "the error under this request id."
        )
    status = HTTP_STATUS[error.code]
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.info("request %s refused: %s", request_id, error.code)
    body = {**error_json(error), "request_id": request_id}
    extra = {}
    if isinstance(error, MethodNotAllowed):
        extra["allow"] = ", ".join(error.allowed)
    if status == HTTPStatus.UNAUTHORIZED:
        extra["www-authenticate"] = "Bearer"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra["retry-after"] = "1"
    return _json_response(status, {"error": body}, request_id, extra)


def _json_response(
    status: int,
    body: dict[str, Any],
    request_id: str,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    headers = {
        "content-type": "application/json",
        "x-request-id": request_id,
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        **extra,
    }
    return Response(int(status), orjson.dumps(body), headers)


def _answer_response(
    shown: dict[str, Any], request: Request, options: HttpOptions
) -> Response:
    started = perf_counter()
    response = _json_response(HTTPStatus.OK, shown, request.id)
    request.timings.encode = perf_counter() - started
    if options.timing:
        timing = {"server-timing": request.timings.server_timing()}
        return replace(response, headers={**response.headers, **timing})
    return response


def _target(names: Mapping[str, str | None]) -> Target:
    version = names.get("version")
    if version is not None and not _VERSION.fullmatch(version):
        raise InvalidRequest("A version is a whole number, such as /versions/3.")
    number = int(version) if version is not None else None
    return Target(names["model"] or "", number, names.get("version_label"))
