"""Classifies over gRPC."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

import grpc

from inkling.errors import InklingError, NotReady
from inkling.gateway.channel import (
    Connection,
    contract_of,
    error_of_call,
    prediction_of,
    request_for,
)
from inkling.image.pictures import encoded, raising
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling.image.pictures import Picture
    from inkling.types import Prediction

__all__ = ["GrpcClassifier"]

# Requests of `classify_many` that are under way at once.
_WINDOW = 16


class GrpcClassifier:
    """A classifier behind a gateway's gRPC port.

    The channel is made on first use and belongs to the process that made it: after a
    fork, the child makes its own.
    """

    def __init__(self, target: str, **options: Any) -> None:
        """Take where the gateway is; the options are those of `Connection`."""
        self._connection = Connection.to(target, options)
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._stub: ClassifierStub | None = None
        self._process = os.getpid()

    def classify(
        self, picture: Picture, top_k: int = 1, *, abstain: bool = False
    ) -> Prediction:
        """Return what the model says of one picture."""
        return _finished(self._started(picture, top_k, abstain))

    def outcomes(
        self, pictures: Iterable[Picture], top_k: int = 1, *, abstain: bool = False
    ) -> Iterator[Prediction | InklingError]:
        """Yield a prediction or an error per picture, with a few requests under way."""
        under_way: deque[Any] = deque()
        try:
            for picture in pictures:
                under_way.append(self._begun(picture, top_k, abstain))
                if len(under_way) >= _WINDOW:
                    yield _outcome(under_way.popleft())
            while under_way:
                yield _outcome(under_way.popleft())
        finally:
            for call in under_way:
                if not isinstance(call, InklingError):
                    call.cancel()

    def classify_many(
        self, pictures: Iterable[Picture], top_k: int = 1, *, abstain: bool = False
    ) -> Iterator[Prediction]:
        """Yield a prediction per picture, in order, with a few requests under way."""
        return raising(self.outcomes(pictures, top_k, abstain=abstain))

    def contract(self) -> Contract:
        """Return what the version that answers now expects, as the gateway says."""
        call = self._ready_stub().GetModel.future(
            pb.GetModelRequest(model=self._connection.model),
            timeout=self._connection.timeout_s,
            metadata=self._connection.metadata,
        )
        return contract_of(self._connection, _result(call))

    def close(self) -> None:
        """Close the channel; a later call opens another."""
        with self._lock:
            if self._channel is not None and self._process == os.getpid():
                self._channel.close()
            self._channel = self._stub = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _begun(self, picture: Picture, top_k: int, abstain: bool) -> Any:
        """Return the call, or why there is none."""
        try:
            return self._started(picture, top_k, abstain)
        except InklingError as error:
            return error

    def _started(self, picture: Picture, top_k: int, abstain: bool) -> Any:
        request = request_for(self._connection, encoded(picture), top_k, abstain)
        return self._ready_stub().Classify.future(
            request,
            timeout=self._connection.timeout_s,
            metadata=self._connection.metadata,
        )

    def _ready_stub(self) -> ClassifierStub:
        with self._lock:
            if self._stub is None or self._process != os.getpid():
                self._process = os.getpid()
                self._channel = self._opened()
                self._stub = ClassifierStub(self._channel)  # type: ignore[no-untyped-call]
            return self._stub

    def _opened(self) -> grpc.Channel:
        connection, credentials = self._connection, self._connection.credentials()
        if credentials is None:
            return grpc.insecure_channel(connection.target, connection.options)
        return grpc.secure_channel(connection.target, credentials, connection.options)


def _outcome(call: Any) -> Prediction | InklingError:
    if isinstance(call, InklingError):
        return call
    try:
        return _finished(call)
    except InklingError as error:
        return error


def _finished(call: Any) -> Prediction:
    return prediction_of(_result(call))


def _result(call: Any) -> Any:
    try:
        return call.result()
    except grpc.RpcError:
        raise error_of_call(call) from None
    except grpc.FutureCancelledError:
        raise NotReady("The classifier was closed while it was asked.") from None
