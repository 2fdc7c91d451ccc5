# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's gRPC protocol over our service: Predict, metadata and status.

With it, a client of TensorFlow Serving works unchanged, and a gateway can replace
TensorFlow Serving on systems without a build of it. Codes and messages are TensorFlow
Serving's, from its sources (predict_impl.cc, predict_util.cc, server_core.cc,
get_model_status_impl.cc). The checks of inputs are stricter: shape, range and NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from inkling.errors import InvalidRequest
from inkling_serving.dialects.tensorflow_serving.models import (
    DEFAULT_SIGNATURE,
    ERROR_UNKNOWN,
    INVALID,
    SIGNATURES,
    Signature,
    contract_of,
    copied,
    shapes,
    understood,
    versions_of,
)
from inkling_serving.engines.base import State
from inkling_serving.grpc_api.calls import Calls
from inkling_serving.grpc_api.errors import StatusError
from inkling_serving.runtime.timings import Timings
from inkling_serving.service import Target
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire
from inkling_serving.tensorflow_serving_wire.tensors import (
    array_of,
    int_tensor,
    strings_tensor,
    tensor_of,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_serving.engines.base import VersionStatus
    from inkling_serving.runtime.metrics import Metrics
    from inkling_serving.runtime.thread_pool import ThreadPool
    from inkling_serving.service import Service

__all__ = ["TensorFlowServingDialect"]

_PREDICTION = "tensorflow.serving.PredictionService"
_MODEL = "tensorflow.serving.ModelService"
_TYPE_NAMES = {
    wire.DT_FLOAT: "float",
    wire.DT_DOUBLE: "double",
    wire.DT_INT32: "int32",
    wire.DT_UINT8: "uint8",
    wire.DT_STRING: "string",
    wire.DT_INT64: "int64",
    10: "bool",
    19: "half",
}
_SIGNATURE_DEF = "signature_def"
# Only this field contains the name of a message on the wire.
_SIGNATURE_DEF_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class TensorFlowServingDialect:
    """Answers PredictionService and ModelService with a service."""

    def __init__(self, service: Service, pool: ThreadPool, metrics: Metrics) -> None:
        self._service = service
        self._calls = Calls(service, pool, metrics, "tensorflow_serving")

    def add_to(self, server: grpc.Server) -> None:
        """Add the methods to a gRPC server, under TensorFlow Serving's names."""
        predict = {
            "Predict": _unary(self.predict, wire.PredictRequest),
            "GetModelMetadata": _unary(self.metadata, wire.GetModelMetadataRequest),
        }
        status = {"GetModelStatus": _unary(self.status, wire.GetModelStatusRequest)}
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(_PREDICTION, predict),
                grpc.method_handlers_generic_handler(_MODEL, status),
            )
        )

    def predict(
        self, request: wire.PredictRequest, context: grpc.ServicerContext
    ) -> wire.PredictResponse:
        """Return the scores for inputs that the caller has prepared."""
        return self._calls.answer(
            context,
            lambda timings: self._calls.pooled(
                context, lambda left_s: self._answer(request, left_s, timings), timings
            ),
        )

    def metadata(
        self, request: wire.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> wire.GetModelMetadataResponse:
        """Return the signatures of a version."""
        return self._calls.answer(context, lambda _: self._metadata(request))

    def status(
        self, request: wire.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> wire.GetModelStatusResponse:
        """Return the versions of a model and their states."""
        return self._calls.answer(context, lambda _: self._status(request))

    def _answer(
        self, request: wire.PredictRequest, timeout_s: float | None, timings: Timings
    ) -> wire.PredictResponse:
        target = _target(request)
        signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
        contract_of(self._service, target)
        _check_signature(signature)
        form = SIGNATURES[signature]
        _check_names(request, form.input, form.output)
        values = _values(request.inputs[form.input], form)
        if signature == DEFAULT_SIGNATURE:
            inputs = values.astype(np.float32, copy=False)
            found = self._service.predict(target, inputs, timeout_s, timings)
            answer, version = tensor_of(found.values), found.origin.version
        else:
            count = values.size
            version, value = copied(self._service, target, signature, count)
            answer = (
                int_tensor(value, count)
                if isinstance(value, int)
                else strings_tensor(value, count)
            )
        response = wire.PredictResponse()
        response.outputs[form.output].CopyFrom(answer)
        _name(response.model_spec, target.model, signature, version)
        return response

    def _metadata(
        self, request: wire.GetModelMetadataRequest
    ) -> wire.GetModelMetadataResponse:
        target = _target(request)
        if not request.metadata_field:
            raise StatusError(
                INVALID,
                "GetModelMetadataRequest must specify at least one metadata_field",
            )
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise StatusError(INVALID, f"Metadata field {field} is not supported")
        version, contract = contract_of(self._service, target)
        response = wire.GetModelMetadataResponse()
        _name(response.model_spec, target.model, "", version)
        packed = response.metadata[_SIGNATURE_DEF]
        packed.type_url = _SIGNATURE_DEF_URL
        packed.value = _signatures(contract).SerializeToString()
        return response

    def _status(
        self, request: wire.GetModelStatusRequest
    ) -> wire.GetModelStatusResponse:
        target = _target(request, named=False)
        versions = versions_of(self._service, target)
        return wire.GetModelStatusResponse(
            model_version_status=map(_version_status, versions)
        )


def _unary(behaviour: Any, request: Any) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        behaviour, request.FromString, lambda response: response.SerializeToString()
    )


def _target(
    request: (
        wire.PredictRequest | wire.GetModelMetadataRequest | wire.GetModelStatusRequest
    ),
    named: bool = True,
) -> Target:
    if not request.HasField("model_spec"):
        raise StatusError(INVALID, "Missing ModelSpec")
    spec = request.model_spec
    if named and not spec.name:
        raise StatusError(INVALID, "ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    return understood(
        Target(
            spec.name,
            spec.version.value if choice == "version" else None,
            spec.version_label if choice == "version_label" else None,
        )
    )


def _check_signature(signature: str) -> None:
    if signature not in SIGNATURES:
        raise StatusError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f'Serving signature key "{signature}" not found.',
        )


def _values(tensor: wire.Tensor, form: Signature) -> npt.NDArray[Any]:
    if tensor.dtype != form.dtype:
        raise StatusError(
            INVALID,
            f"Expects arg[0] to be {_TYPE_NAMES[form.dtype]} but "
            f"{_TYPE_NAMES.get(tensor.dtype, 'another type')} is provided",
        )
    try:
        return array_of(tensor)
    except InvalidRequest:
        raise StatusError(INVALID, f"tensor parsing error: {form.input}") from None


def _check_names(request: wire.PredictRequest, name: str, output: str) -> None:
    sent = sorted(request.inputs)
    if len(sent) != 1:
        extra = ",".join(s for s in sent if s != name)
        missing = "" if name in sent else name
        raise StatusError(
            INVALID,
            f"input size does not match signature: {len(sent)}!=1 "
            f"len({{{','.join(sent)}}}) != len({{{name}}}). Sent extra: {{{extra}}}. "
            f"Missing but required: {{{missing}}}.",
        )
    if name not in sent:
        raise StatusError(
            INVALID,
            f"Signature input alias: {name}(feed name: {name}:0) not found in request "
            "and no default value provided. "
            f"Inputs expected to be in the set {{{name}}}.",
        )
    for place, wanted in enumerate(request.output_filter):
        if wanted != output:
            raise StatusError(
                INVALID,
                f"output tensor alias not found in signature: {wanted} Outputs "
                f"expected to be in the set {{{output}}}.",
            )
        if place:
            raise StatusError(INVALID, f"duplicate output tensor alias: {wanted}")


def _name(
    spec: wire.ModelSpec, model: str, signature: str, version: int | None
) -> None:
    spec.name = model
    spec.signature_name = signature
    if version is not None:
        spec.version.value = version


def _signatures(contract: Contract) -> wire.SignatureDefMap:
    """Return the signatures of the SavedModel."""
    sizes = shapes(contract)
    answer = wire.SignatureDefMap()
    for key, form in SIGNATURES.items():
        signature = answer.signature_def[key]
        signature.method_name = "tensorflow/serving/predict"
        infos = (
            (signature.inputs, form.input, form.dtype),
            (signature.outputs, form.output, form.output_dtype),
        )
        for infos_of, alias, kind in infos:
            info = infos_of[alias]
            info.name, info.dtype = f"{alias}:0", kind
            for size in sizes[alias]:
                info.tensor_shape.dim.add(size=size)
    return answer


def _version_status(version: VersionStatus) -> wire.ModelVersionStatus:
    status = wire.ModelVersionStatus(version=version.version)
    if version.state == State.AVAILABLE:
        status.state = wire.ModelVersionStatus.AVAILABLE
        status.status.error_code = 0
    else:
        status.state = wire.ModelVersionStatus.END
        status.status.error_code = ERROR_UNKNOWN
        status.status.error_message = version.reason or ""
    return status
