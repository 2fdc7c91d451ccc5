# SPDX-License-Identifier: Apache-2.0
"""Answers of an HTTP port: their JSON, or the error that they and failures mean."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from inkling.errors import ErrorCode, InklingError, InternalError
from inkling.gateway.error_classes import error_of, is_known, not_reached, too_late
from inkling.gateway.http_pool import ProxyRefused
from inkling.network.diagnosis import tls_fault

__all__ = ["Answer", "error_of_failure", "no_gateway"]

# The status of an answer without Inkling's error body, such as a proxy's.
_CODE_OF_STATUS: Mapping[int, ErrorCode] = MappingProxyType(
    {
        HTTPStatus.BAD_REQUEST: ErrorCode.INVALID_REQUEST,
        HTTPStatus.UNAUTHORIZED: ErrorCode.UNAUTHENTICATED,
        HTTPStatus.FORBIDDEN: ErrorCode.PERMISSION_DENIED,
        HTTPStatus.NOT_FOUND: ErrorCode.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED: ErrorCode.NOT_FOUND,
        HTTPStatus.REQUEST_TIMEOUT: ErrorCode.DEADLINE_EXCEEDED,
        HTTPStatus.GONE: ErrorCode.NOT_FOUND,
        HTTPStatus.LENGTH_REQUIRED: ErrorCode.INVALID_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ErrorCode.TOO_LARGE,
        HTTPStatus.REQUEST_URI_TOO_LONG: ErrorCode.INVALID_REQUEST,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY: ErrorCode.INVALID_REQUEST,
        HTTPStatus.TOO_MANY_REQUESTS: ErrorCode.OVERLOADED,
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: ErrorCode.INVALID_REQUEST,
        HTTPStatus.NOT_IMPLEMENTED: ErrorCode.NOT_FOUND,
        HTTPStatus.BAD_GATEWAY: ErrorCode.NOT_READY,
        HTTPStatus.SERVICE_UNAVAILABLE: ErrorCode.NOT_READY,
        HTTPStatus.GATEWAY_TIMEOUT: ErrorCode.DEADLINE_EXCEEDED,
    }
)
# The statuses that gRPC maps to UNAVAILABLE, without 504; only these are tried again.
_UNAVAILABLE = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_unavailable(self) -> bool:
        """Whether the server could not take the request, and another attempt may."""
        return self.status in _UNAVAILABLE

    @property
    def retry_after_s(self) -> float | None:
        """The seconds that the server asks to wait; None if it does not."""
        text = self.headers.get("retry-after", "").strip()
        if text.isdecimal():
            return float(text) if len(text) <= 6 else None
        try:
            return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
        except (ValueError, OverflowError):
            return None

    def json(self, target: str) -> Any:
        """Return the JSON of an answer with status 200.

        Raises:
            InklingError: The answer has another status or another form; the message
                names `target`, where no gateway of Inkling answered.
        """
        if self.status != HTTPStatus.OK:
            raise self.refusal(target)
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise no_gateway(target) from None

    def refusal(self, target: str) -> InklingError:
        """Return the error for an answer with another status than 200."""
        try:
            error = json.loads(self.body)["error"]
            code, message = error["code"], error["message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return self._refusal_of_another(target)
        if not isinstance(code, str) or not isinstance(message, str):
            return self._refusal_of_another(target)
        return error_of(code if is_known(code) else self._code, message)

    @property
    def _code(self) -> ErrorCode:
        """The code that the status alone means."""
        return _CODE_OF_STATUS.get(self.status, ErrorCode.INTERNAL)

    def _refusal_of_another(self, target: str) -> InklingError:
        place = self.headers.get("location", "")
        hint = f" and names {place:.200}; give that address" if place else ""
        return error_of(
            self._code,
            f"{target} answered {self.status} as no gateway of Inkling does{hint}. Is "
            "this its address?",
        )


def no_gateway(target: str) -> InternalError:
    """Return the error for an answer that is not of the form of Inkling's."""
    return InternalError(
        f"{target} did not answer as a gateway of Inkling does; is this its address?"
    )


def error_of_failure(failure: Exception, target: str, why: str = "") -> InklingError:
    """Return the error for a request that got no answer.

    Args:
        failure: What was raised.
        target: The address, with the proxy if there is one.
        why: What the server speaks in place of HTTP, if that is known.
    """
    if isinstance(failure, TimeoutError):
        return too_late(target)
    return not_reached(target, why or _reason(failure))


def _reason(failure: Exception) -> str:
    if isinstance(failure, ProxyRefused):
        return str(failure)
    if isinstance(failure, ssl.SSLError):
        return tls_fault(failure)
    if isinstance(failure, socket.gaierror):
        return "there is no such host"
    if isinstance(failure, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(failure, ConnectionError | http.client.IncompleteRead):
        return "the connection broke"
    if isinstance(failure, http.client.HTTPException):
        return "the server there does not speak HTTP; is it a gRPC or https:// port?"
    words = failure.strerror if isinstance(failure, OSError) else None
    return words or "the connection failed"
