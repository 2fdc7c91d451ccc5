# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's methods as functions that take arrays and raise our errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message

from inkling.errors import (
    DeadlineExceeded,
    InklingError,
    InternalError,
    InvalidRequest,
    NotReady,
    Overloaded,
)
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire
from inkling_serving.tensorflow_serving_wire.tensors import (
    array_of,
    strings_of,
    tensor_of,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling_serving.engines.channels import Channels

__all__ = ["ENGINE_ERRORS", "ENGINE_MESSAGES", "Stub"]

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)
_T = TypeVar("_T")

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
# For questions to the model itself; the model's graph may run for the first time.
_ABOUT_TIMEOUT_S = 2.0

# Our error for each status of a call. TensorFlow Serving uses RESOURCE_EXHAUSTED for a
# full queue and for a request that expired in the queue.
ENGINE_ERRORS: Mapping[grpc.StatusCode, type[InklingError]] = MappingProxyType(
    {
        grpc.StatusCode.CANCELLED: DeadlineExceeded,
        grpc.StatusCode.UNKNOWN: NotReady,
        grpc.StatusCode.INVALID_ARGUMENT: InternalError,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        grpc.StatusCode.NOT_FOUND: NotReady,
        grpc.StatusCode.ALREADY_EXISTS: InternalError,
        grpc.StatusCode.PERMISSION_DENIED: NotReady,
        grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
        grpc.StatusCode.FAILED_PRECONDITION: NotReady,
        grpc.StatusCode.ABORTED: NotReady,
        grpc.StatusCode.OUT_OF_RANGE: InternalError,
        grpc.StatusCode.UNIMPLEMENTED: InternalError,
        grpc.StatusCode.INTERNAL: InternalError,
        grpc.StatusCode.UNAVAILABLE: NotReady,
        grpc.StatusCode.DATA_LOSS: InternalError,
        grpc.StatusCode.UNAUTHENTICATED: NotReady,
    }
)

ENGINE_MESSAGES: Mapping[type[InklingError], str] = MappingProxyType(
    {
        DeadlineExceeded: "The engine did not answer in time. Set a longer deadline.",
        NotReady: "The engine cannot be reached, or cannot answer yet. Try again.",
        Overloaded: "Too many requests wait for the engine. Try again in a second.",
        InternalError: "The engine refused the gateway's call. The log has the reason.",
    }
)
_NOT_FOUND = "TensorFlow Serving does not have this model or version."


class Stub:
    """Calls TensorFlow Serving; several threads may use it.

    If a call fails, every method raises the error of `ENGINE_ERRORS` for the status.
    """

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def scores(
        self,
        model: str,
        version: int,
        inputs: npt.NDArray[np.float32],
        timeout_s: float,
    ) -> npt.NDArray[np.float32]:
        """Return the output `scores` for inputs (n, h, w, c), float32.

        The method checks neither shape nor values. It returns an empty array if the
        output is not a tensor of float32.
        """
        request = _predict_request(model, version)
        request.inputs["inputs"].CopyFrom(tensor_of(inputs))
        request.output_filter.append("scores")
        response = self._call(_PREDICT, request, wire.PredictResponse(), timeout_s)
        answer = response.outputs["scores"]
        try:
            if answer.dtype == wire.DT_FLOAT:
                return array_of(answer).astype(np.float32, copy=False)
        except InvalidRequest:
            pass
        return np.empty(0, np.float32)

    def versions(self, model: str, timeout_s: float) -> list[wire.ModelVersionStatus]:
        """Return TensorFlow Serving's status of each version of a model."""
        request = wire.GetModelStatusRequest()
        request.model_spec.name = model
        answer = wire.GetModelStatusResponse()
        self._call(_STATUS, request, answer, timeout_s)
        return list(answer.model_version_status)

    def contract(self, model: str, version: int) -> str:
        """Return the JSON of the contract, which the model itself contains.

        Raises:
            ValueError: The model's answer is not one text.
        """
        [text] = self._about(model, version, "contract", strings_of)
        return text.decode()

    def device(self, model: str, version: int) -> Any:
        """Return the number of the device that a version runs on; 1 is a GPU.

        Raises:
            ValueError: The model's answer is not one number.
        """
        [index] = self._about(model, version, "device", array_of).tolist()
        return index

    def _about(
        self,
        model: str,
        version: int,
        signature: str,
        read: Callable[[wire.Tensor], _T],
    ) -> _T:
        """Call a model's signature; the signature and its output have the same name."""
        request = _predict_request(model, version)
        request.model_spec.signature_name = signature
        asked = request.inputs["asked"]
        asked.dtype = wire.DT_INT32
        asked.tensor_shape.dim.add(size=1)
        asked.int_val.append(0)
        answer = wire.PredictResponse()
        self._call(_PREDICT, request, answer, _ABOUT_TIMEOUT_S)
        try:
            return read(answer.outputs[signature])
        except InvalidRequest as error:
            raise ValueError(error.message) from None

    def _call(self, method: str, request: Message, answer: _M, timeout_s: float) -> _M:
        """Call a method, and return `answer` filled with the response."""
        try:
            body = self._channels.call(method, request.SerializeToString(), timeout_s)
        except grpc.RpcError as error:
            kind = ENGINE_ERRORS.get(error.code(), InternalError)
            if kind is Overloaded and "larger than max" in (error.details() or ""):
                kind = InternalError  # the response is too large to hold scores
            _log.debug("%s: %s %s", method, error.code().name, error.details())
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotReady(_NOT_FOUND) from None
            raise kind(ENGINE_MESSAGES[kind]) from None
        try:
            answer.ParseFromString(body)
        except DecodeError:
            raise InternalError(
                "The engine's response is not a message of TensorFlow Serving."
            ) from None
        return answer


def _predict_request(model: str, version: int) -> wire.PredictRequest:
    request = wire.PredictRequest()
    request.model_spec.name = model
    request.model_spec.version.value = version
    return request
