"""Assembles a gateway: the engine, the service, both servers, and the processes."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from uvicorn.config import STARTUP_FAILURE

from inkling_serving.dialects.tensorflow_serving.servicers import (
    TensorFlowServingDialect,
)
from inkling_serving.engines.choice import create_engine
from inkling_serving.grpc_api.server import GrpcServer
from inkling_serving.http_api.asgi_app import AsgiApp
from inkling_serving.http_api.handlers import Handlers
from inkling_serving.http_api.server import HttpServer
from inkling_serving.runtime.files import connections_allowed
from inkling_serving.runtime.held_bytes import HeldBytes
from inkling_serving.runtime.listeners import Listener, Ports, bound, reserved
from inkling_serving.runtime.memory import give_memory_back
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.runtime.poller import Repeating
from inkling_serving.runtime.supervisor import Worker, run
from inkling_serving.runtime.thread_pool import ThreadPool
from inkling_serving.security import ApiKeys, check_security
from inkling_serving.service import Service
from inkling_serving.settings import Settings

__all__ = ["application", "serve"]

_log = logging.getLogger(__name__)
_SWITCH_INTERVAL_S = 0.0005
_SAVE_PAUSE_S = 1.0
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises:
        InvalidRequest: A port is taken, or a file of keys or certificates cannot be
            used.
    """
    check_security(settings)
    logging.basicConfig(level=settings.log_level.upper(), format=_LOG_FORMAT)
    allowed = connections_allowed(settings.max_connections)
    settings = dataclasses.replace(settings, max_connections=allowed)
    ports = Ports(
        bound(settings.host, settings.http_port, "--http-port"),
        reserved(settings.host, settings.grpc_port, "--grpc-port"),
    )
    _say_addresses(settings, ports)
    _warn_of_openness(settings)
    if settings.workers_wanted == 1:
        return _serve(settings, ports, None)
    return run(
        _serve,
        settings,
        ports,
        workers=settings.workers_wanted,
        drain_timeout_s=settings.drain_timeout_s,
        not_started=STARTUP_FAILURE,
    )


def application(
    settings: Settings,
    grpc_address: tuple[str, int],
    folder: Path | None,
    held: HeldBytes,
) -> AsgiApp:
    """Return the ASGI application of one process, which starts and ends gRPC, too.

    Args:
        settings: The gateway's settings.
        grpc_address: The host and the port for gRPC.
        folder: The directory for the metrics of all workers; None for a single process.
        held: Counts the bytes of all requests of the process.
    """
    logging.basicConfig(level=settings.log_level.upper(), format=_LOG_FORMAT)
    give_memory_back()
    # With it, threads of the pool give the interpreter lock to the event loop sooner.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    engine = create_engine(settings)
    service = Service(engine, settings.limits, settings.max_batch)
    metrics = Metrics(folder)
    pool = ThreadPool(settings.work_threads, settings.queue, settings.queue_timeout_s)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        grpc_server = GrpcServer(service, pool, metrics, held, settings)
        dialect = TensorFlowServingDialect(service, pool, metrics)
        dialect.add_to(grpc_server.server)
        grpc_server.start(*grpc_address)
        # uvicorn ends its application only after HTTP has drained. gRPC must begin to
        # drain at the same time as HTTP.
        ended = _ended_by_signals(grpc_server.end)
        saver = Repeating("saving the metrics", metrics.save, lambda: _SAVE_PAUSE_S)
        # The objects that exist now stay, so the garbage collector need not visit them.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            await asyncio.to_thread((await ended()).wait)
            grpc_server.close()
            saver.stop()
            pool.close()
            engine.close()

    keys = ApiKeys(settings.api_key_file)
    handlers = Handlers(service, metrics, keys, settings.max_batch)
    return AsgiApp(handlers, pool, held, settings, running)


def _serve(settings: Settings, ports: Ports, worker: Worker | None) -> int:
    """Serve in this process until a signal comes; return the exit code."""
    listener = Listener(fileno=ports.http.detach())
    listener.ending = worker.ending if worker else None
    grpc_address, folder = ports.grpc_address, worker.folder if worker else None
    held = HeldBytes(settings.held_bytes)
    server = HttpServer(
        settings,
        lambda: application(settings, grpc_address, folder, held),
        held=held,
        when_started=worker.serving.set if worker else lambda: None,
        supervised=worker is not None,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn sets its own handlers only later. After it has drained, uvicorn raises
        # the signal again, and this handler then has no further effect.
        signal.signal(number, server.handle_exit)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    server.run(sockets=[listener])
    return 0


def _ended_by_signals(end: Callable[[], Any]) -> Callable[[], Any]:
    """Call `end` on the event loop at the first signal that ends uvicorn.

    Returns:
        A function that awaits the result of `end`, and calls `end` without a signal.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()

    def begin() -> None:
        if not result.done():
            result.set_result(end())

    for number in (signal.SIGTERM, signal.SIGINT):
        uvicorns = signal.getsignal(number)

        def handle(
            number: int, frame: FrameType | None, uvicorns: Any = uvicorns
        ) -> None:
            loop.call_soon_threadsafe(begin)
            uvicorns(number, frame)

        signal.signal(number, handle)

    async def ended() -> Any:
        begin()
        return await result

    return ended


def _say_addresses(settings: Settings, ports: Ports) -> None:
    secure = "s" if settings.tls_certificate else ""
    for protocol, taken, end in (("http", ports.http, "/"), ("grpc", ports.grpc, "")):
        host, port = taken.getsockname()[:2]
        shown = f"[{host}]" if taken.family == socket.AF_INET6 else host
        _log.info("listening on %s%s://%s:%d%s", protocol, secure, shown, port, end)


def _warn_of_openness(settings: Settings) -> None:
    if settings.host in ("127.0.0.1", "::1"):
        return
    if not settings.api_key_file and not settings.tls_client_ca:
        _log.warning(
            "every client that reaches %s can use this gateway; set --api-key-file to "
            "require a key",
            settings.host,
        )
    elif not settings.tls_certificate:
        _log.warning(
            "keys and pictures cross the network without encryption; set "
            "--tls-certificate and --tls-key, or use a proxy with TLS"
        )
