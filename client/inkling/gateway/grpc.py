# SPDX-License-Identifier: Apache-2.0
"""The classifier behind a gateway's gRPC port."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from inkling.gateway.channel import (
    Line,
    Lines,
    channel_options,
    credentials,
    error_of_call,
    grpc_connection,
    prediction_of,
    request_for,
)
from inkling.gateway.error_classes import closed
from inkling.gateway.remote import RemoteClassifier
from inkling.gateway.versions import contract_of
from inkling.v1 import classifier_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inkling.contract import Contract
    from inkling.errors import InklingError
    from inkling.types import ClassifyOptions, Prediction

__all__ = ["GrpcClassifier"]


class GrpcClassifier(RemoteClassifier):
    """A classifier behind a gateway's gRPC port; it connects on first use."""

    _window = 16

    def __init__(self, target: str, **options: Any) -> None:
        """Take the address of the gateway; nothing is sent yet.

        Args:
            target: `host:port` of the gateway's gRPC port, or `grpc://host:port`.
            options: The attributes of `inkling.gateway.connection.Connection`.

        Raises:
            InvalidRequest: The address or an option is impossible.
        """
        self._connection = grpc_connection(target, options)
        self._metadata = list(self._connection.headers.items())
        self._lock = threading.Lock()
        self._lines = Lines(self._opened)
        self._closings = 0
        self._process = os.getpid()

    def contract(self) -> Contract:
        """Return the contract of the version that answers now, as the gateway has it.

        Raises:
            InklingError: No version is ready, or the gateway cannot be reached.
        """
        request = pb.GetModelRequest(model=self._connection.model)
        model = self._answered("GetModel", request)
        return contract_of(self._connection, model.versions)

    def close(self) -> None:
        """Close the connections; a later call connects."""
        with self._lock:
            self._closings += 1
            # A call that this ends finds that its line is no longer open.
            channels = self._lines.take_down()
            for channel in channels if self._process == os.getpid() else ():
                channel.close()

    @property
    def _generation(self) -> int:
        return self._closings

    def _begin(self, image: bytes, options: ClassifyOptions) -> _GrpcCall:
        request = request_for(self._connection, image, options)
        lines = self._own_lines()
        line = lines.take()
        try:
            with self._refusing(line):
                future = line.stub.Classify.future(
                    request, timeout=self._connection.timeout_s, metadata=self._metadata
                )
        except BaseException:
            lines.give_back(line)
            raise
        future.add_done_callback(lambda _: lines.give_back(line))
        return _GrpcCall(future, options, lambda: self._error(line, future))

    def _ask(self, image: bytes, options: ClassifyOptions) -> Prediction:
        request = request_for(self._connection, image, options)
        return prediction_of(self._answered("Classify", request), options)

    def _answered(self, method: str, request: Any) -> Any:
        """Return the answer to one call; a future would take half as much CPU again."""
        lines = self._own_lines()
        line = lines.take()
        try:
            with self._refusing(line):
                return getattr(line.stub, method)(
                    request, timeout=self._connection.timeout_s, metadata=self._metadata
                )
        finally:
            lines.give_back(line)

    @contextmanager
    def _refusing(self, line: Line) -> Iterator[None]:
        """Turn the errors of gRPC into ours; a closed channel raises ValueError."""
        try:
            yield
        except grpc.RpcError as error:
            raise self._error(line, error) from None
        except ValueError:
            if line in self._lines:
                raise
            raise closed() from None

    def _error(self, line: Line, call: Any) -> InklingError:
        if line not in self._lines:
            return closed()
        return error_of_call(self._connection, call)

    def _own_lines(self) -> Lines:
        """Return the lines of this process; a child that was forked has none yet."""
        with self._lock:
            if self._process != os.getpid():
                self._process, self._lines = os.getpid(), Lines(self._opened)
            return self._lines

    def _opened(self) -> grpc.Channel:
        target, secret = (
            self._connection.address.grpc_target,
            credentials(self._connection),
        )
        options = channel_options(self._connection)
        if secret is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, secret, options)


class _GrpcCall:
    """A classification under way."""

    def __init__(
        self, future: Any, options: ClassifyOptions, error: Callable[[], InklingError]
    ) -> None:
        self._future, self._options, self._error = future, options, error

    def result(self) -> Prediction:
        try:
            return prediction_of(self._future.result(), self._options)
        except (grpc.RpcError, grpc.FutureCancelledError):
            raise self._error() from None

    def cancel(self) -> None:
        self._future.cancel()
