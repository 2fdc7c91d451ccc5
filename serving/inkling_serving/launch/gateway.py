"""Puts a gateway together: engine, service, and the doors to it."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from inkling.model.repository import Repository
from inkling_serving.dialects.tensorflow_serving.servicers import (
    TensorFlowServingDialect,
)
from inkling_serving.engines.embedded import EmbeddedEngine
from inkling_serving.engines.tensorflow_serving import TensorFlowServingEngine
from inkling_serving.grpc_api.classifier import ClassifierGateway
from inkling_serving.grpc_api.server import GrpcServer
from inkling_serving.http_api.asgi_app import Front
from inkling_serving.http_api.handlers import Gateway
from inkling_serving.runtime.listeners import Listener, Listeners, bound
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.runtime.supervisor import run
from inkling_serving.runtime.thread_pool import Work
from inkling_serving.security import check_security
from inkling_serving.service import Service
from inkling_serving.settings import Settings

if TYPE_CHECKING:
    from inkling_serving.engines.base import Engine

__all__ = ["application", "create_engine", "serve"]

_log = logging.getLogger(__name__)
# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Above the 256 KiB that asyncio asks for each time it reads from a socket.
_BIG_BUFFER_BYTES = 512 * 1024
_SWITCH_INTERVAL_S = 0.0005
_SAVE_PAUSE_S = 1.0
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def create_engine(settings: Settings) -> Engine:
    """Return the engine that the settings ask for, with what is published loaded."""
    if settings.engine == "tensorflow_serving":
        return TensorFlowServingEngine(settings)
    repository = Repository(settings.models_dir)
    return EmbeddedEngine(repository, settings.tflite_format, settings.poll_s)


def application(settings: Settings, folder: Path | None, listener: Listener) -> Front:
    """Return the application of one gateway process.

    Args:
        settings: What it is told.
        folder: Where it meets the other workers; None where it is alone.
        listener: What it listens on for gRPC.
    """
    logging.basicConfig(level=settings.log_level.upper(), format=_LOG_FORMAT)
    _give_memory_back()
    # A request in the pool gives the interpreter back sooner to the loop.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    engine = create_engine(settings)
    service = Service(engine, settings.limits, settings.max_batch)
    metrics = Metrics(folder)
    work = Work(settings.work_threads, settings.queue, settings.queue_timeout_s)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        ending = _set_by_signals()
        methods = {
            **ClassifierGateway(service, work, metrics, ending).methods(),
            **TensorFlowServingDialect(service, work, metrics).methods(),
        }
        grpc_server = GrpcServer(service, methods, settings, ending)
        await grpc_server.start(listener)
        saving = asyncio.create_task(_saved(metrics))
        # What is there now stays; looking through it again and again frees nothing.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            ending.set()
            await grpc_server.stopped()
            saving.cancel()
            work.close()
            engine.close()

    gateway = Gateway(service, metrics, settings.max_batch)
    return Front(gateway, work, settings, running)


async def _saved(metrics: Metrics) -> None:
    while True:
        metrics.save()
        await asyncio.sleep(_SAVE_PAUSE_S)


def _set_by_signals() -> asyncio.Event:
    """Return an event that the signals which end uvicorn set, too.

    uvicorn tells its application of the end only once HTTP has drained; gRPC is to say
    at the same moment that it is leaving.
    """
    ending, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        uvicorns = signal.getsignal(number)

        def handle(
            number: int, frame: FrameType | None, uvicorns: Any = uvicorns
        ) -> None:
            loop.call_soon_threadsafe(ending.set)
            uvicorns(number, frame)

        signal.signal(number, handle)
    return ending


def _give_memory_back() -> None:
    """Have the buffers of big pictures go back to the system when they are freed.

    glibc raises its thresholds with each big buffer that is freed, and then keeps what
    it has: after 250 photos 131 MB were resident, and are 92 MB with this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's alone
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BIG_BUFFER_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _BIG_BUFFER_BYTES)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises:
        InvalidRequest: The port is taken, or a file of keys cannot be used.
    """
    check_security(settings)
    logging.basicConfig(level=settings.log_level.upper(), format=_LOG_FORMAT)
    http = bound(settings.host, settings.http_port, "--http-port")
    grpc = bound(settings.host, settings.grpc_port, "--grpc-port")
    secure = "s" if settings.tls_certificate else ""
    for protocol, listener in (("http", http), ("grpc", grpc)):
        host, port = listener.getsockname()[:2]
        end = "/" if protocol == "http" else ""
        _log.info("listening on %s%s://%s:%d%s", protocol, secure, host, port, end)
    _warn_of_openness(settings)
    return run(settings, Listeners(http, grpc), application)


def _warn_of_openness(settings: Settings) -> None:
    if settings.host in ("127.0.0.1", "::1"):
        return
    if not settings.api_key_file:
        _log.warning(
            "everyone who reaches %s can use this; --api-key-file asks for a key",
            settings.host,
        )
    elif not settings.tls_certificate:
        _log.warning(
            "keys and pictures cross the network in the clear; encrypt here with "
            "--tls-certificate and --tls-key, or in a proxy in front"
        )
