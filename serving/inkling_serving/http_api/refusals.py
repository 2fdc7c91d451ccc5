# SPDX-License-Identifier: Apache-2.0
"""The responses of HTTP to errors, in the form of the protocol of the address.

Each has the code word of the error in the header `X-Inkling-Error-Code`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import grpc

from inkling.errors import (
    ErrorCode,
    InklingError,
    InternalError,
    MethodNotAllowed,
    QuotaExceeded,
)
from inkling.gateway.status import GRPC_STATUS
from inkling_serving.grpc_api.errors import StatusError
from inkling_serving.http_api.messages import Response, json_response
from inkling_serving.http_api.response_json import error_json

__all__ = [
    "CODE_HEADER",
    "HTTP_STATUS",
    "error_response",
    "has_quota",
    "protocol_of",
    "status_of",
]

_log = logging.getLogger(__name__)

CODE_HEADER = "x-inkling-error-code"
HTTP_STATUS: Mapping[ErrorCode, HTTPStatus] = MappingProxyType(
    {
        ErrorCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
        ErrorCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
        ErrorCode.INVALID_IMAGE: HTTPStatus.BAD_REQUEST,
        ErrorCode.INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
        ErrorCode.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.MODEL_NOT_FOUND: HTTPStatus.NOT_FOUND,
        ErrorCode.UNKNOWN_REQUEST: HTTPStatus.NOT_FOUND,
        ErrorCode.NOT_READY: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
        ErrorCode.OVERLOADED: HTTPStatus.SERVICE_UNAVAILABLE,
        ErrorCode.QUOTA_EXCEEDED: HTTPStatus.TOO_MANY_REQUESTS,
        ErrorCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
        ErrorCode.METHOD_NOT_ALLOWED: HTTPStatus.METHOD_NOT_ALLOWED,
        ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    }
)

# TensorFlow Serving (http_server.cc) and Triton map the statuses of gRPC so.
_FOREIGN_STATUS: Mapping[grpc.StatusCode, HTTPStatus] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
        grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
        grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
        grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
        grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
        grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
        grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
        grpc.StatusCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    }
)
# `GET /v1/models/NAME` is an address of both protocols; its errors have our form.
_TENSORFLOW_SERVING = re.compile(
    r"/v1/models/[^/:]*(?:(?:/versions|/labels)/[^/:]*(?:/metadata|:predict)?"
    r"|/metadata|:predict)"
)


def has_quota(path: str) -> bool:
    """Return whether requests with a key for this path count, if keys have quotas."""
    # Prometheus asks with a key, too, and is no caller.
    return path != "/metrics"


def protocol_of(path: str) -> str:
    """Return the protocol of an address, under its name in the metrics."""
    if path == "/v2" or path.startswith("/v2/"):
        return "open_inference_http"
    if _TENSORFLOW_SERVING.fullmatch(path):
        return "tensorflow_serving_http"
    return "http"


def error_response(error: Exception, request_id: str, path: str) -> Response:
    """Return the response for an error; an unexpected error goes to the log."""
    fields = {"fields": {"request_id": request_id}}
    if not isinstance(error, InklingError):
        _log.error("request %s failed", request_id, exc_info=error, extra=fields)
        error = InternalError(
            "The server failed; your request is not the cause. The server's log has "
            "the error under this request id."
        )
    is_ours = protocol_of(path) == "http"
    status = status_of(error.code, is_ours)
    if isinstance(error, StatusError):
        status = _FOREIGN_STATUS[error.status]
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.info("request %s refused: %s", request_id, error.code, extra=fields)
    extra = {CODE_HEADER: str(error.code)}
    if isinstance(error, MethodNotAllowed):
        extra["allow"] = ", ".join(error.allowed)
    if status == HTTPStatus.UNAUTHORIZED:
        extra["www-authenticate"] = "Bearer"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra["retry-after"] = "1"
    if isinstance(error, QuotaExceeded):
        extra["retry-after"] = str(error.retry_after_s)
    ours = {**error_json(error), "request_id": request_id}
    body = {"error": ours if is_ours else error.message}
    return json_response(status, body, request_id, extra)


def status_of(code: ErrorCode, is_ours: bool) -> HTTPStatus:
    """Return the status of an error, at one of our own addresses or at another one."""
    if is_ours or code in (ErrorCode.NOT_FOUND, ErrorCode.METHOD_NOT_ALLOWED):
        return HTTP_STATUS[code]
    return _FOREIGN_STATUS[GRPC_STATUS[code]]
