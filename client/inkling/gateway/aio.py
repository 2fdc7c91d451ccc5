# SPDX-License-Identifier: Apache-2.0
"""The classifier behind a gateway's gRPC port, for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from inkling.errors import InklingError, InvalidRequest
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
from inkling.gateway.versions import contract_of
from inkling.image.named_pictures import NamedPictures
from inkling.image.pictures import encoded
from inkling.types import ClassifyOptions
from inkling.v1 import classifier_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable

    from inkling.contract import Contract
    from inkling.image.pictures import Picture
    from inkling.types import Prediction

__all__ = ["AioClassifier"]

_T = TypeVar("_T")
_WINDOW = 16


class AioClassifier:
    """What `inkling.Classifier` offers, for asyncio.

    It belongs to the event loop of its first call. Once it is closed, it stays closed.
    """

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
        self._secret = credentials(self._connection)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lines = Lines(self._opened)
        self._is_closed = False

    async def classify(
        self,
        picture: Picture,
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Prediction:
        """Return the prediction for one picture; see `Classifier.classify`.

        Raises:
            InklingError: The same class that the gateway raised.
        """
        options = ClassifyOptions.checked(top_k, abstain, threshold)
        request = request_for(self._connection, encoded(picture), options)
        return prediction_of(await self._answered("Classify", request), options)

    async def outcomes(
        self,
        pictures: Iterable[Picture],
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> AsyncGenerator[Prediction | InklingError, None]:
        """Yield a prediction or an error per picture, with a few calls under way."""
        under_way: deque[asyncio.Task[Prediction]] = deque()
        try:
            for picture in pictures:
                call = self.classify(
                    picture, top_k, abstain=abstain, threshold=threshold
                )
                under_way.append(asyncio.create_task(call))
                if len(under_way) >= _WINDOW:
                    yield await _outcome(under_way.popleft())
            while under_way:
                yield await _outcome(under_way.popleft())
        finally:
            for task in under_way:
                task.cancel()

    async def classify_many(
        self,
        pictures: Iterable[Picture],
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> AsyncIterator[Prediction]:
        """Yield a prediction per picture, in order, with a few calls under way.

        Raises:
            InklingError: As `classify`; the predictions before it have been yielded.
        """
        named = NamedPictures(pictures)
        outcomes = self.outcomes(named, top_k, abstain=abstain, threshold=threshold)
        async with aclosing(outcomes) as found:
            async for outcome in found:
                yield named.answer(outcome)

    async def contract(self) -> Contract:
        """Return the contract of the version that answers now, as the gateway has it.

        Raises:
            InklingError: No version is ready, or the gateway cannot be reached.
        """
        request = pb.GetModelRequest(model=self._connection.model)
        model = await self._answered("GetModel", request)
        return contract_of(self._connection, model.versions)

    async def close(self) -> None:
        """Close the connections, and end the calls; closing again does nothing."""
        self._is_closed = True
        channels = self._lines.take_down()
        if self._loop is asyncio.get_running_loop():
            for channel in channels:
                await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _answered(self, method: str, request: Any) -> Any:
        line = self._line()
        try:
            return await getattr(line.stub, method)(
                request, timeout=self._connection.timeout_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            if self._is_closed:
                raise closed() from None
            # It may look at the server, over a connection of its own.
            raise await asyncio.to_thread(
                error_of_call, self._connection, error
            ) from None
        except (grpc.aio.UsageError, AttributeError):
            # gRPC takes a channel that is being closed apart step by step.
            if not self._is_closed:
                raise
            raise closed() from None
        except asyncio.CancelledError:
            # `close` cancels the calls; their callers were not cancelled.
            if not self._is_closed or _is_cancelled():
                raise
            raise closed() from None
        finally:
            self._lines.give_back(line)

    def _line(self) -> Line:
        if self._is_closed:
            raise closed()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise InvalidRequest(
                "An AioClassifier belongs to the event loop of its first call, and "
                "this is another loop; make one in each loop."
            )
        return self._lines.take()

    def _opened(self) -> grpc.aio.Channel:
        target = self._connection.address.grpc_target
        options = channel_options(self._connection)
        if self._secret is None:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, self._secret, options)


def _is_cancelled() -> bool:
    """Return whether somebody has asked the current task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _outcome(task: Awaitable[_T]) -> _T | InklingError:
    try:
        return await task
    except InklingError as error:
        return error
