"""The gRPC surface: messages to and from the service, and nothing else.

Requests arrive as bytes and are parsed here, so that a malformed one is the caller's
mistake, as it is over HTTP; gRPC itself would call it ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from inkling.errors import (
    ErrorCode,
    InklingError,
    InternalError,
    InvalidRequest,
    NotReady,
)
from inkling.gateway.status import ERROR_CODE_KEY, GRPC_STATUS
from inkling.v1 import classifier_pb2 as pb
from inkling_serving.grpc_api.stream import Stream
from inkling_serving.http2.calls import Call, Method, Streaming, Unary
from inkling_serving.http2.messages import Status
from inkling_serving.runtime.timings import Trace
from inkling_serving.service import Target

if TYPE_CHECKING:
    from inkling_serving.engines.base import ModelStatus
    from inkling_serving.runtime.metrics import Metrics
    from inkling_serving.runtime.thread_pool import Work
    from inkling_serving.service import Answer, Service

__all__ = [
    "ClassifierGateway",
    "StatusError",
    "countdown",
    "parsed",
    "status_of",
    "unary",
]

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)

# Answers a request's bytes, with the seconds that the caller allows and what takes note
# of how it is done: at once, or by what is to be awaited.
Handler: TypeAlias = Callable[
    [bytes, float | None, Trace], Message | Coroutine[Any, Any, Message]
]

# A caller that sends this gets the phases of its request as trailing metadata.
_TIMING = ("inkling-timing", "true")
_SERVICE = "/inkling.v1.Classifier/"
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

    def methods(self) -> dict[str, Method]:
        """Return the methods, by path."""
        return {
            f"{_SERVICE}Classify": unary(self._classify, self._metrics),
            f"{_SERVICE}ClassifyStream": Streaming(self._classify_stream),
            f"{_SERVICE}ListModels": unary(self._list_models, self._metrics),
            f"{_SERVICE}GetModel": unary(self._get_model, self._metrics),
        }

    def _classify(
        self, body: bytes, timeout_s: float | None, trace: Trace
    ) -> Message | Coroutine[Any, Any, Message]:
        return self._answer(parsed(pb.ClassifyRequest, body), timeout_s, trace)

    def _answer(
        self, request: pb.ClassifyRequest, timeout_s: float | None, trace: Trace
    ) -> pb.ClassifyResponse | Coroutine[Any, Any, pb.ClassifyResponse]:
        """Answer what is quick at once, and all else in the pool."""
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
        return self._pooled(classify, timeout_s, trace)

    async def _pooled(
        self,
        classify: Callable[[float | None], Answer],
        timeout_s: float | None,
        trace: Trace,
    ) -> pb.ClassifyResponse:
        left_s, submitted = countdown(timeout_s), perf_counter()

        def begin() -> Answer:
            trace.queue = perf_counter() - submitted
            return classify(left_s())

        return _response(await self._work.run(begin, timeout_s))

    async def _classify_stream(
        self, bodies: AsyncIterator[bytes], call: Call
    ) -> AsyncGenerator[bytes, None]:
        """Answer each request of a stream as it is done."""
        stream = Stream(lambda body: self._stream_answer(body, call), self._ending)
        async for response in stream.answers(bodies):
            yield response.SerializeToString()
        if self._ending.is_set():
            raise status_of(NotReady("This server ends; send the rest again."))

    def _stream_answer(
        self, body: bytes, call: Call
    ) -> pb.ClassifyStreamResponse | Coroutine[Any, Any, pb.ClassifyStreamResponse]:
        request, trace = pb.ClassifyStreamRequest(), Trace()
        try:
            request.MergeFrom(parsed(pb.ClassifyStreamRequest, body))
            outcome = self._answer(request.request, call.time_remaining(), trace)
        except Exception as error:  # noqa: BLE001 - the edge: nothing passes it
            return self._refusal(request.id, error, trace)
        if isinstance(outcome, pb.ClassifyResponse):
            return self._wrapped(request.id, outcome, trace)
        return self._wrapped_later(request.id, outcome, trace)

    async def _wrapped_later(
        self, name: str, outcome: Coroutine[Any, Any, pb.ClassifyResponse], trace: Trace
    ) -> pb.ClassifyStreamResponse:
        try:
            return self._wrapped(name, await outcome, trace)
        except Exception as error:  # noqa: BLE001 - the edge: nothing passes it
            return self._refusal(name, error, trace)

    def _wrapped(
        self, name: str, response: pb.ClassifyResponse, trace: Trace
    ) -> pb.ClassifyStreamResponse:
        self._metrics.observe("grpc", "ok", trace)
        return pb.ClassifyStreamResponse(id=name, response=response)

    def _refusal(
        self, name: str, error: Exception, trace: Trace
    ) -> pb.ClassifyStreamResponse:
        refusal = _foreseen(error)
        self._metrics.observe("grpc", refusal.code, trace)
        told = pb.Error(code=refusal.code, message=refusal.message)
        return pb.ClassifyStreamResponse(id=name, error=told)

    def _list_models(
        self, body: bytes, _: float | None, __: Trace
    ) -> pb.ListModelsResponse:
        parsed(pb.ListModelsRequest, body)
        return pb.ListModelsResponse(
            models=[_model(status) for status in self._service.models()]
        )

    def _get_model(self, body: bytes, _: float | None, __: Trace) -> pb.Model:
        request = parsed(pb.GetModelRequest, body)
        return _model(self._service.model(request.model))


def unary(answer: Handler, metrics: Metrics, protocol: str = "grpc") -> Unary:
    """Return a method that answers one request, with every error as its status.

    Args:
        answer: Answers it.
        metrics: Counts the answers.
        protocol: Under this name.
    """
    return Unary(_Method(answer, metrics, protocol).answer)


class _Method:
    """A method with one request and one answer, as a server calls it."""

    def __init__(self, answer: Handler, metrics: Metrics, protocol: str) -> None:
        self._answer = answer
        self._metrics = metrics
        self._protocol = protocol

    def answer(self, body: bytes, call: Call) -> bytes | Coroutine[Any, Any, bytes]:
        trace = Trace()
        try:
            outcome = self._answer(body, call.time_remaining(), trace)
            if isinstance(outcome, Message):
                return self._encoded(outcome, call, trace)
            return self._later(outcome, call, trace)
        except Exception as error:  # noqa: BLE001 - the edge: nothing passes it
            raise self._refusal(error, trace) from None

    async def _later(
        self, outcome: Coroutine[Any, Any, Message], call: Call, trace: Trace
    ) -> bytes:
        try:
            return self._encoded(await outcome, call, trace)
        except Exception as error:  # noqa: BLE001 - the edge: nothing passes it
            raise self._refusal(error, trace) from None

    def _encoded(self, outcome: Message, call: Call, trace: Trace) -> bytes:
        started = perf_counter()
        answered: bytes = outcome.SerializeToString()
        trace.encode = perf_counter() - started
        self._metrics.observe(self._protocol, "ok", trace)
        if call.metadata.get(_TIMING[0]) == _TIMING[1]:
            call.trailing.append(("server-timing", trace.server_timing()))
        return answered

    def _refusal(self, error: Exception, trace: Trace) -> Status:
        foreseen = _foreseen(error)
        self._metrics.observe(self._protocol, foreseen.code, trace)
        return status_of(foreseen)


def _foreseen(error: Exception) -> InklingError:
    """Return an error that may leave; the unforeseen goes to the log."""
    if isinstance(error, InklingError):
        return error
    _log.error("a call failed", exc_info=error)
    return InternalError("Something went wrong here, not with your request.")


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
    try:
        return kind.FromString(body)
    except DecodeError:
        raise InvalidRequest(
            f"The request is no {kind.DESCRIPTOR.full_name}; generate the client from "
            "the same .proto file."
        ) from None


def status_of(error: InklingError) -> Status:
    """Return the end of a call with an error: its status, code word and message."""
    if isinstance(error, StatusError):
        return Status(error.status, _cut(error.message))
    trailing = [(ERROR_CODE_KEY, str(error.code))]
    if error.code == ErrorCode.OVERLOADED:
        trailing.append(("grpc-retry-pushback-ms", _PUSHBACK_MS))
    return Status(GRPC_STATUS[error.code], _cut(error.message), trailing)


def _cut(message: str) -> str:
    """Return a message of a length that fits into gRPC's metadata."""
    # Whatever is not ASCII takes up to twelve letters on the wire.
    limit = _MAX_MESSAGE if message.isascii() else _MAX_MESSAGE // 12
    return message if len(message) <= limit else message[:limit] + "...TRUNCATED"


def _response(answer: Answer) -> pb.ClassifyResponse:
    origin = answer.origin
    response = pb.ClassifyResponse(
        model=origin.model, version=origin.version, contract=origin.contract
    )
    for result in answer.results:
        # Added in place: each message that is made apart is copied.
        prediction = response.results.add(abstained=result.abstained)
        for score in result.top:
            prediction.top.add(
                label=score.label, index=score.index, probability=score.probability
            )
    return response


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
