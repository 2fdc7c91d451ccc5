"""The gRPC server of one gateway process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from inkling.errors import Unauthenticated
from inkling_serving.grpc_gateway import abort
from inkling_serving.security import ApiKeys, grpc_credentials

if TYPE_CHECKING:
    from inkling_serving.service import Service
    from inkling_serving.settings import Settings

__all__ = ["GrpcServer"]

_Method: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_HEALTH_POLL_S = 0.5
_LAST_WORD_S = 0.25
_MAX_RPCS = 4096
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_HEALTH_METHODS = f"/{health.SERVICE_NAME}/"
# Answered under the names that clients of TensorFlow Serving ask for, too.
_WHOLE_SERVER = ("", "inkling.v1.Classifier", "PredictionService")


class GrpcServer:
    """Serves handlers on the gRPC port, with health by model."""

    def __init__(
        self,
        service: Service,
        handlers: Sequence[grpc.GenericRpcHandler],
        settings: Settings,
        ending: asyncio.Event,
    ) -> None:
        """Take what answers; once `ending` is set, no more calls are accepted."""
        self._service = service
        self._settings = settings
        self._ending = ending
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                # Several gateway processes share the port.
                ("grpc.so_reuseport", 1),
                # Messages are small; measuring the connection costs more than it gains.
                ("grpc.http2.bdp_probe", 0),
            ],
            # The outer cap; the bounded queue of `Work` bites first, and says why.
            maximum_concurrent_rpcs=_MAX_RPCS,
            interceptors=_interceptors(settings),
        )
        self._server.add_generic_rpc_handlers(tuple(handlers))
        self._health = _Health(ending)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.grpc_reflection:
            _add_reflection(self._server)
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; the port was found free before."""
        host = self._settings.host
        address = f"[{host}]" if ":" in host else host
        address += f":{self._settings.grpc_port}"
        credentials = grpc_credentials(self._settings)
        if credentials is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, credentials)
        await self._update_health()
        await self._server.start()
        self._running = asyncio.create_task(self._run())

    async def stopped(self) -> None:
        """Return once the calls that were under way at the end are answered."""
        if self._running is not None:
            await self._running

    async def _run(self) -> None:
        """Keep the health up to date until the end, and then stop."""
        while not self._ending.is_set():
            try:
                async with asyncio.timeout(_HEALTH_POLL_S):
                    await self._ending.wait()
            except TimeoutError:
                await self._update_health()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._settings.drain_timeout_s)

    async def _update_health(self) -> None:
        models = self._service.models()
        ready = any(model.ready for model in models)
        for name in _WHOLE_SERVER:
            await self._health.set(name, _SERVING if ready else _NOT_SERVING)
        for model in models:
            status = _SERVING if model.ready else _NOT_SERVING
            await self._health.set(model.name, status)


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """gRPC's own health service, whose watchers do not hold up the end."""

    def __init__(self, ending: asyncio.Event) -> None:
        super().__init__()
        self._ending = ending

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Tell a caller each change, and at the end that this is the end."""
        telling = asyncio.create_task(super().Watch(request, context))
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({telling, ending}, return_when=asyncio.FIRST_COMPLETED)
            # The last change is on its way; two writes at once are not allowed.
            await asyncio.wait({telling}, timeout=_LAST_WORD_S)
        finally:
            telling.cancel()
            ending.cancel()
        await asyncio.wait({telling})


def _interceptors(settings: Settings) -> list[grpc.aio.ServerInterceptor]:
    # Each costs every call some time, needed or not.
    if not settings.api_key_file:
        return []
    return [_KeyCheck(ApiKeys(settings.api_key_file))]


class _KeyCheck(grpc.aio.ServerInterceptor):
    """Lets no call without a key pass, but for questions after the health."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[_Method | None]],
        call: Any,
    ) -> _Method | None:
        """Return the method that was asked for, or one that refuses."""
        if call.method.startswith(_HEALTH_METHODS):
            return await continuation(call)
        given = dict(call.invocation_metadata).get("authorization")
        try:
            self._keys.check(given)
        except Unauthenticated as error:
            return _refusing(error)
        return await continuation(call)


def _refusing(error: Unauthenticated) -> _Method:
    async def refuse(_: Any, context: Any) -> None:
        await abort(context, error)

    # A stream of both kinds is answered before anything is read of it.
    return grpc.stream_stream_rpc_method_handler(refuse)


def _add_reflection(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection  # noqa: PLC0415 - only if asked

    names = (
        "inkling.v1.Classifier",
        health.SERVICE_NAME,
        reflection.SERVICE_NAME,
    )
    reflection.enable_server_reflection(names, server)
