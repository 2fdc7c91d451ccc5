"""Requests to a gateway's HTTP port, with deadlines, retries, keys and TLS."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from inkling.errors import ErrorCode, InklingError, InternalError, InvalidRequest
from inkling.gateway.connection import Connection
from inkling.gateway.error_classes import closed, error_of, not_reached, too_late
from inkling.gateway.http_pool import ConnectionPool, TimedConnection
from inkling.gateway.retries import RetryBudget

__all__ = ["Answer", "Exchange", "HttpTransport"]

_MAX_ANSWER_BYTES = 64 * 1024 * 1024
# Of an answer without Inkling's error body, such as a proxy's.
_CODE_OF_STATUS: Mapping[int, ErrorCode] = MappingProxyType(
    {
        HTTPStatus.BAD_REQUEST: ErrorCode.INVALID_REQUEST,
        HTTPStatus.UNAUTHORIZED: ErrorCode.UNAUTHENTICATED,
        HTTPStatus.FORBIDDEN: ErrorCode.UNAUTHENTICATED,
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
# What gRPC calls UNAVAILABLE, by its own mapping; only these are tried again.
_UNAVAILABLE = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
# How a connection ends that the server has closed.
_CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
# OpenSSL's X509_V_ERR_* in words.
_CERTIFICATE_FAULTS: Mapping[int, str] = MappingProxyType(
    {
        10: "has expired",
        18: "is signed by itself",
        19: "is signed by an authority that is not trusted",
        20: "is signed by an authority that is not trusted",
        62: "is for another host name",
        64: "is for another address",
    }
)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpTransport:
    """Sends requests to one gateway; threads may share it."""

    def __init__(
        self, connection: Connection, tls: ssl.SSLContext | None = None
    ) -> None:
        """Take where the gateway is; nothing is sent yet.

        Args:
            connection: Its target is a URL, such as `http://localhost:8080`; a path in
                it stands before the path of every request.
            tls: What to trust instead of what the connection says.

        Raises:
            InvalidRequest: The URL is impossible, or names certificates without TLS.
        """
        url = _parsed(connection.target)
        if url.scheme == "http" and connection.is_encrypted:
            raise InvalidRequest(
                f"{connection.target:.100} is not encrypted, but tls or certificates "
                "are given; write https://."
            )
        self.target = connection.target.rstrip("/")
        self.timeout_s = connection.timeout_s
        self.headers = connection.authorization
        self.path = url.path.rstrip("/")
        if url.scheme == "https" and tls is None:
            tls = connection.tls_context()
        self.pool = ConnectionPool(url, tls)
        self.budget = RetryBudget()

    def begin(self, method: str, path: str, body: bytes | None = None) -> Exchange:
        """Send a request; a failure to send it is raised by the exchange's result."""
        exchange = Exchange(self, method, self.path + path, body)
        exchange.send()
        return exchange

    def json(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Send a request and return the JSON of its answer.

        Raises:
            InklingError: As `Exchange.json`.
        """
        return self.begin(method, path, body).json()

    def once(self, method: str, path: str) -> Answer:
        """Send a request without a body once; return its answer, whatever its status.

        Raises:
            NotReady: The address cannot be reached.
            DeadlineExceeded: There was no answer in time.
        """
        return self.begin(method, path).attempted()

    def close(self) -> None:
        """Close the connections, and end the exchanges under way."""
        self.pool.close()


class Exchange:
    """A request that was sent, and whose answer has not been read yet."""

    def __init__(
        self, transport: HttpTransport, method: str, path: str, body: bytes | None
    ) -> None:
        self._transport = transport
        self._request = method, path, body
        self._deadline_s = monotonic() + transport.timeout_s
        self._generation = transport.pool.generation
        self._connection: TimedConnection | None = None
        self._failure: Exception | None = None

    def send(self, *, fresh: bool = False) -> None:
        """Send the request, on a kept connection unless it is to be a fresh one."""
        transport = self._transport
        self._failure = None
        self._connection = transport.pool.take(self._deadline_s, fresh=fresh)
        method, path, body = self._request
        try:
            self._connection.request(method, path, body, transport.headers)
        except (OSError, http.client.HTTPException) as error:
            # Who refuses a body early may have answered before the connection broke.
            if self._connection.sock is None or not isinstance(error, _CLOSED):
                self._failure = error
                self._drop()

    def json(self) -> Any:
        """Return the JSON of an answer with status 200, after retries if needed.

        Raises:
            InklingError: The gateway refused the request, is not there, or did not
                answer in time.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self.attempted()
            except InklingError as error:
                if error.code != ErrorCode.NOT_READY or self._is_closed:
                    raise
                refusal, asked_s = error, None
            else:
                if answer.status not in _UNAVAILABLE:
                    self._transport.budget.succeeded()
                    return _json_of(answer, self._transport.target)
                refusal = _refusal(answer, self._transport.target)
                asked_s = _retry_after_s(answer)
            pause_s = self._transport.budget.pause_s(attempt, asked_s)
            if pause_s is None or monotonic() + pause_s >= self._deadline_s:
                raise refusal
            time.sleep(pause_s)
            if self._is_closed:
                raise closed()
            self.send()

    def attempted(self) -> Answer:
        """Return the answer to what has been sent, whatever its status.

        Raises:
            NotReady: The address cannot be reached.
            DeadlineExceeded: There was no answer in time.
        """
        try:
            return self._read()
        except (OSError, http.client.HTTPException) as error:
            raise self._error(error) from None

    def cancel(self) -> None:
        """Give the answer up."""
        self._drop()

    @property
    def _is_closed(self) -> bool:
        return self._generation != self._transport.pool.generation

    def _read(self) -> Answer:
        connection = self._connection
        if connection is None:
            raise self._failure or ConnectionError
        try:
            return self._answer(connection)
        except _CLOSED:
            # A server may close a connection that it kept, just as it is used again.
            if not connection.is_kept or self._is_closed:
                raise
        self.send(fresh=True)
        if self._connection is None:
            raise self._failure or ConnectionError
        return self._answer(self._connection)

    def _answer(self, connection: TimedConnection) -> Answer:
        try:
            response = connection.getresponse()
            with response:
                body = response.read(_MAX_ANSWER_BYTES)
            if response.length or len(body) == _MAX_ANSWER_BYTES:
                raise http.client.IncompleteRead(body)
        except (OSError, http.client.HTTPException):
            self._drop()
            raise
        headers = {name.lower(): value for name, value in response.getheaders()}
        self._connection = None
        self._transport.pool.give_back(connection, reusable=not response.will_close)
        return Answer(response.status, headers, body)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.pool.give_back(connection, reusable=False)

    def _error(self, failure: Exception) -> InklingError:
        if self._is_closed:
            return closed()
        target = self._transport.target
        if isinstance(failure, TimeoutError):
            return too_late(target)
        return not_reached(target, _reason(failure))


def _parsed(target: str) -> SplitResult:
    try:
        url = urlsplit(target)
        host, port = url.hostname, url.port
        known = url.scheme in ("http", "https")
        (host or "").encode("idna")
    except ValueError:  # UnicodeError is one
        host, port, known = None, None, False
    if not known or not host or port == 0:
        raise InvalidRequest(
            f"{target!r:.100} is not the address of a gateway; expected one such as "
            "http://localhost:8080 or https://HOST/PREFIX."
        )
    if "@" in url.netloc or url.query or url.fragment or not target.isprintable():
        raise InvalidRequest(
            "The URL of a gateway has a host, a port and perhaps a path, and nothing "
            "else; give an API key with api_key."
        )
    return url


def _reason(failure: Exception) -> str:
    if isinstance(failure, ssl.SSLCertVerificationError):
        fault = _CERTIFICATE_FAULTS.get(failure.verify_code, "is not valid")
        return f"its certificate {fault} (root_certificates names whom to trust)"
    if isinstance(failure, ssl.SSLError):
        if "ALERT" in (failure.reason or ""):
            return (
                "it refuses the TLS connection; does it ask for a client certificate "
                "(client_certificate and client_key)?"
            )
        return "it does not speak TLS; is it an http:// address?"
    if isinstance(failure, socket.gaierror):
        return "there is no such host"
    if isinstance(failure, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(failure, ConnectionError | http.client.IncompleteRead):
        return "the connection broke"
    if isinstance(failure, http.client.HTTPException):
        return "what answers does not speak HTTP; is it a gRPC or https:// port?"
    words = failure.strerror if isinstance(failure, OSError) else None
    return words or "the connection failed"


def _json_of(answer: Answer, target: str) -> Any:
    if answer.status != HTTPStatus.OK:
        raise _refusal(answer, target)
    try:
        return json.loads(answer.body)
    except ValueError:
        raise InternalError(
            f"{target} did not answer as a gateway of Inkling does; is this its "
            "address?"
        ) from None


def _refusal(answer: Answer, target: str) -> InklingError:
    """Return the error for an answer with another status than 200."""
    try:
        error = json.loads(answer.body)["error"]
        return error_of(str(error["code"]), str(error["message"]))
    except (ValueError, KeyError, TypeError):
        pass
    code = _CODE_OF_STATUS.get(answer.status, ErrorCode.INTERNAL)
    where = answer.headers.get("location", "")
    hint = f" and names {where:.200}; give that address" if where else ""
    return error_of(
        code,
        f"{target} answered {answer.status} as no gateway of Inkling does{hint}. Is "
        "this its address?",
    )


def _retry_after_s(answer: Answer) -> float | None:
    text = answer.headers.get("retry-after", "").strip()
    return float(text) if text.isdecimal() and len(text) <= 6 else None
