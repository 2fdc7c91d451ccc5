"""gRPC's health service: the state of the server, and of each model by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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


class _Servicer(HealthServicer):  # type: ignore[misc]
    """grpcio's servicer, which can also end the watches; a watch holds no thread."""

    def __init__(self) -> None:
        super().__init__(experimental_non_blocking=True)
        self._watches: set[Callable[[Any], None]] = set()

    def Watch(self, request: Any, context: Any, send_response_callback: Any) -> None:
        """Tell a caller each change of a status until it leaves, or until the end."""
        self._watches.add(send_response_callback)
        context.add_callback(lambda: self._watches.discard(send_response_callback))
        super().Watch(request, context, send_response_callback)

    def end(self) -> None:
        """Say NOT_SERVING from now on; end the watches, which would delay the end."""
        self.enter_graceful_shutdown()
        for send in list(self._watches):
            send(None)


class Health:
    """Tells grpcio's health servicer which models can answer.

    Attributes:
        servicer: Answers Check and Watch.
    """

    def __init__(self, service: Service) -> None:
        """Look at the models now, and twice a second from now on."""
        self.servicer = _Servicer()
        self._service = service
        self._told: dict[str, int] = {}
        self._tell()
        self._watcher = Repeating(
            "telling the health of the models", self._tell, lambda: _LOOK_S
        )

    def end(self) -> None:
        """Say NOT_SERVING of everything from now on."""
        self.servicer.end()

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
