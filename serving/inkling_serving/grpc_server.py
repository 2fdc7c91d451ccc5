"""The gRPC server of one gateway process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from inkling_serving.service import Service
    from inkling_serving.settings import Settings

__all__ = ["GrpcServer"]

_HEALTH_POLL_S = 0.5
_MAX_RPCS = 4096
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# Answered under the names that clients of TensorFlow Serving ask for, too.
_WHOLE_SERVER = ("", "inkling.v1.Classifier", "PredictionService")


class GrpcServer:
    """Serves handlers on the gRPC port, with health by model."""

    def __init__(
        self,
        service: Service,
        handlers: Sequence[grpc.GenericRpcHandler],
        settings: Settings,
    ) -> None:
        self._service = service
        self._settings = settings
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                # Several gateway processes share the port.
                ("grpc.so_reuseport", 1),
            ],
            # The outer cap; the bounded queue of `Work` bites first, and says why.
            maximum_concurrent_rpcs=_MAX_RPCS,
        )
        self._server.add_generic_rpc_handlers(tuple(handlers))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.grpc_reflection:
            _add_reflection(self._server)
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; the port was found free before."""
        host = self._settings.host
        address = f"[{host}]" if ":" in host else host
        self._server.add_insecure_port(f"{address}:{self._settings.grpc_port}")
        await self._update_health()
        await self._server.start()
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Say that this is the end, answer what is under way, and stop."""
        if self._watcher is not None:
            self._watcher.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._settings.drain_timeout_s)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_POLL_S)
            await self._update_health()

    async def _update_health(self) -> None:
        models = self._service.models()
        ready = any(model.ready for model in models)
        for name in _WHOLE_SERVER:
            await self._health.set(name, _SERVING if ready else _NOT_SERVING)
        for model in models:
            status = _SERVING if model.ready else _NOT_SERVING
            await self._health.set(model.name, status)


def _add_reflection(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection  # noqa: PLC0415 - only if asked

    names = (
        "inkling.v1.Classifier",
        health.SERVICE_NAME,
        reflection.SERVICE_NAME,
    )
    reflection.enable_server_reflection(names, server)
