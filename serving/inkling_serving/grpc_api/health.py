"""gRPC's health service: the state of the server, and of each model by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import HealthServicer

from inkling_serving.runtime.poller import Repeating

if TYPE_CHECKING:
    from inkling_serving.service import Service

__all__ = ["Health"]

_LOOK_S = 0.5
_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
# The names of the server as a whole; clients of TensorFlow Serving ask for the last.
_WHOLE_SERVER = ("", "inkling.v1.Classifier", "PredictionService")


class Health:
    """Tells grpcio's health servicer which models can answer.

    Attributes:
        servicer: Answers Check and Watch; a watch holds no thread.
    """

    def __init__(self, service: Service) -> None:
        """Look at the models now, and twice a second from now on."""
        self.servicer = HealthServicer(experimental_non_blocking=True)
        self._service = service
        self._told: dict[str, int] = {}
        self._tell()
        self._watcher = Repeating(
            "telling the health of the models", self._tell, lambda: _LOOK_S
        )

    def end(self) -> None:
        """Say NOT_SERVING of everything from now on."""
        self.servicer.enter_graceful_shutdown()

    def stop(self) -> None:
        """End the thread."""
        self._watcher.stop()

    def _tell(self) -> None:
        models = {model.name: model.ready for model in self._service.models()}
        whole = dict.fromkeys(_WHOLE_SERVER, any(models.values()))
        # A model that has gone from the repository can no longer answer.
        gone = dict.fromkeys(self._told, False)
        for name, ready in {**gone, **models, **whole}.items():
            status = _SERVING if ready else _NOT_SERVING
            if self._told.get(name) != status:
                self.servicer.set(name, status)
                self._told[name] = status
