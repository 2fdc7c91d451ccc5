"""The engine behind the network: TensorFlow Serving, one server or several.

What is served and under which contract is asked of the servers themselves, so no disk
is shared. Every request names its version, so a swap cannot mix two.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message

from inkling.contract import Contract
from inkling.errors import (
    BrokenVersion,
    DeadlineExceeded,
    InklingError,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    Overloaded,
)
from inkling.types import are_scores
from inkling_serving.engines.base import (
    NO_SUCH_MODEL,
    ModelStatus,
    State,
    VersionStatus,
)
from inkling_serving.engines.channels import Channels
from inkling_serving.engines.coalescer import Coalescer
from inkling_serving.runtime.poller import Repeating
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire
from inkling_serving.tensorflow_serving_wire.tensors import (
    array_of,
    strings_of,
    tensor_of,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling_serving.settings import Settings

__all__ = ["ENGINE_ERRORS", "RemoteVersion", "TensorFlowServingEngine"]

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Message)

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_ASK_TIMEOUT_S = 2.0
_POLL_WHILE_MISSING_S = 0.2
_PREDICT_TIMEOUT_S = 10.0
# What a model's `device` signature answers where it runs on one.
_GPU = 1
# Softmax in float32 sums to one within this; int8 exports are not served this way.
_SUM_TOLERANCE = 1e-3

# Which of our errors a status of TensorFlow Serving is. RESOURCE_EXHAUSTED is a full
# queue or a request that expired in it; UNKNOWN is a server that was killed in a call.
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

_MESSAGES: Mapping[type[InklingError], str] = MappingProxyType(
    {
        DeadlineExceeded: "The engine did not answer in time. Allow more.",
        NotReady: "The engine cannot be reached, or not answer yet. Try again.",
        Overloaded: "The engine has too much waiting. Try again in a second.",
        InternalError: "The engine refused what the gateway sent; the log has it.",
    }
)


class RemoteVersion:
    """One version of one model on the servers."""

    def __init__(
        self,
        model: str,
        version: int,
        contract: Contract,
        channels: Channels,
        max_batch: int,
    ) -> None:
        self.model = model
        self.version = version
        self.contract = contract
        self._channels = channels
        self._coalescer = Coalescer(self._call, max_batch)

    @property
    def quick(self) -> bool:
        """Never: it waits for the network."""
        return False

    def predict(
        self, inputs: npt.NDArray[np.float32], timeout_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """Return scores (n, classes), float32, for inputs (n, h, w, c), float32.

        Raises:
            DeadlineExceeded: It took longer than `timeout_s`.
            NotReady: No server can be reached.
            Overloaded: The servers have too much waiting.
            InternalError: What came back are no scores.
        """
        if timeout_s is None:
            timeout_s = _PREDICT_TIMEOUT_S
        return self._coalescer.predict(inputs, timeout_s)

    def _call(
        self, inputs: npt.NDArray[np.float32], timeout_s: float
    ) -> npt.NDArray[np.float32]:
        request = wire.PredictRequest()
        request.model_spec.name = self.model
        request.model_spec.version.value = self.version
        request.inputs["inputs"].CopyFrom(tensor_of(inputs))
        request.output_filter.append("scores")
        response = _asked(
            self._channels, _PREDICT, request, wire.PredictResponse(), timeout_s
        )
        try:
            answer = response.outputs["scores"]
            scores = array_of(answer) if answer.dtype == wire.DT_FLOAT else np.empty(0)
        except InvalidRequest:
            scores = np.empty(0)
        shape = (len(inputs), len(self.contract.labels))
        if not are_scores(scores, shape, _SUM_TOLERANCE):
            _log.error(
                "%s version %d answered with shape %s, or with what does not sum to 1",
                self.model,
                self.version,
                scores.shape,
            )
            raise InternalError("The engine answered with something that is no scores.")
        return scores.astype(np.float32, copy=False)


@dataclass(frozen=True)
class _Model:
    """An immutable picture of one model; replaced as a whole, never changed."""

    loaded: Mapping[int, RemoteVersion]
    status: ModelStatus


class TensorFlowServingEngine:
    """Serves the models that the settings name, from TensorFlow Serving."""

    def __init__(self, settings: Settings) -> None:
        self._channels = Channels(settings.addresses, settings.max_body_bytes)
        self._poll_s = settings.poll_s
        self._max_batch = settings.engine_batch
        self._expect_gpu = settings.expect_gpu
        self._models: Mapping[str, _Model] = {
            name: _Model({}, ModelStatus(name, ())) for name in settings.model_names
        }
        self._refresh()
        self._watcher = Repeating("asking the engine", self._refresh, self._pause_s)

    def select(
        self, model: str, version: int | None = None, version_label: str | None = None
    ) -> RemoteVersion:
        """Return the version asked for, or the newest that is available."""
        found = self._models.get(model)
        if found is None:
            raise ModelNotFound(NO_SUCH_MODEL)
        if version_label is not None:
            raise ModelNotFound(
                "TensorFlow Serving's version labels are not known here; ask for a "
                "version."
            )
        if not found.loaded:
            raise NotReady(_MESSAGES[NotReady])
        if version is None:
            version = max(found.loaded)
        if version not in found.loaded:
            available = ", ".join(map(str, sorted(found.loaded)))
            raise ModelNotFound(
                f'The model "{model}" does not serve this version; it serves: '
                f"{available}."
            )
        return found.loaded[version]

    def status(self) -> list[ModelStatus]:
        """Return all models, sorted by name."""
        models = self._models
        return [models[name].status for name in sorted(models)]

    def close(self) -> None:
        """Stop asking, and close the connections."""
        self._watcher.stop()
        self._channels.close()

    def _pause_s(self) -> float:
        """Return the seconds to the next question; fewer while something is missing."""
        ready = all(model.loaded for model in self._models.values())
        return self._poll_s if ready else min(self._poll_s, _POLL_WHILE_MISSING_S)

    def _refresh(self) -> None:
        for name, before in self._models.items():
            after = self._asked_about(name, before)
            self._models = {**self._models, name: after}

    def _asked_about(self, name: str, before: _Model) -> _Model:
        request = wire.GetModelStatusRequest()
        request.model_spec.name = name
        answer = wire.GetModelStatusResponse()
        try:
            _asked(self._channels, _STATUS, request, answer, _ASK_TIMEOUT_S)
        except DeadlineExceeded:
            # Busy, perhaps; requests will find out, each by its own deadline.
            return before
        except InklingError as error:
            if before.loaded:
                _log.warning("%s is not served any more: %s", name, error.message)
            return _Model({}, ModelStatus(name, ()))
        loaded: dict[int, RemoteVersion] = {}
        statuses: list[VersionStatus] = []
        for known in answer.model_version_status:
            if known.state == wire.ModelVersionStatus.AVAILABLE:
                statuses.append(self._with_version(name, known.version, before, loaded))
            elif known.status.error_code:
                reason = "TensorFlow Serving could not load it; its log says why."
                statuses.append(VersionStatus(known.version, State.FAILED, reason))
        statuses.sort(key=lambda status: status.version, reverse=True)
        return _Model(loaded, ModelStatus(name, tuple(statuses)))

    def _with_version(
        self,
        name: str,
        version: int,
        before: _Model,
        loaded: dict[int, RemoteVersion],
    ) -> VersionStatus:
        """Add an available version to `loaded`; return what is reported of it."""
        known = before.loaded.get(version)
        try:
            if known is None:
                contract = self._contract(name, version)
                known = RemoteVersion(
                    name, version, contract, self._channels, self._max_batch
                )
                _log.info("%s version %d is available", name, version)
                self._say_device(name, version)
        except InklingError as error:
            return VersionStatus(version, State.FAILED, error.message)
        loaded[version] = known
        return VersionStatus(version, State.AVAILABLE, contract=known.contract)

    def _contract(self, name: str, version: int) -> Contract:
        """Ask the model itself for its contract.

        Raises:
            BrokenVersion: It has none.
        """
        try:
            [text] = strings_of(self._about(name, version, "contract"))
        except (InvalidRequest, ValueError, InternalError, NotReady):
            raise BrokenVersion(
                "The model does not answer its contract; publish it with inkling train."
            ) from None
        return Contract.from_json(text)

    def _say_device(self, name: str, version: int) -> None:
        """Say on what a version runs; TensorFlow Serving itself does not."""
        try:
            [index] = array_of(self._about(name, version, "device")).tolist()
        except (InklingError, ValueError):
            _log.warning("%s version %d does not say on what it runs", name, version)
            return
        if index == _GPU:
            _log.info("%s version %d runs on a GPU", name, version)
        elif self._expect_gpu:
            _log.warning(
                "%s version %d runs on the CPU, and a GPU was asked for: TensorFlow "
                "Serving found none, or no driver that fits",
                name,
                version,
            )
        else:
            _log.info("%s version %d runs on the CPU", name, version)

    def _about(self, name: str, version: int, signature: str) -> wire.Tensor:
        """Ask a model about itself; the signature and its output have one name.

        Raises:
            InklingError: It does not answer.
        """
        request = wire.PredictRequest()
        request.model_spec.name = name
        request.model_spec.version.value = version
        request.model_spec.signature_name = signature
        asked = request.inputs["asked"]
        asked.dtype = wire.DT_INT32
        asked.tensor_shape.dim.add(size=1)
        asked.int_val.append(0)
        answer = wire.PredictResponse()
        _asked(self._channels, _PREDICT, request, answer, _ASK_TIMEOUT_S)
        return answer.outputs[signature]


def _asked(
    channels: Channels, method: str, request: Message, answer: _M, timeout_s: float
) -> _M:
    """Fill in and return the answer to a request.

    Raises:
        InklingError: The call failed; which class, says `ENGINE_ERRORS`.
    """
    try:
        body = channels.call(method, request.SerializeToString(), timeout_s)
    except grpc.RpcError as error:
        kind = ENGINE_ERRORS.get(error.code(), InternalError)
        if kind is Overloaded and "larger than max" in (error.details() or ""):
            kind = InternalError  # an answer of megabytes is no scores
        _log.debug("%s: %s %s", method, error.code().name, error.details())
        raise kind(_MESSAGES[kind]) from None
    try:
        answer.ParseFromString(body)
    except DecodeError:
        raise InternalError("The engine answered with something else.") from None
    return answer
