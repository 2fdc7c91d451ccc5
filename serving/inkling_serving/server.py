"""Puts a gateway process together and runs it under uvicorn."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from inkling.errors import InvalidRequest
from inkling.repository import Repository
from inkling_serving.dialects.tensorflow_serving import TensorFlowServingDialect
from inkling_serving.engines.embedded import EmbeddedEngine
from inkling_serving.engines.tensorflow_serving import TensorFlowServingEngine
from inkling_serving.front import Front
from inkling_serving.grpc_gateway import ClassifierGateway
from inkling_serving.grpc_server import GrpcServer
from inkling_serving.guarded import GuardedProtocol
from inkling_serving.http_gateway import Gateway
from inkling_serving.security import check_security
from inkling_serving.service import Service
from inkling_serving.settings import Settings
from inkling_serving.work import Work

if TYPE_CHECKING:
    from inkling_serving.engines.base import Engine

__all__ = ["create_engine", "serve", "worker"]

_log = logging.getLogger(__name__)
_BACKLOG = 2048
# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_BIG_BUFFER_BYTES = 256 * 1024
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def create_engine(settings: Settings) -> Engine:
    """Return the engine that the settings ask for, with what is published loaded."""
    if settings.engine == "tensorflow_serving":
        return TensorFlowServingEngine(settings)
    repository = Repository(settings.models_dir)
    return EmbeddedEngine(repository, settings.tflite_format, settings.poll_s)


def worker() -> Front:
    """Return the application of one gateway process, set by its environment.

    uvicorn calls this by name in each process that it starts.
    """
    settings = Settings.from_env(os.environ)
    logging.basicConfig(level=settings.log_level.upper(), format=_LOG_FORMAT)
    _give_memory_back()
    _end_with_parent()
    engine = create_engine(settings)
    service = Service(engine, settings.limits, settings.max_batch)
    work = Work(settings.work_threads, settings.queue)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        ending = _set_by_signals()
        handlers = [
            ClassifierGateway(service, work, ending).handlers(),
            *TensorFlowServingDialect(service, work).handlers(),
        ]
        grpc_server = GrpcServer(service, handlers, settings, ending)
        await grpc_server.start()
        try:
            yield
        finally:
            ending.set()
            await grpc_server.stopped()
            work.close()
            engine.close()

    return Front(Gateway(service, settings.max_batch), work, settings, running)


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


def _end_with_parent() -> None:
    """End a worker whose supervisor was killed, so that it does not hold the port."""
    supervisor = multiprocessing.parent_process()
    if supervisor is None:
        return

    def watch() -> None:
        supervisor.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="inkling-supervisor", daemon=True).start()


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises:
        InvalidRequest: The port is taken, or a file of keys cannot be used.
    """
    check_security(settings)
    logging.basicConfig(level=settings.log_level.upper(), format=_LOG_FORMAT)
    listener = _bound(settings.host, settings.http_port, "--http-port")
    # Held for as long as we run, so that the port is ours; the workers share it.
    grpc_holder = _bound(settings.host, settings.grpc_port, "--grpc-port", share=True)
    settings = replace(settings, grpc_port=grpc_holder.getsockname()[1])
    os.environ.update(settings.to_env())
    host, port = listener.getsockname()[:2]
    secure = "s" if settings.tls_certificate else ""
    _log.info("listening on http%s://%s:%d/", secure, host, port)
    _log.info("listening on grpc%s://%s:%d", secure, host, settings.grpc_port)
    _warn_of_openness(settings)
    config = uvicorn.Config(
        "inkling_serving.server:worker",
        factory=True,
        workers=settings.workers,
        # The standard loop was as fast as uvloop in our measurements, and keeps
        # signals that uvloop loses while it starts.
        loop="asyncio",
        http=GuardedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=settings.tls_certificate or None,
        ssl_keyfile=settings.tls_key or None,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    server = _Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        # From now on, and not only from when uvicorn sets its own. It raises the signal
        # again that stopped it once all is answered; this handler then does no harm.
        signal.signal(number, server.handle_exit)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if settings.workers > 1:
        Multiprocess(config, sockets=[listener]).run()
    else:
        server.run(sockets=[listener])
    return 0


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


class _Server(uvicorn.Server):  # type: ignore[misc]
    """uvicorn's server, which a second signal of either kind ends at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or end."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)


def _bound(host: str, port: int, flag: str, share: bool = False) -> socket.socket:
    """Return a socket on the address; with `share`, others may bind to it as well."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where it is told that this is TCP; with
    # it, every answer on a kept connection waits 40 ms for the client's delayed ACK.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if share:
            # First without sharing: a port that another program holds is taken.
            with socket.socket(bound.family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
        if not share:
            # Two gateways that start at once would both bind; only one can listen.
            bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise InvalidRequest(
            f"Cannot listen on {host} port {port}: the port is taken, or the address "
            f"is not this machine's. Choose another with {flag} or --host."
        ) from None
    bound.set_inheritable(True)
    return bound
