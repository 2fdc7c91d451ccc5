# SPDX-License-Identifier: Apache-2.0
"""gRPC's health service: the state of the server, and of each model by its name.

grpcio has a servicer for it, which sends to watchers while it holds the lock of all its
calls: a single client that takes no data stops every health check, and the end of the
gateway. It also keeps each name that was ever watched. This servicer sends without a
lock, ends watches whose caller takes nothing, and keeps the names of open watches only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inkling_serving.grpc_api.errors import end_with
from inkling_serving.grpc_api.open_calls import CallThreads
from inkling_serving.runtime.poller import Repeating
from inkling_serving.runtime.thread_pool import too_many

if TYPE_CHECKING:
    from inkling_serving.service import Service

__all__ = ["Health"]

_LOOK_S = 0.5
_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
# The names of the server as a whole; clients of TensorFlow Serving ask for the last.
_WHOLE_SERVER = ("", "inkling.v1.Classifier", "PredictionService")
# Watches of a process that may be open at once; a client has one for each connection.
_MAX_WATCHES = 1024
# No service and no model has a longer name; of a longer one, this much is kept.
_MAX_NAME = 128
# Threads that send the changes, and the seconds that one send may take. Where all these
# threads send, it is the second number.
_SENDERS, _SEND_TIMEOUT_S, _SHORT_TIMEOUT_S = 32, 2.0, 0.5


class _Watch:
    """A call whose caller is told each change; of several changes, only the newest."""

    def __init__(
        self, context: grpc.ServicerContext, send: Callable[[Any], None]
    ) -> None:
        self._context = context
        self._send = send
        self._lock = threading.Lock()
        # What is to be sent; None ends the call.
        self._news: list[Any] = []
        self._busy = False
        self._since: float | None = None

    def take(self, *news: Any) -> bool:
        """Take what is to be sent; return whether `send` must be called to send it."""
        with self._lock:
            self._news = list(news)
            idle, self._busy = not self._busy, True
            return idle

    def send(self) -> None:
        """Send what was taken; this lasts for as long as the caller takes nothing."""
        while True:
            with self._lock:
                news, self._news = self._news, []
                self._busy = bool(news)
                self._since = time.monotonic() if news else None
            if not news:
                return
            for response in news:
                self._send(response)

    def end_if_late(self, limit_s: float) -> None:
        """End the call where its caller has taken nothing for longer than this."""
        since = self._since
        if since is not None and time.monotonic() - since > limit_s:
            self._context.cancel()


class _Servicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers Check and Watch; a watch holds no thread while nothing changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[str, int] = {}
        self._watches: dict[_Watch, str] = {}
        self._leaving = self._ending = False
        self._senders = CallThreads(_SENDERS, "inkling-health")

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return a status."""
        status = self._statuses.get(request.service)
        if status is None:
            message = "No service or model has this name; the empty name is the server."
            context.abort(grpc.StatusCode.NOT_FOUND, message)
        return _response(status)

    def Watch(
        self, request: Any, context: grpc.ServicerContext, send: Callable[[Any], None]
    ) -> None:
        """Tell a caller each change of a status until it leaves, or until the end."""
        watch, name = _Watch(context, send), request.service[:_MAX_NAME]
        with self._lock:
            count = len(self._watches)
            if count < _MAX_WATCHES:
                self._watches[watch] = name
                first = _response(self._statuses.get(name, _SERVICE_UNKNOWN))
                watch.take(first, *([None] if self._ending else []))
        if count >= _MAX_WATCHES:
            end_with(context, too_many(count))
        if not context.add_callback(lambda: self._forget(watch)):
            self._forget(watch)
        # The thread of the call is for other calls: a send can take long.
        self._send([watch])

    # grpcio looks for this: the call stays open when the function has returned.
    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]

    def set(self, statuses: dict[str, int]) -> None:
        """Tell the watchers of these names."""
        with self._lock:
            if self._leaving:
                return
            self._statuses |= statuses
            told = [
                watch
                for watch, name in self._watches.items()
                if name in statuses and watch.take(_response(statuses[name]))
            ]
        self._send(told)

    def leave(self) -> None:
        """Say NOT_SERVING from now on."""
        with self._lock:
            self._leaving = True
            self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
            told = [
                watch
                for watch, name in self._watches.items()
                if name in self._statuses and watch.take(_response(_NOT_SERVING))
            ]
        self._send(told)

    def end(self) -> None:
        """Say NOT_SERVING, and end the watches, which would delay the end."""
        with self._lock:
            self._leaving = self._ending = True
            self._statuses = dict.fromkeys(self._statuses, _NOT_SERVING)
            told = [
                watch
                for watch, name in self._watches.items()
                if watch.take(*self._last_words(name))
            ]
        self._send(told)

    def end_late(self) -> None:
        """End the watches whose callers take nothing."""
        full = self._senders.open >= _SENDERS
        for watch in list(self._watches):
            watch.end_if_late(_SHORT_TIMEOUT_S if full else _SEND_TIMEOUT_S)

    def stop(self) -> None:
        """End the threads that are left; all calls have ended."""
        self._senders.shutdown(wait=False)

    def _last_words(self, name: str) -> list[Any]:
        return [_response(_NOT_SERVING), None] if name in self._statuses else [None]

    def _send(self, watches: list[_Watch]) -> None:
        if watches and self._senders.open >= _SENDERS:
            self.end_late()
        for watch in watches:
            self._senders.submit(watch.send)

    def _forget(self, watch: _Watch) -> None:
        with self._lock:
            self._watches.pop(watch, None)


def _response(status: int | None) -> Any:
    return health_pb2.HealthCheckResponse(status=status)


class Health:
    """Tells the health servicer which models can answer.

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
            "telling the health of the models", self._look, lambda: _LOOK_S
        )

    def leave(self) -> None:
        """Report NOT_SERVING for all names from now on; watches stay open."""
        self.servicer.leave()

    def end(self) -> None:
        """Report NOT_SERVING for all names, and end the watches."""
        self.servicer.end()

    def stop(self) -> None:
        """End the threads."""
        self._watcher.stop()
        self.servicer.stop()

    def _look(self) -> None:
        self.servicer.end_late()
        self._tell()

    def _tell(self) -> None:
        models = {model.name: model.ready for model in self._service.models()}
        whole = dict.fromkeys(_WHOLE_SERVER, any(models.values()))
        # A model that was removed from the repository can no longer answer.
        gone = dict.fromkeys(self._told, False)
        found = {
            name: _SERVING if ready else _NOT_SERVING
            for name, ready in {**gone, **models, **whole}.items()
        }
        changed = dict(found.items() - self._told.items())
        self.servicer.set(changed)
        self._told = found
