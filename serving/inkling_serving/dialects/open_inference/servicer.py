# SPDX-License-Identifier: Apache-2.0
"""`inference.GRPCInferenceService`: the Open Inference Protocol over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from inkling.errors import InklingError, InvalidRequest, NotReady
from inkling.gateway.status import ERROR_CODE_KEY
from inkling.image.budget import TakesLonger
from inkling_serving.dialects.open_inference import descriptions
from inkling_serving.dialects.open_inference.inference import (
    Inferred,
    check_parameters,
    infer,
    target_of,
    timeout_of,
    wanted_of,
)
from inkling_serving.dialects.open_inference.tensors import (
    BYTES,
    INPUT,
    OUTPUT,
    Tensor,
    from_raw,
    from_typed,
    only_element,
    tensor_of,
    to_raw,
)
from inkling_serving.grpc_api.calls import Calls, caller_of, seconds_left
from inkling_serving.grpc_api.open_streams import OpenStreams, StreamedRequest
from inkling_serving.grpc_api.stream import Stream
from inkling_serving.open_inference_wire import open_inference_pb2 as wire
from inkling_serving.runtime.timings import Timings

if TYPE_CHECKING:
    from inkling_serving.runtime.metrics import Metrics
    from inkling_serving.runtime.thread_pool import ThreadPool
    from inkling_serving.service import Given, Service

__all__ = ["SERVICE_NAME", "OpenInferenceDialect"]

SERVICE_NAME = "inference.GRPCInferenceService"
_FINAL = "triton_final_response"
# The fields of typed values, by the type of a tensor.
_FIELDS = {"FP32": "fp32_contents", "UINT8": "uint_contents", BYTES: "bytes_contents"}

_Stream = Stream[wire.ModelInferRequest, wire.ModelStreamInferResponse]


class OpenInferenceDialect:
    """Answers `inference.GRPCInferenceService` with a service."""

    def __init__(
        self,
        service: Service,
        pool: ThreadPool,
        metrics: Metrics,
        streams: OpenStreams,
    ) -> None:
        """Create the servicer; its streams are among `streams`."""
        self._streams = streams
        self._service = service
        self._metrics = metrics
        self._calls = Calls(service, pool, metrics, "open_inference")

    def add_to(self, server: grpc.Server) -> None:
        """Add the methods to a gRPC server, under the protocol's names."""
        model, repository = wire.ModelRequest, wire.RepositoryModelRequest
        told: dict[str, tuple[Any, Callable[[Any], Message]]] = {
            "ServerLive": (wire.ServerLiveRequest, self._live),
            "ServerReady": (wire.ServerReadyRequest, self._ready),
            "ServerMetadata": (wire.ServerMetadataRequest, self._metadata),
            "ModelReady": (model, self._model_ready),
            "ModelMetadata": (model, self._model_metadata),
            "ModelConfig": (model, self._model_config),
            "ModelStatistics": (model, self._statistics),
            "RepositoryIndex": (wire.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": (repository, self._load),
            "RepositoryModelUnload": (repository, self._unload),
        }
        methods = {
            name: _unary(self._told(tell), request)
            for name, (request, tell) in told.items()
        }
        methods["ModelInfer"] = _unary(self.infer, wire.ModelInferRequest)
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self.stream,
            wire.ModelInferRequest.FromString,
            wire.ModelStreamInferResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(SERVICE_NAME, methods)
        server.add_generic_rpc_handlers((handler,))

    def infer(
        self, request: wire.ModelInferRequest, context: grpc.ServicerContext
    ) -> wire.ModelInferResponse:
        """Return the scores, or the likeliest labels, of pictures or model inputs."""

        def answer(timings: Timings) -> wire.ModelInferResponse:
            if self._is_quick(request):
                with suppress(TakesLonger):
                    return self._infer(request, seconds_left(context), timings, True)
            return self._calls.pooled(
                context, lambda left_s: self._infer(request, left_s, timings), timings
            )

        return self._calls.answer(context, answer)

    def stream(
        self,
        requests: Iterator[wire.ModelInferRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[wire.ModelStreamInferResponse]:
        """Yield one response for each request, in the order of the requests."""
        stream: _Stream = Stream(
            lambda request: self._streamed(request, context),
            lambda request, error: self._refusal(request.id, error, Timings()),
            window=1,
        )
        yield from self._streams.answers(stream, requests, context)

    def _streamed(
        self, request: wire.ModelInferRequest, context: grpc.ServicerContext
    ) -> wire.ModelStreamInferResponse | Future[wire.ModelStreamInferResponse]:
        timings = Timings(caller_of(context))

        def answer(
            left_s: float | None, quickly: bool
        ) -> wire.ModelStreamInferResponse:
            response = self._infer(request, left_s, timings, quickly)
            # Triton marks the last response to a request; here it is the only one.
            response.parameters[_FINAL].bool_param = True
            return wire.ModelStreamInferResponse(infer_response=response)

        def refuse(error: InklingError) -> wire.ModelStreamInferResponse:
            return self._refusal(request.id, error, timings)

        size, is_quick = request.ByteSize(), self._is_quick(request)
        streamed = StreamedRequest(answer, refuse, size, is_quick, timings)
        return self._streams.begin(streamed, context, self._calls)

    def _refusal(
        self, name: str, error: InklingError, timings: Timings
    ) -> wire.ModelStreamInferResponse:
        self._calls.count(error.code, timings)
        response = wire.ModelStreamInferResponse(error_message=error.message)
        response.infer_response.id = name
        response.infer_response.parameters[_FINAL].bool_param = True
        response.infer_response.parameters[ERROR_CODE_KEY].string_param = error.code
        return response

    def _is_quick(self, request: wire.ModelInferRequest) -> bool:
        picture = b""
        is_picture = len(request.inputs) == 1 and request.inputs[0].datatype == BYTES
        # Each look at a field of bytes copies it.
        if is_picture and len(request.raw_input_contents) == 1:
            picture = only_element(request.raw_input_contents[0])
        elif is_picture:
            typed = request.inputs[0].contents.bytes_contents
            picture = typed[0] if len(typed) == 1 else b""
        target = target_of(request.model_name, request.model_version)
        return self._service.is_quick(target, picture)

    def _infer(
        self,
        request: wire.ModelInferRequest,
        left_s: float | None,
        timings: Timings,
        quickly: bool = False,
    ) -> wire.ModelInferResponse:
        asked_s = timeout_of(_parameters(request.parameters))
        limits = [limit for limit in (left_s, asked_s) if limit is not None]
        found = infer(
            self._service,
            target_of(request.model_name, request.model_version),
            _given(request),
            wanted_of([(o.name, _parameters(o.parameters)) for o in request.outputs]),
            timings,
            min(limits, default=None),
            quickly,
        )
        return _response(request.id, found)

    def _told(self, tell: Callable[[Any], Message]) -> Callable[..., Message]:
        """Return the behaviour of a method that only tells of server and models."""
        return lambda request, context: self._calls.answer(
            context, lambda _: tell(request)
        )

    def _live(self, _: wire.ServerLiveRequest) -> wire.ServerLiveResponse:
        return wire.ServerLiveResponse(live=True)

    def _ready(self, _: wire.ServerReadyRequest) -> wire.ServerReadyResponse:
        try:
            self._service.check_ready()
        except NotReady:
            return wire.ServerReadyResponse(ready=False)
        return wire.ServerReadyResponse(ready=True)

    def _metadata(self, _: wire.ServerMetadataRequest) -> Message:
        return ParseDict(
            {**descriptions.server_metadata()}, wire.ServerMetadataResponse()
        )

    def _model_ready(self, request: wire.ModelRequest) -> wire.ModelReadyResponse:
        try:
            self._service.contract(target_of(request.name, request.version))
        except NotReady:
            return wire.ModelReadyResponse(ready=False)
        return wire.ModelReadyResponse(ready=True)

    def _model_metadata(self, request: wire.ModelRequest) -> Message:
        target = target_of(request.name, request.version)
        shown = descriptions.model_metadata(self._service, target)
        return ParseDict({**shown}, wire.ModelMetadataResponse())

    def _model_config(self, request: wire.ModelRequest) -> Message:
        target = target_of(request.name, request.version)
        shown = descriptions.model_config(self._service, target)
        return ParseDict({"config": shown}, wire.ModelConfigResponse())

    def _statistics(self, request: wire.ModelRequest) -> Message:
        shown = descriptions.statistics(
            self._service, self._metrics, request.name, request.version
        )
        # REST also has an empty list of batches.
        response = wire.ModelStatisticsResponse()
        return ParseDict({**shown}, response, ignore_unknown_fields=True)

    def _index(self, request: wire.RepositoryIndexRequest) -> Message:
        shown = descriptions.index(self._service, request.ready)
        return ParseDict({"models": shown}, wire.RepositoryIndexResponse())

    def _load(self, request: wire.RepositoryModelRequest) -> Message:
        has_parameters = bool(request.parameters)
        descriptions.check_load(self._service, request.model_name, has_parameters)
        return wire.RepositoryModelResponse()

    def _unload(self, request: wire.RepositoryModelRequest) -> Message:
        raise descriptions.not_unloaded(self._service, request.model_name)


def _unary(behaviour: Any, request: Any) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        behaviour, request.FromString, lambda response: response.SerializeToString()
    )


def _parameters(parameters: Mapping[str, wire.InferParameter]) -> dict[str, Any]:
    found = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        found[name] = None if choice is None else getattr(parameter, choice)
    return found


def _given(request: wire.ModelInferRequest) -> Given:
    """Return the values of the only input, raw or typed.

    Raises:
        InvalidRequest: There is not one input with values of one kind.
    """
    if len(request.inputs) != 1:
        raise InvalidRequest(
            f"expected 1 inputs but got {len(request.inputs)}; the model has one, "
            f"{INPUT!r}."
        )
    [one] = request.inputs
    check_parameters(_parameters(one.parameters))
    tensor = tensor_of(one.name, one.datatype, list(one.shape))
    raw = request.raw_input_contents
    if not raw:
        return from_typed(tensor, _typed(tensor, one.contents))
    if len(raw) != 1 or one.HasField("contents"):
        raise InvalidRequest(
            f"The request has {len(raw)} raw_input_contents for 1 input"
            + (", and contents beside them." if one.HasField("contents") else ".")
        )
    return from_raw(tensor, raw[0])


def _typed(tensor: Tensor, contents: wire.InferTensorContents) -> Any:
    field = _FIELDS[tensor.datatype]
    for descriptor, _ in contents.ListFields():
        if descriptor.name != field:
            raise InvalidRequest(
                f"The input {INPUT!r} is {tensor.datatype} and has {descriptor.name}; "
                f"expected {field}."
            )
    return getattr(contents, field)


def _response(name: str, found: Inferred) -> wire.ModelInferResponse:
    response = wire.ModelInferResponse(
        model_name=found.origin.model,
        model_version=str(found.origin.version),
        id=name,
        raw_output_contents=[to_raw(found.values)],
    )
    response.parameters["contract"].string_param = found.origin.contract
    response.outputs.add(name=OUTPUT, datatype=found.datatype, shape=found.shape)
    return response
