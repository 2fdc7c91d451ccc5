# SPDX-License-Identifier: Apache-2.0
"""A stand-in for TensorFlow Serving that is built on its own servicers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from inkling.model.repository import Repository

_NOT_FOUND = grpc.StatusCode.NOT_FOUND
_AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE


@cache
def saved_model(path: Path) -> Any:
    """Return the SavedModel of a version's folder, loaded once."""
    return tf.saved_model.load(str(path))


@cache
def meta_graph(path: Path) -> Any:
    """Return the meta graph of a version's folder, as TensorFlow Serving reads it."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((path / "saved_model.pb").read_bytes())
    return saved.meta_graphs[0]


@dataclass(frozen=True)
class Seen:
    """One Predict as the server saw it."""

    model: str
    version: int | None
    rows: int
    remaining_s: float | None


class OfficialServer(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Stands in for TensorFlow Serving: its servicers around the SavedModels of a folder.

    Attributes:
        seen: Every Predict of `serving_default`, in order.
        delay_s: How long each of those takes.
        abort: The status that each of those ends with instead.
        alter: Changes each of their answers.
        lock_step: Whether they run one after the other, as on one accelerator.
    """

    def __init__(
        self, models_dir: Path, port: int = 0, as_content: bool = False
    ) -> None:
        self._repository = Repository(models_dir)
        self._as_content = as_content
        self.hidden_signatures: set[str] = set()
        self.hidden_models: set[str] = set()
        self.status_abort: grpc.StatusCode | None = None
        self.lock = threading.Lock()
        self.reset()
        self._server = grpc.server(
            ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0)]
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            self, self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def reset(self) -> None:
        """Forget what was seen and behave well."""
        self.seen: list[Seen] = []
        self.delay_s = 0.0
        self.abort: grpc.StatusCode | None = None
        self.alter: Callable[[Any], object] = lambda _: None
        self.lock_step = False
        self.under_way = 0

    def stop(self) -> None:
        self._server.stop(None).wait()

    def Predict(self, request: Any, context: Any) -> Any:
        path = self._path(request.model_spec, context)
        name = request.model_spec.signature_name or "serving_default"
        signatures = saved_model(path).signatures
        if name not in signatures or name in self.hidden_signatures:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f'Serving signature key "{name}" not found.',
            )
        if name == "serving_default":
            self._note(request, context)
            if self.abort is not None:
                context.abort(self.abort, "words of the engine, /models/secret/path")
        inputs = {a: tf.constant(tf.make_ndarray(t)) for a, t in request.inputs.items()}
        outputs = signatures[name](**inputs)
        response = predict_pb2.PredictResponse()
        for alias in request.output_filter or outputs:
            response.outputs[alias].CopyFrom(self._tensor(outputs[alias].numpy()))
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = name
        response.model_spec.version.value = int(path.name)
        if name == "serving_default":
            self.alter(response)
        return response

    def _note(self, request: Any, context: Any) -> None:
        spec, remaining = request.model_spec, context.time_remaining()
        version = spec.version.value if spec.HasField("version") else None
        rows = request.inputs["inputs"].tensor_shape.dim[0].size
        self.seen.append(Seen(spec.name, version, rows, remaining))
        self.under_way += 1
        try:
            if self.lock_step:
                with self.lock:
                    time.sleep(self.delay_s)
            else:
                until_s = time.monotonic() + self.delay_s
                while time.monotonic() < until_s and context.is_active():
                    time.sleep(0.002)
        finally:
            self.under_way -= 1

    def _tensor(self, array: np.ndarray) -> Any:
        """As Tensor::AsProtoField writes it, or Tensor::AsProtoTensorContent."""
        tensor = tf.make_tensor_proto(array)
        texts = list(tensor.string_val)
        if self._as_content and texts:
            # EncodeStringList: the lengths as varints, then the texts.
            tensor.ClearField("string_val")
            tensor.tensor_content = b"".join(map(_varint, map(len, texts)))
            tensor.tensor_content += b"".join(texts)
        elif self._as_content:
            tensor.ClearField("float_val")
            tensor.tensor_content = array.tobytes()
        elif not texts:
            tensor.ClearField("tensor_content")
            tensor.ClearField("float_val")
            tensor.float_val.extend(array.ravel().tolist())
        return tensor

    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        path = self._path(request.model_spec, context)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for key, signature in meta_graph(path).signature_def.items():
            signatures.signature_def[key].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = int(path.name)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def GetModelStatus(self, request: Any, context: Any) -> Any:
        name = request.model_spec.name
        if self.status_abort is not None:
            context.abort(self.status_abort, "words of the engine")
        if name in self.hidden_models or not self._repository.versions(name):
            context.abort(_NOT_FOUND, f"Could not find any versions of model {name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in self._repository.versions(name):
            response.model_version_status.add(version=version, state=_AVAILABLE)
        return response

    def _path(self, spec: Any, context: Any) -> Path:
        versions = self._repository.versions(spec.name)
        wanted = spec.version.value if spec.HasField("version") else max(versions)
        if spec.name in self.hidden_models or wanted not in versions:
            context.abort(
                _NOT_FOUND,
                f"Servable not found for request: Specific({spec.name}, {wanted})",
            )
        return self._repository.files(spec.name, wanted).path


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])
