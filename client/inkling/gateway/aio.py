"""The classifier behind a gateway's gRPC port, for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from inkling.errors import InklingError
from inkling.gateway.channel import (
    CHANNEL_OPTIONS,
    check_address,
    credentials,
    error_of_call,
    prediction_of,
    request_for,
)
from inkling.gateway.connection import Connection
from inkling.gateway.versions import contract_of
from inkling.image.pictures import encoded
from inkling.types import check_abstain, check_top_k
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

    from inkling.contract import Contract
    from inkling.image.pictures import Picture
    from inkling.types import Prediction

__all__ = ["AioClassifier"]

_T = TypeVar("_T")
_WINDOW = 16


class AioClassifier:
    """What `inkling.Classifier` offers, for asyncio; belongs to one event loop."""

    def __init__(self, target: str, **options: Any) -> None:
        """Take the address of the gateway; nothing is sent yet.

        Args:
            target: `host:port` of the gateway's gRPC port.
            options: The attributes of `inkling.gateway.connection.Connection`.

        Raises:
            InvalidRequest: The address or an option is impossible.
        """
        self._connection = Connection.to(check_address(target), options)
        self._metadata = list(self._connection.authorization.items())
        secret = credentials(self._connection)
        if secret is None:
            self._channel = grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, secret, CHANNEL_OPTIONS)
        self._stub = ClassifierStub(self._channel)  # type: ignore[no-untyped-call]

    async def classify(
        self, picture: Picture, top_k: int = 1, *, abstain: bool = False
    ) -> Prediction:
        """Return the prediction for one picture; see `Classifier.classify`.

        Raises:
            InklingError: The same class that the gateway raised.
        """
        check_top_k(top_k)
        check_abstain(abstain)
        request = request_for(self._connection, encoded(picture), top_k, abstain)
        return prediction_of(await self._answered("Classify", request))

    async def outcomes(
        self, pictures: Iterable[Picture], top_k: int = 1, *, abstain: bool = False
    ) -> AsyncGenerator[Prediction | InklingError, None]:
        """Yield a prediction or an error per picture, with a few calls under way."""
        under_way: deque[asyncio.Task[Prediction]] = deque()
        try:
            for picture in pictures:
                call = self.classify(picture, top_k, abstain=abstain)
                under_way.append(asyncio.create_task(call))
                if len(under_way) >= _WINDOW:
                    yield await _outcome(under_way.popleft())
            while under_way:
                yield await _outcome(under_way.popleft())
        finally:
            for task in under_way:
                task.cancel()

    async def classify_many(
        self, pictures: Iterable[Picture], top_k: int = 1, *, abstain: bool = False
    ) -> AsyncIterator[Prediction]:
        """Yield a prediction per picture, in order, with a few calls under way.

        Raises:
            InklingError: As `classify`; the predictions before it have been yielded.
        """
        async with aclosing(self.outcomes(pictures, top_k, abstain=abstain)) as found:
            async for outcome in found:
                if isinstance(outcome, InklingError):
                    raise outcome
                yield outcome

    async def contract(self) -> Contract:
        """Return the contract of the version that answers now, as the gateway has it.

        Raises:
            InklingError: No version is ready, or the gateway cannot be reached.
        """
        request = pb.GetModelRequest(model=self._connection.model)
        model = await self._answered("GetModel", request)
        return contract_of(self._connection, model.versions)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _answered(self, method: str, request: Any) -> Any:
        try:
            return await getattr(self._stub, method)(
                request, timeout=self._connection.timeout_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            raise error_of_call(self._connection, error) from None


async def _outcome(task: Awaitable[_T]) -> _T | InklingError:
    try:
        return await task
    except InklingError as error:
        return error
