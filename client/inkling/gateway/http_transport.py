# SPDX-License-Identifier: Apache-2.0
"""Requests to a gateway's HTTP port, with deadlines, retries, keys and TLS."""

from __future__ import annotations

import http.client
import ssl
import time
from time import monotonic
from typing import Any

from inkling.errors import ErrorCode, InklingError, InvalidRequest
from inkling.gateway.connection import Connection
from inkling.gateway.error_classes import closed
from inkling.gateway.http_answers import Answer, error_of_failure
from inkling.gateway.http_pool import ConnectionPool, TimedConnection
from inkling.gateway.retries import RetryBudget

__all__ = ["Exchange", "HttpTransport"]

_MAX_ANSWER_BYTES = 64 * 1024 * 1024
# The errors of a connection that the server has closed.
_CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class HttpTransport:
    """Sends requests to one gateway; threads may share it."""

    def __init__(
        self, connection: Connection, tls: ssl.SSLContext | None = None
    ) -> None:
        """Take the address of the gateway; nothing is sent yet.

        Args:
            connection: Its target is a URL, such as `http://localhost:8080`; a path in
                it stands before the path of every request.
            tls: Replaces the certificates that the connection names.

        Raises:
            InvalidRequest: The address is not one of an HTTP port.
        """
        address = connection.address
        if address.is_grpc:
            raise InvalidRequest(
                f"{connection.target!r:.100} is not the address of an HTTP port; "
                "expected one such as http://localhost:8080 or https://HOST/PREFIX."
            )
        self.target = connection.shown
        self.timeout_s = connection.timeout_s
        self.headers = connection.headers
        self.path = address.path
        if address.is_encrypted and tls is None:
            tls = connection.context
        self.pool = ConnectionPool(address, tls, connection.proxy)
        self.budget = RetryBudget()

    def begin(self, method: str, path: str, body: bytes | None = None) -> Exchange:
        """Send a request; its exchange raises the error if it could not be sent."""
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
        return self.begin(method, path).answer()

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
        self._is_sent = True

    def send(self, *, fresh: bool = False) -> None:
        """Send the request, on a kept connection unless it is to be a fresh one."""
        transport = self._transport
        self._failure, self._is_sent = None, True
        self._connection = transport.pool.take(self._deadline_s, fresh=fresh)
        method, path, body = self._request
        try:
            self._connection.request(method, path, body, transport.headers)
            if self._is_closed:  # before there was a connection to interrupt
                raise TimeoutError
        except (OSError, http.client.HTTPException) as error:
            # A server that refuses a body early may answer before it closes the
            # connection, so that an answer is looked for.
            self._is_sent = False
            if self._connection.sock is None or not isinstance(error, _CLOSED):
                self._failure = error
                self._drop()

    def json(self) -> Any:
        """Return the JSON of an answer with status 200, after retries if needed.

        Raises:
            InklingError: The gateway refused the request, is not there, or did not
                answer in time.
        """
        target, attempt = self._transport.target, 0
        while True:
            attempt += 1
            outcome = self._outcome()
            asked_s = None
            if isinstance(outcome, Answer):
                if not outcome.is_unavailable:
                    self._transport.budget.succeeded()
                    return outcome.json(target)
                asked_s, outcome = outcome.retry_after_s, outcome.refusal(target)
            pause_s = self._transport.budget.pause_s(attempt, asked_s)
            if pause_s is None or monotonic() + pause_s >= self._deadline_s:
                raise outcome
            time.sleep(pause_s)
            if self._is_closed:
                raise closed()
            self.send()

    def answer(self) -> Answer:
        """Return the answer to the request, whatever its status, without retries.

        Raises:
            NotReady: The address cannot be reached.
            DeadlineExceeded: There was no answer in time.
        """
        try:
            return self._read()
        except (OSError, http.client.HTTPException) as error:
            if self._is_closed:
                raise closed() from None
            transport = self._transport
            why = transport.pool.diagnosis() if _may_be_another(error) else ""
            raise error_of_failure(error, transport.target, why) from None

    def cancel(self) -> None:
        """End the exchange without its answer."""
        self._drop()

    @property
    def _is_closed(self) -> bool:
        return self._generation != self._transport.pool.generation

    def _outcome(self) -> Answer | InklingError:
        """Return the answer, or the error after which another attempt may help.

        Raises:
            InklingError: Another attempt would not help.
        """
        try:
            return self.answer()
        except InklingError as error:
            if error.code != ErrorCode.NOT_READY or self._is_closed:
                raise
            return error

    def _read(self) -> Answer:
        connection = self._connection
        if connection is None:
            raise self._failure or ConnectionError
        try:
            return self._received(connection)
        except _CLOSED:
            # A server may close a kept connection just when it is used again.
            if not connection.is_kept or self._is_closed:
                raise
        self.send(fresh=True)
        if self._connection is None:
            raise self._failure or ConnectionError
        return self._received(self._connection)

    def _received(self, connection: TimedConnection) -> Answer:
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
        reusable = self._is_sent and not response.will_close
        self._transport.pool.give_back(connection, reusable=reusable)
        return Answer(response.status, headers, body)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.pool.give_back(connection, reusable=False)


def _may_be_another(error: Exception) -> bool:
    """Return whether a server that speaks another protocol can be the reason."""
    broken = isinstance(error, ConnectionError | http.client.HTTPException)
    said = isinstance(error, ConnectionRefusedError | http.client.IncompleteRead)
    return broken and not said
