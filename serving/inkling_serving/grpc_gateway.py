"""The gRPC surface: messages to and from the service, and nothing else.

Requests arrive as bytes and are parsed here, so that a malformed one is the caller's
mistake, as it is over HTTP; gRPC itself would call it ours.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from inkling.errors import ErrorCode, InklingError, InternalError, InvalidRequest
from inkling.status import ERROR_CODE_KEY, GRPC_STATUS
from inkling.v1 import classifier_pb2 as pb
from inkling_serving.service import Target

if TYPE_CHECKING:
    from inkling_serving.engines.base import ModelStatus
    from inkling_serving.service import Answer, Service
    from inkling_serving.work import Work

__all__ = ["ClassifierGateway", "StatusError", "countdown", "parsed", "unary"]

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)

_SERVICE = "inkling.v1.Classifier"
# Requests of one stream that are worked on at once; more wait to be read.
_STREAM_WINDOW = 16
# How long a client that retries should wait, in milliseconds.
_PUSHBACK_MS = "1000"
# As TensorFlow Serving cuts its own (grpc_status_util.cc).
_MAX_MESSAGE = 1024


class StatusError(InklingError):
    """A refusal whose gRPC status another protocol decides."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


class ClassifierGateway:
    """Answers `inkling.v1.Classifier` with a service."""

    def __init__(self, service: Service, work: Work) -> None:
        self._service = service
        self._work = work

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the methods, by name, for a server."""
        methods = {
            "Classify": unary(self._classify),
            "ClassifyStream": grpc.stream_stream_rpc_method_handler(
                self._classify_stream,
                response_serializer=pb.ClassifyStreamResponse.SerializeToString,
            ),
            "ListModels": unary(self._list_models),
            "GetModel": unary(self._get_model),
        }
        return grpc.method_handlers_generic_handler(_SERVICE, methods)

    async def _classify(
        self, body: bytes, timeout_s: float | None
    ) -> pb.ClassifyResponse:
        return await self._answer(parsed(pb.ClassifyRequest, body), timeout_s)

    async def _answer(
        self, request: pb.ClassifyRequest, timeout_s: float | None
    ) -> pb.ClassifyResponse:
        choice = request.WhichOneof("choice")
        target = Target(
            request.model,
            request.version if choice == "version" else None,
            request.version_label if choice == "version_label" else None,
        )
        images, top_k = list(request.images), request.top_k or 1
        abstain = request.abstain
        left_s = countdown(timeout_s)
        answer = await self._work.run(
            lambda: self._service.classify(
                target, images, top_k, left_s(), abstain=abstain
            ),
            timeout_s,
        )
        return _response(answer)

    async def _classify_stream(
        self, bodies: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[pb.ClassifyStreamResponse]:
        """Answer each request of a stream as it is done."""
        answers: asyncio.Queue[pb.ClassifyStreamResponse | None] = asyncio.Queue()
        places = asyncio.Semaphore(_STREAM_WINDOW)
        tasks: set[asyncio.Task[None]] = set()

        async def answer(body: bytes) -> None:
            try:
                await answers.put(await self._stream_answer(body, context))
            finally:
                places.release()

        async def read() -> None:
            try:
                async for body in bodies:
                    await places.acquire()
                    task = asyncio.create_task(answer(body))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                await asyncio.gather(*tasks)
            finally:
                await answers.put(None)

        reader = asyncio.create_task(read())
        try:
            while (response := await answers.get()) is not None:
                yield response
        finally:
            for task in (reader, *tasks):
                task.cancel()

    async def _stream_answer(
        self, body: bytes, context: Any
    ) -> pb.ClassifyStreamResponse:
        request = pb.ClassifyStreamRequest()

        async def answer() -> pb.ClassifyResponse:
            request.MergeFrom(parsed(pb.ClassifyStreamRequest, body))
            return await self._answer(request.request, context.time_remaining())

        outcome = await _outcome(answer())
        if isinstance(outcome, InklingError):
            refusal = pb.Error(code=outcome.code, message=outcome.message)
            return pb.ClassifyStreamResponse(id=request.id, error=refusal)
        return pb.ClassifyStreamResponse(id=request.id, response=outcome)

    async def _list_models(self, body: bytes, _: float | None) -> pb.ListModelsResponse:
        parsed(pb.ListModelsRequest, body)
        return pb.ListModelsResponse(
            models=[_model(status) for status in self._service.models()]
        )

    async def _get_model(self, body: bytes, _: float | None) -> pb.Model:
        request = parsed(pb.GetModelRequest, body)
        return _model(self._service.model(request.model))


def unary(
    answer: Callable[[bytes, float | None], Awaitable[Message]],
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a method that answers one request, with every error as its status.

    Args:
        answer: Takes the request's bytes and the seconds that the caller allows.
    """

    async def behaviour(body: bytes, context: Any) -> bytes:
        outcome = await _outcome(answer(body, context.time_remaining()))
        if isinstance(outcome, InklingError):
            return await _abort(context, outcome)
        return outcome.SerializeToString()

    return grpc.unary_unary_rpc_method_handler(behaviour)


async def _outcome(answer: Awaitable[_M]) -> _M | InklingError:
    """Return the answer, or why there is none; the unforeseen goes to the log."""
    try:
        return await answer
    except InklingError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the edge: nothing passes it
        _log.error("a call failed", exc_info=error)
        return InternalError("Something went wrong here, not with your request.")


def countdown(timeout_s: float | None) -> Callable[[], float | None]:
    """Return a function that says what is left of the time; None is without end."""
    if timeout_s is None:
        return lambda: None
    deadline = time.monotonic() + timeout_s
    return lambda: max(0.0, deadline - time.monotonic())


def parsed(kind: type[_M], body: bytes) -> _M:
    """Return the message in these bytes.

    Raises:
        InvalidRequest: They are no such message.
    """
    message = kind()
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise InvalidRequest(
            f"The request is no {kind.DESCRIPTOR.full_name}; generate the client from "
            "the same .proto file."
        ) from None
    return message


async def _abort(context: Any, error: InklingError) -> bytes:
    if isinstance(error, StatusError):
        await context.abort(error.status, _cut(error.message))
    trailing = [(ERROR_CODE_KEY, str(error.code))]
    if error.code == ErrorCode.OVERLOADED:
        trailing.append(("grpc-retry-pushback-ms", _PUSHBACK_MS))
    await context.abort(GRPC_STATUS[error.code], _cut(error.message), tuple(trailing))
    raise AssertionError("abort raises")


def _cut(message: str) -> str:
    """Return a message of a length that fits into gRPC's metadata."""
    # Whatever is not ASCII takes up to twelve letters on the wire.
    limit = _MAX_MESSAGE if message.isascii() else _MAX_MESSAGE // 12
    return message if len(message) <= limit else message[:limit] + "...TRUNCATED"


def _response(answer: Answer) -> pb.ClassifyResponse:
    return pb.ClassifyResponse(
        model=answer.origin.model,
        version=answer.origin.version,
        contract=answer.origin.contract,
        results=[
            pb.Prediction(
                top=[
                    pb.Score(label=s.label, index=s.index, probability=s.probability)
                    for s in result.top
                ],
                abstained=result.abstained,
            )
            for result in answer.results
        ],
    )


def _model(status: ModelStatus) -> pb.Model:
    model = pb.Model(name=status.name, ready=status.ready)
    for version in status.versions:
        labels = status.labels_of(version.version)
        model.versions.add(
            version=version.version,
            state=version.state,
            version_labels=labels,
            reason=version.reason or "",
            contract_json=version.contract.json if version.contract else "",
            accuracy=version.accuracy,
        )
    return model
