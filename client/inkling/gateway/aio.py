"""Classifies over gRPC from asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Self

import grpc

from inkling.gateway.channel import Connection, prediction_of, request_for
from inkling.gateway.status import error_from_rpc
from inkling.image.pictures import encoded
from inkling.v1.classifier_pb2_grpc import ClassifierStub

if TYPE_CHECKING:
    from inkling.image.pictures import Picture
    from inkling.types import Prediction

__all__ = ["AioClassifier", "connect"]

_WINDOW = 16


def connect(target: str, *, model: str = "cnn", **options: Any) -> AioClassifier:
    """Return a classifier behind a gateway's gRPC port, `host:port`.

    The options are those of `inkling.gateway.channel.Connection`.
    """
    return AioClassifier(Connection.to(target, {"model": model, **options}))


class AioClassifier:
    """A classifier behind a gateway's gRPC port; belongs to one event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        credentials = connection.credentials()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(
                connection.target, connection.options
            )
        else:
            self._channel = grpc.aio.secure_channel(
                connection.target, credentials, connection.options
            )
        self._stub = ClassifierStub(self._channel)  # type: ignore[no-untyped-call]

    async def classify(
        self, picture: Picture, top_k: int = 1, *, abstain: bool = False
    ) -> Prediction:
        """Return what the model says of one picture.

        Raises:
            InklingError: The same class that the gateway raised.
        """
        request = request_for(self._connection, encoded(picture), top_k, abstain)
        try:
            response = await self._stub.Classify(
                request,
                timeout=self._connection.timeout_s,
                metadata=self._connection.metadata,
            )
        except grpc.aio.AioRpcError as error:
            trailing = [(key, value) for key, value in error.trailing_metadata()]
            raise error_from_rpc(
                error.code(), error.details() or "", trailing
            ) from None
        return prediction_of(response)

    async def classify_many(
        self, pictures: Iterable[Picture], top_k: int = 1, *, abstain: bool = False
    ) -> AsyncIterator[Prediction]:
        """Yield a prediction per picture, in order, with a few requests under way."""
        under_way: deque[asyncio.Task[Prediction]] = deque()
        try:
            for picture in pictures:
                task = asyncio.create_task(
                    self.classify(picture, top_k, abstain=abstain)
                )
                under_way.append(task)
                if len(under_way) >= _WINDOW:
                    yield await under_way.popleft()
            while under_way:
                yield await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()
