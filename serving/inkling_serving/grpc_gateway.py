"""The gRPC surface: messages to and from the service, and nothing else.

Requests arrive as bytes and are parsed here, so that a malformed one is the caller's
mistake, as it is over HTTP; gRPC itself would call it ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from inkling.errors import (
    ErrorCode,
    InklingError,
    InternalError,
    InvalidRequest,
    NotReady,
)
from inkling.status import ERROR_CODE_KEY, GRPC_STATUS
from inkling.v1 import classifier_pb2 as pb
from inkling_serving.service import Target
from inkling_serving.streaming import Stream
from inkling_serving.trace import Trace

if TYPE_CHECKING:
    from inkling_serving.engines.base import ModelStatus
    from inkling_serving.metrics import Metrics
    from inkling_serving.service import Answer, Service
    from inkling_serving.work import Work

__all__ = [
    "ClassifierGateway",
    "StatusError",
    "abort",
    "countdown",
    "parsed",
    "unary",
]

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)

# A caller that sends this gets the phases of its request as trailing metadata.
TIMING = ("inkling-timing", "true")
_SERVICE = "inkling.v1.Classifier"
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

    def __init__(
        self, service: Service, work: Work, metrics: Metrics, ending: asyncio.Event
    ) -> None:
        """Take what answers; once `ending` is set, streams are read no further."""
        self._service = service
        self._work = work
        self._metrics = metrics
        self._ending = ending

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the methods, by name, for a server."""
        methods = {
            "Classify": unary(self._classify, self._metrics),
            "ClassifyStream": grpc.stream_stream_rpc_method_handler(
                self._classify_stream,
                response_serializer=pb.ClassifyStreamResponse.SerializeToString,
            ),
            "ListModels": unary(self._list_models, self._metrics),
            "GetModel": unary(self._get_model, self._metrics),
        }
        return grpc.method_handlers_generic_handler(_SERVICE, methods)

    async def _classify(
        self, body: bytes, timeout_s: float | None, trace: Trace
    ) -> pb.ClassifyResponse:
        return await self._answer(parsed(pb.ClassifyRequest, body), timeout_s, trace)

    async def _answer(
        self, request: pb.ClassifyRequest, timeout_s: float | None, trace: Trace
    ) -> pb.ClassifyResponse:
        choice = request.WhichOneof("choice")
        target = Target(
            request.model,
            request.version if choice == "version" else None,
            request.version_label if choice == "version_label" else None,
        )
        images, top_k = list(request.images), request.top_k or 1
        abstain = request.abstain

        def classify(left_s: float | None) -> Answer:
            return self._service.classify(
                target, images, top_k, left_s, abstain=abstain, trace=trace
            )

        if len(images) == 1 and self._service.is_quick(target, images[0]):
            return _response(classify(timeout_s))
        left_s, submitted = countdown(timeout_s), perf_counter()

        def begin() -> Answer:
            trace.queue = perf_counter() - submitted
            return classify(left_s())

        return _response(await self._work.run(begin, timeout_s))

    async def _classify_stream(
        self, bodies: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[pb.ClassifyStreamResponse]:
        """Answer each request of a stream as it is done."""
        stream = Stream(lambda body: self._stream_answer(body, context), self._ending)
        async for response in stream.answers(bodies):
            yield response
        if self._ending.is_set():
            await abort(context, NotReady("This server ends; send the rest again."))

    async def _stream_answer(
        self, body: bytes, context: Any
    ) -> pb.ClassifyStreamResponse:
        request, trace = pb.ClassifyStreamRequest(), Trace()

        async def answer() -> pb.ClassifyResponse:
            request.MergeFrom(parsed(pb.ClassifyStreamRequest, body))
            left_s = context.time_remaining()
            return await self._answer(request.request, left_s, trace)

        outcome = await _outcome(answer())
        self._metrics.observe("grpc", _code(outcome), trace)
        if isinstance(outcome, InklingError):
            refusal = pb.Error(code=outcome.code, message=outcome.message)
            return pb.ClassifyStreamResponse(id=request.id, error=refusal)
        return pb.ClassifyStreamResponse(id=request.id, response=outcome)

    async def _list_models(
        self, body: bytes, _: float | None, __: Trace
    ) -> pb.ListModelsResponse:
        parsed(pb.ListModelsRequest, body)
        return pb.ListModelsResponse(
            models=[_model(status) for status in self._service.models()]
        )

    async def _get_model(self, body: bytes, _: float | None, __: Trace) -> pb.Model:
        request = parsed(pb.GetModelRequest, body)
        return _model(self._service.model(request.model))


def unary(
    answer: Callable[[bytes, float | None, Trace], Awaitable[Message]],
    metrics: Metrics,
    protocol: str = "grpc",
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a method that answers one request, with every error as its status.

    Args:
        answer: Takes the request's bytes, the seconds that the caller allows, and what
            takes note of how it is answered.
        metrics: Counts the answers.
        protocol: Under this name.
    """

    async def behaviour(body: bytes, context: Any) -> bytes:
        trace = Trace()
        outcome = await _outcome(answer(body, context.time_remaining(), trace))
        if isinstance(outcome, InklingError):
            metrics.observe(protocol, outcome.code, trace)
            await abort(context, outcome)
        started = perf_counter()
        answered: bytes = outcome.SerializeToString()
        trace.encode = perf_counter() - started
        metrics.observe(protocol, "ok", trace)
        if TIMING in context.invocation_metadata():
            context.set_trailing_metadata((("server-timing", trace.server_timing()),))
        return answered

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


def _code(outcome: Message | InklingError) -> str:
    return outcome.code if isinstance(outcome, InklingError) else "ok"


def countdown(timeout_s: float | None) -> Callable[[], float | None]:
    """Return a function that says what is left of the time; None is without end."""
    if timeout_s is None:
        return lambda: None
    deadline = monotonic() + timeout_s
    return lambda: max(0.0, deadline - monotonic())


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


async def abort(context: Any, error: InklingError) -> NoReturn:
    """End a call with the status of an error, its code word and its message."""
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
