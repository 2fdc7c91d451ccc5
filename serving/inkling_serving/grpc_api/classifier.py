# SPDX-License-Identifier: Apache-2.0
"""Answers `inkling.v1.Classifier`: turns messages into calls of the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from inkling.errors import InklingError
from inkling.image.budget import TakesLonger
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierServicer
from inkling_serving.grpc_api.calls import Calls, caller_of, seconds_left
from inkling_serving.grpc_api.open_streams import OpenStreams, StreamedRequest
from inkling_serving.grpc_api.stream import Stream
from inkling_serving.runtime.timings import Timings, request_id_of
from inkling_serving.service import Options, Target

if TYPE_CHECKING:
    import grpc

    from inkling.types import Score
    from inkling_serving.answers import Answer
    from inkling_serving.engines.base import ModelStatus
    from inkling_serving.runtime.metrics import Metrics
    from inkling_serving.runtime.thread_pool import ThreadPool
    from inkling_serving.service import Service

__all__ = ["Classifier"]

_Classify = Callable[..., pb.ClassifyResponse]
_Stream = Stream[pb.ClassifyStreamRequest, pb.ClassifyStreamResponse]


class Classifier(ClassifierServicer):
    """Answers `inkling.v1.Classifier` with a service."""

    def __init__(
        self,
        service: Service,
        pool: ThreadPool,
        metrics: Metrics,
        streams: OpenStreams,
    ) -> None:
        """Create the servicer; its streams are among `streams`."""
        self._service = service
        self._calls = Calls(service, pool, metrics, "grpc")
        self._streams = streams

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
        yield from self._streams.answers(stream, requests, context)

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

    def GiveFeedback(
        self, request: pb.GiveFeedbackRequest, context: grpc.ServicerContext
    ) -> pb.GiveFeedbackResponse:
        """Store the label that is right for a captured picture."""

        def answer(_: Timings) -> pb.GiveFeedbackResponse:
            given = self._service.feedback(
                request.request_id, request.image, request.label
            )
            return pb.GiveFeedbackResponse(
                model=given.model, version=given.version, answered=given.answered
            )

        return self._calls.answer(context, answer)

    def _classification(
        self, request: pb.ClassifyRequest, timings: Timings
    ) -> tuple[_Classify, bool]:
        """Return a function that classifies, and whether it may be quick."""
        choice = request.WhichOneof("choice")
        timings.caller = request.caller or timings.caller
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
        timings, size = Timings(caller_of(context)), request.ByteSize()
        timings.request_id = request_id_of("")
        classify, is_quick = self._classification(request.request, timings)

        def answer(left_s: float | None, quickly: bool) -> pb.ClassifyStreamResponse:
            response = classify(left_s, quickly)
            return pb.ClassifyStreamResponse(id=request.id, response=response)

        def refuse(error: InklingError) -> pb.ClassifyStreamResponse:
            return self._refusal(request.id, error, timings)

        streamed = StreamedRequest(answer, refuse, size, is_quick, timings)
        return self._streams.begin(streamed, context, self._calls)

    def _refusal(
        self, name: str, error: InklingError, timings: Timings
    ) -> pb.ClassifyStreamResponse:
        self._calls.count(error.code, timings)
        return pb.ClassifyStreamResponse(id=name, error=_error(error))


def _options(request: pb.ClassifyRequest) -> Options:
    return Options(
        top_k=request.top_k or 1,
        abstain=request.abstain,
        threshold=request.threshold if request.HasField("threshold") else None,
        partial=request.partial,
    )


def _response(answer: Answer, timings: Timings) -> pb.ClassifyResponse:
    started, origin = perf_counter(), answer.origin
    response = pb.ClassifyResponse(
        model=origin.model,
        version=origin.version,
        contract=origin.contract,
        request_id=timings.request_id,
        captured=timings.captured,
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
    model = pb.Model(name=status.name, ready=status.ready, shares=status.shares)
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
