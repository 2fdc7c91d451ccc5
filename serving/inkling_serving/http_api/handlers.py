"""The HTTP surface: handlers from a request value to a response value.

A handler reads the envelope, calls the service and writes the answer; it has no other
logic. Two doors lead here: Flask (`inkling_serving.http_api.flask_app`), which knows every address,
and the server front (`inkling_serving.http_api.asgi_app`), which hands over classifications.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import orjson

from inkling.errors import (
    ErrorCode,
    InklingError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from inkling_serving.http_api.request_body import envelope_of
from inkling_serving.http_api.response_json import answer_json, model_json, stage_json
from inkling_serving.runtime.metrics import CONTENT_TYPE_LATEST
from inkling_serving.runtime.timings import Trace
from inkling_serving.service import Target

if TYPE_CHECKING:
    from inkling_serving.runtime.metrics import Metrics
    from inkling_serving.service import Service

__all__ = [
    "CLASSIFY_PATH",
    "HTTP_STATUS",
    "OPEN_PATHS",
    "Gateway",
    "Request",
    "Response",
    "error_response",
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

# What is asked again and again by machines; neither counted nor ever in a queue.
OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
# Nothing hangs on an id but to be another one; asking the system takes four times as
# long as all else about it.
_ids = random.Random()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TARGET = (
    r"/v1/models/(?P<model>[^/:]*)"
    r"(?:/versions/(?P<version>[^/:]*)|/labels/(?P<version_label>[^/:]*))?"
)
CLASSIFY_PATH = re.compile(_TARGET + ":classify")
_EXPLAIN_PATH = re.compile(_TARGET + ":explain")
_TOP_K = re.compile(r"[1-9][0-9]{0,5}")
_VERSION = re.compile(r"-?[0-9]{1,19}")


@dataclass(slots=True)
class Request:
    """What a door hands over: everything of an HTTP request that matters here.

    Attributes:
        method: In capitals.
        path: Percent-decoded, without the query.
        query: What follows the `?`, still encoded.
        headers: By lower-case name.
        body: The whole body; a door has refused one that was too long.
        trace: Takes note of how it is answered.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    trace: Trace = field(default_factory=Trace)

    @property
    def id(self) -> str:
        """The caller's `X-Request-Id`, or a new one where that is no plain word."""
        given = self.headers.get("x-request-id", "")
        if _REQUEST_ID.fullmatch(given):
            return given
        return f"{_ids.getrandbits(128):032x}"


@dataclass(frozen=True)
class Response:
    """What a door sends back."""

    status: int
    body: bytes
    headers: Mapping[str, str]


_Names = Mapping[str, str | None]
_Handler = Callable[["Gateway", Request, _Names], Response]


class Gateway:
    """Answers requests with a service."""

    def __init__(self, service: Service, metrics: Metrics, max_batch: int) -> None:
        self._service = service
        self._metrics = metrics
        self._max_batch = max_batch

    def handle(self, request: Request, names: _Names | None = None) -> Response:
        """Return the answer to a request; never raises.

        With `names`, which its path names, it is known to be a classification.
        """
        try:
            if names is None:
                response = self._answer(request)
            else:
                response = self._classify(request, names)
        except Exception as error:  # noqa: BLE001 - the edge: nothing passes it
            return self.refuse(error, request)
        if request.path not in OPEN_PATHS:
            self._metrics.observe("http", "ok", request.trace)
        return response

    def refuse(self, error: Exception, request: Request) -> Response:
        """Return the answer to a request that failed, and count it."""
        response = error_response(error, request.id)
        if request.path not in OPEN_PATHS:
            code = error.code if isinstance(error, InklingError) else ErrorCode.INTERNAL
            self._metrics.observe("http", code, request.trace)
        return response

    def is_quick(self, request: Request, names: _Names) -> bool:
        """Whether a classification is answered sooner than a thread is found for it."""
        try:
            return self._service.is_quick(_target(names), request.body)
        except InvalidRequest:
            return True

    def _answer(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        allowed = []
        for route_method, pattern, handler in _ROUTES:
            match = pattern.fullmatch(request.path)
            if match and route_method == method:
                return handler(self, request, match.groupdict())
            if match:
                allowed.append(route_method)
        if allowed:
            raise MethodNotAllowed(_printable(request.method), tuple(sorted(allowed)))
        raise NotFound(
            "There is nothing at this address. GET /v1/models lists the models; POST a "
            "picture to /v1/models/NAME:classify."
        )

    def _classify(self, request: Request, names: _Names) -> Response:
        query = _Query.of(request)
        asked = envelope_of(request.headers, request.body, self._max_batch)
        answer = self._service.classify(
            _target(names),
            asked.images,
            query.top_k,
            abstain=query.abstain or asked.abstain,
            trace=request.trace,
        )
        return _answer_response(answer_json(answer), request, query)

    def _explain(self, request: Request, names: _Names) -> Response:
        query = _Query.of(request)
        asked = envelope_of(request.headers, request.body, 1)
        if len(asked.images) != 1:
            raise InvalidRequest(f"Explain takes one image; {len(asked.images)} came.")
        answer, stages = self._service.explain(
            _target(names),
            asked.images[0],
            query.top_k,
            abstain=query.abstain or asked.abstain,
            trace=request.trace,
        )
        shown = {**answer_json(answer), "stages": [stage_json(s) for s in stages]}
        return _answer_response(shown, request, query)

    def _models(self, request: Request, _: _Names) -> Response:
        models = [model_json(status) for status in self._service.models()]
        return _json_response(HTTPStatus.OK, {"models": models}, request.id)

    def _model(self, request: Request, names: _Names) -> Response:
        shown = model_json(self._service.model(names["model"] or ""))
        return _json_response(HTTPStatus.OK, shown, request.id)

    def _live(self, request: Request, _: _Names) -> Response:
        return _json_response(HTTPStatus.OK, {"live": True}, request.id)

    def _ready(self, request: Request, _: _Names) -> Response:
        self._service.check_ready()
        return _json_response(HTTPStatus.OK, {"ready": True}, request.id)

    def _measured(self, _: Request, __: _Names) -> Response:
        headers = {"content-type": CONTENT_TYPE_LATEST, "cache-control": "no-store"}
        return Response(HTTPStatus.OK.value, self._metrics.exposition(), headers)


# The order of the attempts: what is asked most comes first.
_ROUTES: tuple[tuple[str, re.Pattern[str], _Handler], ...] = (
    ("POST", CLASSIFY_PATH, Gateway._classify),
    ("GET", re.compile("/livez"), Gateway._live),
    ("GET", re.compile("/readyz"), Gateway._ready),
    ("GET", re.compile("/metrics"), Gateway._measured),
    ("GET", re.compile("/v1/models"), Gateway._models),
    ("GET", re.compile(r"/v1/models/(?P<model>[^/:]+)"), Gateway._model),
    ("POST", _EXPLAIN_PATH, Gateway._explain),
)


def error_response(error: Exception, request_id: str) -> Response:
    """Return the answer to a failed request; what was not foreseen goes to the log."""
    if not isinstance(error, InklingError):
        _log.error("request %s failed", request_id, exc_info=error)
        error = InternalError(
            "Something went wrong here, not with your request. The log has it under "
            "the request id."
        )
    status = HTTP_STATUS[error.code]
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.info("request %s refused: %s", request_id, error.code)
    body = {"code": error.code, "message": error.message, "request_id": request_id}
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
    shown: dict[str, Any], request: Request, query: _Query
) -> Response:
    started = perf_counter()
    response = _json_response(HTTPStatus.OK, shown, request.id)
    request.trace.encode = perf_counter() - started
    if query.timing:
        timing = {"server-timing": request.trace.server_timing()}
        return replace(response, headers={**response.headers, **timing})
    return response


def _target(names: Mapping[str, str | None]) -> Target:
    version = names["version"]
    if version is not None and not _VERSION.fullmatch(version):
        raise InvalidRequest("A version is a whole number, such as /versions/3.")
    number = int(version) if version is not None else None
    return Target(names["model"] or "", number, names["version_label"])


@dataclass(frozen=True, slots=True)
class _Query:
    """What the query of a classification asks for."""

    top_k: int = 1
    abstain: bool = False
    timing: bool = False

    @classmethod
    def of(cls, request: Request) -> _Query:
        if not request.query:
            return _EMPTY_QUERY
        try:
            values = parse_qs(request.query, keep_blank_values=True, max_num_fields=16)
        except ValueError:
            raise InvalidRequest("The query has more fields than there are.") from None
        top_k = values.get("top_k", ["1"])[-1]
        if not _TOP_K.fullmatch(top_k):
            raise InvalidRequest("top_k must be a whole number, 1 or more: ?top_k=3")
        return cls(int(top_k), _switch("abstain", values), _switch("timing", values))


_EMPTY_QUERY = _Query()


def _switch(name: str, values: Mapping[str, list[str]]) -> bool:
    text = values.get(name, ["false"])[-1]
    if text not in ("true", "false"):
        raise InvalidRequest(f"{name} must be true or false: ?{name}=true")
    return text == "true"


def _printable(text: str) -> str:
    return text if text.isascii() and text.isalpha() else "This method"
