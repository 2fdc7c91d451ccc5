# SPDX-License-Identifier: Apache-2.0
"""Answers `inkling.v1.Classifier`: turns messages into calls of the service."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from inkling.errors import InklingError, NotReady, Overloaded
from inkling.image.budget import TakesLonger
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierServicer
from inkling_serving.grpc_api.calls import Calls, seconds_left
from inkling_serving.grpc_api.errors import end_with, foreseen
from inkling_serving.grpc_api.stream import Stream
from inkling_serving.runtime.thread_pool import ThreadPool, too_many
from inkling_serving.runtime.timings import Timings
from inkling_serving.service import Options, Target

if TYPE_CHECKING:
    import grpc

    from inkling.types import Score
    from inkling_serving.engines.base import ModelStatus
    from inkling_serving.runtime.held_bytes import HeldBytes
    from inkling_serving.runtime.metrics import Metrics
    from inkling_serving.service import Answer, Service

__all__ = ["Classifier"]

# A stream that waits for its next request for longer may lose its place to another one.
_IDLE_S = 1.0

_Classify = Callable[..., pb.ClassifyResponse]
_Stream = Stream[pb.ClassifyStreamRequest, pb.ClassifyStreamResponse]


class Classifier(ClassifierServicer):
    """Answers `inkling.v1.Classifier` with a service."""

    def __init__(
        self,
        service: Service,
        pool: ThreadPool,
        metrics: Metrics,
        held: HeldBytes,
        max_streams: int,
    ) -> None:
        """Create the servicer; `max_streams` streams may be open at once."""
        self._service = service
        self._pool = pool
        self._held = held
        self._calls = Calls(pool, metrics, "grpc")
        self._max_streams = max_streams
        self._lock = threading.Lock()
        self._streams: set[_Stream] = set()
        self._ending = False

    def Classify(
        self, request: pb.ClassifyRequest, context: grpc.ServicerContext
    ) -> pb.ClassifyResponse:
        """Return one prediction per image."""

        def answer(timings: Timings) -> pb.ClassifyResponse:
            classify, quick = self._classification(request, timings)
            if quick:
                with suppress(TakesLonger):
                    return classify(seconds_left(context), quickly=True)
            return self._calls.pooled(context, classify, timings)

        return self._calls.answer(context, answer)

    def ClassifyStream(
        self,
        requests: Iterator[pb.ClassifyStreamRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[pb.ClassifyStreamResponse]:
        """Yield the response to each request as soon as it is ready."""
        stream = _Stream(
            lambda request: self._stream_answer(request, context),
            lambda request, error: self._refusal(request.id, error, Timings()),
        )
        try:
            self._open(stream)
        except InklingError as error:
            end_with(context, error)
        try:
            yield from stream.answers(requests)
        finally:
            with self._lock:
                self._streams.discard(stream)
        if stream.error is not None:
            end_with(context, stream.error)
        if self._ending:
            end_with(context, NotReady("This server stops; send the rest again."))

    def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        """Return all models."""
        del request
        return self._calls.answer(
            context,
            lambda _: pb.ListModelsResponse(
                models=[_model(status) for status in self._service.models()]
            ),
        )

    def GetModel(
        self, request: pb.GetModelRequest, context: grpc.ServicerContext
    ) -> pb.Model:
        """Return one model."""
        return self._calls.answer(
            context, lambda _: _model(self._service.model(request.model))
        )

    def end(self) -> None:
        """Stop reading from open streams; requests that were read are answered."""
        with self._lock:
            self._ending = True
            streams = list(self._streams)
        for stream in streams:
            stream.end()

    def _open(self, stream: _Stream) -> None:
        with self._lock:
            if self._ending:
                raise NotReady("This server stops; send the call again.")
            count = len(self._streams)
            idle = [] if count < self._max_streams else self._idle()
            if count >= self._max_streams and not idle:
                raise too_many(count)
            for one in idle:
                self._streams.discard(one)
            self._streams.add(stream)
        for one in idle:
            one.end(_idle_for_longest())

    def _idle(self) -> list[_Stream]:
        """Return the stream that has waited longest for a request, if any has."""
        idle = [(one.idle_s, place) for place, one in enumerate(self._streams)]
        longest_s, place = max(idle, default=(0.0, 0))
        return [list(self._streams)[place]] if longest_s > _IDLE_S else []

    def _classification(
        self, request: pb.ClassifyRequest, timings: Timings
    ) -> tuple[_Classify, bool]:
        """Return a function that classifies, and whether it may be quick."""
        choice = request.WhichOneof("choice")
        target = Target(
            request.model,
            request.version if choice == "version" else None,
            request.version_label if choice == "version_label" else None,
        )
        images = list(request.images)
        request.ClearField("images")  # they are copies
        options = _options(request)

        def classify(
            left_s: float | None, quickly: bool = False
        ) -> pb.ClassifyResponse:
            answer = self._service.classify(
                target, images, options, left_s, timings=timings, quickly=quickly
            )
            return _response(answer, timings)

        quick = len(images) == 1 and self._service.is_quick(target, images[0])
        return classify, quick

    def _stream_answer(
        self, request: pb.ClassifyStreamRequest, context: grpc.ServicerContext
    ) -> pb.ClassifyStreamResponse | Future[pb.ClassifyStreamResponse]:
        timings, left_s = Timings(), seconds_left(context)
        size = request.ByteSize()
        classify, quick = self._classification(request.request, timings)

        def answer(quickly: bool) -> pb.ClassifyStreamResponse:
            try:
                response = classify(seconds_left(context), quickly)
            except TakesLonger:
                raise
            except Exception as error:  # noqa: BLE001 - the edge of the gRPC door
                return self._refusal(request.id, error, timings)
            self._calls.count("ok", timings)
            return pb.ClassifyStreamResponse(id=request.id, response=response)

        def pooled() -> pb.ClassifyStreamResponse:
            timings.queue = perf_counter() - submitted
            return answer(quickly=False)

        if quick:
            with suppress(TakesLonger):
                return answer(quickly=True)
        submitted = perf_counter()
        holding = self._held.arrived(size)
        try:
            future = self._pool.submit(pooled, left_s)
        except InklingError:
            holding.release()
            raise
        future.add_done_callback(lambda _: holding.release())
        return future

    def _refusal(
        self, name: str, error: Exception, timings: Timings
    ) -> pb.ClassifyStreamResponse:
        refusal = foreseen(error)
        self._calls.count(refusal.code, timings)
        return pb.ClassifyStreamResponse(id=name, error=_error(refusal))


def _options(request: pb.ClassifyRequest) -> Options:
    return Options(
        top_k=request.top_k or 1,
        abstain=request.abstain,
        threshold=request.threshold if request.HasField("threshold") else None,
        partial=request.partial,
    )


def _idle_for_longest() -> Overloaded:
    return Overloaded(
        "The server has no room for more streams, and this one was idle for the "
        "longest time. Open a stream again when there is something to send."
    )


def _response(answer: Answer, timings: Timings) -> pb.ClassifyResponse:
    started, origin = perf_counter(), answer.origin
    response = pb.ClassifyResponse(
        model=origin.model, version=origin.version, contract=origin.contract
    )
    for result in answer.results:
        if isinstance(result, InklingError):
            response.results.add(error=_error(result))
            continue
        # The messages are added in place: protobuf would copy a separate message.
        prediction = response.results.add(abstained=result.abstained)
        _add_scores(prediction.top, result.top)
        _add_scores(prediction.labels, result.labels or ())
    timings.encode = perf_counter() - started
    return response


def _add_scores(field: Any, scores: Sequence[Score]) -> None:
    for score in scores:
        field.add(label=score.label, index=score.index, probability=score.probability)


def _error(error: InklingError) -> pb.Error:
    return pb.Error(code=error.code, message=error.message, index=error.index)


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
