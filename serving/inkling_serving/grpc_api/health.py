"""gRPC's health service: the state of the server, and of each model under its name."""

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
# The names of the whole server; clients of TensorFlow Serving use the last name.
_WHOLE_SERVER = ("", "inkling.v1.Classifier", "PredictionService")


class _Servicer(HealthServicer):  # type: ignore[misc]
    """grpcio's servicer with a way to end the watches; a watch occupies no thread."""

    def __init__(self) -> None:
        super().__init__(experimental_non_blocking=True)
        self._watches: set[Callable[[Any], None]] = set()

    def Watch(self, request: Any, context: Any, send_response_callback: Any) -> None:
        """Send a caller each change of a status until the caller or the server ends."""
        self._watches.add(send_response_callback)
        context.add_callback(lambda: self._watches.discard(send_response_callback))
        super().Watch(request, context, send_response_callback)

    def end(self) -> None:
        """Report NOT_SERVING; end the watches, which would delay the server's end."""
        self.enter_graceful_shutdown()
        for send in list(self._watches):
            send(None)


class Health:
    """Tells grpcio's health servicer which models can answer.

    Attributes:
        servicer: The servicer that answers Check and Watch.
    """

    def __init__(self, service: Service) -> None:
        """Read the state of the models now, and then twice a second."""
        self.servicer = _Servicer()
        self._service = service
        self._told: dict[str, int] = {}
        self._tell()
        self._watcher = Repeating(
            "telling the health of the models", self._tell, lambda: _LOOK_S
        )

    def end(self) -> None:
        """Report NOT_SERVING for all names from now on."""
        self.servicer.end()

    def stop(self) -> None:
        """Stop the thread."""
        self._watcher.stop()

    def _tell(self) -> None:
        models = {model.name: model.ready for model in self._service.models()}
        whole = dict.fromkeys(_WHOLE_SERVER, any(models.values()))
        # A model that was removed from the repository can no longer answer.
        gone = dict.fromkeys(self._told, False)
        for name, ready in {**gone, **models, **whole}.items():
            status = _SERVING if ready else _NOT_SERVING
            if self._told.get(name) != status:
                self.servicer.set(name, status)
                self._told[name] = status
