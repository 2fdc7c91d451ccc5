# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's protocol around a clock: each call takes the same time.

    python -m benchmarks.peers.timed_engine HOST:PORT SECONDS

It runs no model and needs next to no CPU, so a gateway in front of it shows what the
gateway itself does with its calls. Calls take turns, as on one accelerator; the number
of pictures in a call changes nothing.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import numpy as np

from inkling.contract import Contract, TrainingData
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire
from inkling_serving.tensorflow_serving_wire.tensors import (
    int_tensor,
    strings_tensor,
    tensor_of,
)

__all__ = ["CONTRACT", "COUNTS_METHOD", "Counts", "TimedEngine"]

COUNTS_METHOD = "/benchmarks.TimedEngine/Counts"
CONTRACT = Contract(
    height=28,
    width=28,
    channels=1,
    labels=tuple("0123456789"),
    kind="sample",
    polarity="as_is",
    centring="none",
    training_data=TrainingData("none", "sha256:none"),
)
# The scores of every picture: certainly a 0.
_SCORES = np.eye(10, dtype=np.float32)[:1]


@dataclass
class Counts:
    """What an engine has answered so far.

    Attributes:
        calls: Predictions.
        pictures: The pictures in them.
        busy_s: Seconds in which a prediction was under way.
    """

    calls: int = 0
    pictures: int = 0
    busy_s: float = 0.0


class TimedEngine:
    """An engine that serves one version of one model, and counts its predictions.

    Attributes:
        call_s: How long a prediction takes.
        counts: What was answered.
        deaf: While it is set, no question for the status is answered.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        call_s: float = 0.0,
        credentials: grpc.ServerCredentials | None = None,
        options: tuple[tuple[str, Any], ...] = (),
    ) -> None:
        """Start.

        Args:
            address: Where to listen; port 0 takes a free one.
            call_s: How long a prediction takes.
            credentials: For TLS.
            options: Of gRPC's server.
        """
        self.call_s = call_s
        self.counts = Counts()
        self.deaf = threading.Event()
        self._turn = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(64),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", -1),
                *options,
            ],
        )
        services: dict[str, dict[str, Callable[..., bytes]]] = {
            "tensorflow.serving.PredictionService": {"Predict": self._predict},
            "tensorflow.serving.ModelService": {"GetModelStatus": self._status},
            "benchmarks.TimedEngine": {"Counts": self._counts},
        }
        for service, methods in services.items():
            handlers: dict[str, Any] = {
                name: grpc.unary_unary_rpc_method_handler(method)
                for name, method in methods.items()
            }
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, handlers),)
            )
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self._server.start()

    def stop(self) -> None:
        """End at once; calls under way are cut off."""
        self._server.stop(None).wait()

    def wait(self) -> None:
        """Serve until the process ends."""
        self._server.wait_for_termination()

    def _predict(self, body: bytes, _: grpc.ServicerContext) -> bytes:
        request = wire.PredictRequest.FromString(body)
        response = wire.PredictResponse(model_spec=request.model_spec)
        if request.model_spec.signature_name == "contract":
            answer = strings_tensor(CONTRACT.json, 1)
        elif request.model_spec.signature_name == "device":
            answer = int_tensor(0, 1)
        else:
            count = request.inputs["inputs"].tensor_shape.dim[0].size
            self._take_time(count)
            answer = tensor_of(np.repeat(_SCORES, count, axis=0))
        name = request.model_spec.signature_name or "scores"
        response.outputs[name].CopyFrom(answer)
        return response.SerializeToString()

    def _take_time(self, pictures: int) -> None:
        with self._turn:
            started = time.monotonic()
            time.sleep(self.call_s)
            self.counts.calls += 1
            self.counts.pictures += pictures
            self.counts.busy_s += time.monotonic() - started

    def _status(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        while self.deaf.is_set() and context.is_active():
            time.sleep(0.01)
        response = wire.GetModelStatusResponse()
        available = wire.ModelVersionStatus.AVAILABLE
        response.model_version_status.add(version=1, state=available)
        return response.SerializeToString()

    def _counts(self, _: bytes, __: grpc.ServicerContext) -> bytes:
        return json.dumps(asdict(self.counts)).encode()


if __name__ == "__main__":
    TimedEngine(sys.argv[1], float(sys.argv[2])).wait()
