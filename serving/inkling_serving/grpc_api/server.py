"""The gRPC server of one gateway process, with health, keys and reflection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from inkling.errors import InvalidRequest, Unauthenticated
from inkling_serving.grpc_api.classifier import parsed, status_of
from inkling_serving.http2.answering import Options
from inkling_serving.http2.calls import Call, Method, Methods, Streaming, Unary
from inkling_serving.http2.connection import Connection
from inkling_serving.http2.messages import Status
from inkling_serving.security import ApiKeys, grpc_context

if TYPE_CHECKING:
    from inkling_serving.http2.heads import Head
    from inkling_serving.runtime.listeners import Listener
    from inkling_serving.service import Service
    from inkling_serving.settings import Settings

__all__ = ["GrpcServer"]

_M = TypeVar("_M", bound=Message)

_HEALTH_POLL_S = 0.5
# For a client to agree on how to encrypt.
_HANDSHAKE_S = 5.0
_DRAIN_POLL_S = 0.02
_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
# What a question after the health may have; it is open to all.
_MAX_NAME_BYTES = 4096
_HEALTH = "/grpc.health.v1.Health/"
# Answered under the names that clients of TensorFlow Serving ask for, too.
_WHOLE_SERVER = ("", "inkling.v1.Classifier", "PredictionService")
# Its messages are the same in both; tools ask for the first, and then for the second.
_REFLECTION = tuple(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    for version in ("v1", "v1alpha")
)


class GrpcServer:
    """Serves methods on the gRPC port."""

    def __init__(
        self,
        service: Service,
        methods: Methods,
        settings: Settings,
        ending: asyncio.Event,
    ) -> None:
        """Take what answers; once `ending` is set, no more calls are accepted."""
        self._settings = settings
        self._ending = ending
        self._keys = ApiKeys(settings.api_key_file)
        reflection = _reflection() if settings.grpc_reflection else {}
        self._options = Options(
            {**methods, **_Health(service, ending).methods(), **reflection},
            self._admit,
            settings.max_body_bytes,
            settings.body_timeout_s,
        )
        self._tls = grpc_context(settings)
        self._connections: set[Connection] = set()
        self._running: asyncio.Task[None] | None = None

    async def start(self, listener: Listener) -> None:
        """Accept connections from this socket."""
        loop = asyncio.get_running_loop()
        # asyncio accepts as many connections at a time as may wait.
        server = await loop.create_server(
            self._connection, sock=listener, backlog=1, **self._encryption()
        )
        self._running = asyncio.create_task(self._run(server, listener))

    async def stopped(self) -> None:
        """Return once the calls that were under way at the end are answered."""
        if self._running is not None:
            await self._running

    def _encryption(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        return {"ssl": self._tls, "ssl_handshake_timeout": _HANDSHAKE_S}

    def _connection(self) -> Connection:
        return Connection(self._options, self._connections)

    def _admit(self, head: Head) -> Status | None:
        """Let no call without a key pass, but for questions after the health."""
        if head.path.startswith(_HEALTH):
            return None
        try:
            self._keys.check(head.metadata.get("authorization"))
        except Unauthenticated as error:
            return status_of(error)
        return None

    async def _run(self, server: asyncio.Server, listener: Listener) -> None:
        await self._ending.wait()
        waiting = await listener.last()
        server.close()
        taken = [asyncio.create_task(self._take(one)) for one in waiting]
        now = asyncio.get_running_loop().time
        give_up = now() + self._settings.drain_timeout_s
        while (
            self._connections or not all(task.done() for task in taken)
        ) and now() < give_up:
            for connection in set(self._connections):  # one may be new
                connection.end()
            await asyncio.sleep(_DRAIN_POLL_S)
        for connection in set(self._connections):
            connection.abort()

    async def _take(self, waiting: socket.socket) -> None:
        """Take a client that came too late, so that it is told that this is the end."""
        loop = asyncio.get_running_loop()
        with suppress(OSError):  # a client that left, or that speaks no TLS
            await loop.connect_accepted_socket(
                self._connection, waiting, **self._encryption()
            )


class _Health:
    """gRPC's health service: of the whole server, and of each model by its name."""

    def __init__(self, service: Service, ending: asyncio.Event) -> None:
        self._service = service
        self._ending = ending

    def methods(self) -> dict[str, Method]:
        return {
            f"{_HEALTH}Check": Unary(self._check, _MAX_NAME_BYTES),
            f"{_HEALTH}Watch": Streaming(self._watch, _MAX_NAME_BYTES),
        }

    def _status(self, name: str) -> int:
        models = self._service.models()
        if name in _WHOLE_SERVER:
            ready = any(model.ready for model in models)
        else:
            found = [model.ready for model in models if model.name == name]
            if not found:
                return _UNKNOWN
            [ready] = found
        return _SERVING if ready and not self._ending.is_set() else _NOT_SERVING

    def _check(self, body: bytes, _: Call) -> bytes:
        name = _read(health_pb2.HealthCheckRequest, body).service
        status = self._status(name)
        if status == _UNKNOWN:
            words = "There is no such service or model; ListModels has the names."
            raise Status(grpc.StatusCode.NOT_FOUND, words)
        return _health(status)

    async def _watch(
        self, bodies: AsyncIterator[bytes], _: Call
    ) -> AsyncGenerator[bytes, None]:
        """Tell a caller each change, and at the end that this is the end."""
        body, told = await anext(bodies, b""), None
        name = _read(health_pb2.HealthCheckRequest, body).service
        while True:
            ended = self._ending.is_set()
            if (status := self._status(name)) != told:
                yield _health(status)
                told = status
            if ended:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_HEALTH_POLL_S):
                    await self._ending.wait()


def _health(status: int) -> bytes:
    answer: bytes = health_pb2.HealthCheckResponse(status=status).SerializeToString()
    return answer


def _read(kind: type[_M], body: bytes) -> _M:
    try:
        return parsed(kind, body)
    except InvalidRequest as error:
        raise status_of(error) from None


def _reflection() -> dict[str, Method]:
    """Return gRPC's reflection service, which says what else there is."""
    from grpc_reflection.v1alpha import reflection  # noqa: PLC0415 - only if asked
    from grpc_reflection.v1alpha import reflection_pb2 as wire  # noqa: PLC0415

    names = ("inkling.v1.Classifier", "grpc.health.v1.Health", reflection.SERVICE_NAME)
    servicer = reflection.aio.ReflectionServicer(names)

    async def answer(
        bodies: AsyncIterator[bytes], call: Call
    ) -> AsyncGenerator[bytes, None]:
        requests = (_read(wire.ServerReflectionRequest, body) async for body in bodies)
        async for response in servicer.ServerReflectionInfo(requests, call):
            yield response.SerializeToString()

    return dict.fromkeys(_REFLECTION, Streaming(answer))
