# SPDX-License-Identifier: Apache-2.0
"""A stand-in for TensorFlow Serving: its protocol, with a published SavedModel.

    python -m benchmarks.peers.tensorflow_serving MODELS_DIR MODEL PORT

It is used on machines without TensorFlow Serving. It is Python instead of C++, and has
no batching, so a call costs more than with TensorFlow Serving.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from inkling.model.repository import Repository


class _Server(
    prediction_service_pb2_grpc.PredictionServiceServicer,  # type: ignore[misc]
    model_service_pb2_grpc.ModelServiceServicer,  # type: ignore[misc]
):
    """Serves the newest version of one model."""

    def __init__(self, models_dir: Path, model: str) -> None:
        files = Repository(models_dir).newest(model)
        self._version = files.version
        self._loaded = tf.saved_model.load(str(files.path))

    def Predict(self, request: Any, _: object) -> Any:
        name = request.model_spec.signature_name or "serving_default"
        inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for alias, output in self._loaded.signatures[name](**inputs).items():
            response.outputs[alias].CopyFrom(tf.make_tensor_proto(output.numpy()))
        return response

    def GetModelStatus(self, _: Any, __: object) -> Any:
        response = get_model_status_pb2.GetModelStatusResponse()
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        response.model_version_status.add(version=self._version, state=available)
        return response


def _main(models_dir: str, model: str, port: str) -> None:
    servicer = _Server(Path(models_dir), model)
    # TensorFlow Serving takes messages of any size; grpcio's default is 4 MiB.
    unlimited = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(16), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        servicer, server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    _main(*sys.argv[1:])
