# SPDX-License-Identifier: Apache-2.0
"""The classifier behind a gateway's gRPC port."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from inkling.gateway.channel import (
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
from inkling.v1.classifier_pb2_grpc import ClassifierStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inkling.contract import Contract
    from inkling.errors import InklingError
    from inkling.types import ClassifyOptions, Prediction

__all__ = ["GrpcClassifier"]


class GrpcClassifier(RemoteClassifier):
    """A classifier behind a gateway's gRPC port; its channel is made on first use."""

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
        self._channel: grpc.Channel | None = None
        self._stub: ClassifierStub | None = None
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
        """Close the channel; a later call opens another."""
        with self._lock:
            self._closings += 1
            # A call that this ends finds that the stub is no longer its own.
            channel, self._channel, self._stub = self._channel, None, None
            if channel is not None and self._process == os.getpid():
                channel.close()

    @property
    def _generation(self) -> int:
        return self._closings

    def _begin(self, image: bytes, options: ClassifyOptions) -> _GrpcCall:
        request = request_for(self._connection, image, options)
        stub = self._ready_stub()
        with self._refusing(stub):
            future = stub.Classify.future(
                request, timeout=self._connection.timeout_s, metadata=self._metadata
            )
        return _GrpcCall(future, options, lambda: self._error(stub, future))

    def _ask(self, image: bytes, options: ClassifyOptions) -> Prediction:
        request = request_for(self._connection, image, options)
        return prediction_of(self._answered("Classify", request), options)

    def _answered(self, method: str, request: Any) -> Any:
        """Return the answer to one call; a future would take half as much CPU again."""
        stub = self._ready_stub()
        with self._refusing(stub):
            return getattr(stub, method)(
                request, timeout=self._connection.timeout_s, metadata=self._metadata
            )

    @contextmanager
    def _refusing(self, stub: ClassifierStub) -> Iterator[None]:
        """Turn the errors of gRPC into ours; a closed channel raises ValueError."""
        try:
            yield
        except grpc.RpcError as error:
            raise self._error(stub, error) from None
        except ValueError:
            if stub is self._stub:
                raise
            raise closed() from None

    def _error(self, stub: ClassifierStub, call: Any) -> InklingError:
        if stub is not self._stub:
            return closed()
        return error_of_call(self._connection, call)

    def _ready_stub(self) -> ClassifierStub:
        with self._lock:
            if self._stub is None or self._process != os.getpid():
                self._process = os.getpid()
                self._channel = self._opened()
                self._stub = ClassifierStub(self._channel)  # type: ignore[no-untyped-call]
            return self._stub

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
