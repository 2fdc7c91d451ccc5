# SPDX-License-Identifier: Apache-2.0
"""Assembles a gateway: the engine, the service, both servers, and the processes."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from uvicorn.config import STARTUP_FAILURE

from inkling.model.repository import Repository
from inkling.network.address import Address, is_loopback
from inkling_serving.capture.capture import Capture, check_capture
from inkling_serving.dialects.open_inference.servicer import OpenInferenceDialect
from inkling_serving.dialects.tensorflow_serving.servicers import (
    TensorFlowServingDialect,
)
from inkling_serving.engines.choice import create_engine
from inkling_serving.grpc_api.server import GrpcServer
from inkling_serving.http_api.asgi_app import AsgiApp
from inkling_serving.http_api.handlers import Handlers
from inkling_serving.http_api.server import HttpServer
from inkling_serving.keys import ApiKeys
from inkling_serving.rollout.parts import Rollout
from inkling_serving.runtime.ending import Ending
from inkling_serving.runtime.files import connections_allowed
from inkling_serving.runtime.held_bytes import HeldBytes
from inkling_serving.runtime.listeners import Listener, Ports, bound, reserved
from inkling_serving.runtime.logs import AccessLog, collect_stderr, start_log
from inkling_serving.runtime.memory import give_memory_back
from inkling_serving.runtime.metrics import Counted, Metrics
from inkling_serving.runtime.poller import Repeating
from inkling_serving.runtime.supervisor import Worker, run
from inkling_serving.runtime.thread_pool import ThreadPool
from inkling_serving.security import CertificateFiles, check_security
from inkling_serving.service import Service
from inkling_serving.settings import Settings
from inkling_serving.telemetry.drift import Drift
from inkling_serving.telemetry.tracing import tracing_of

__all__ = ["application", "serve"]

_log = logging.getLogger(__name__)
_SWITCH_INTERVAL_S = 0.0005
_SAVE_PAUSE_S = 1.0


@dataclass(frozen=True)
class _Gateway:
    """The settings, keys and certificate, as a worker gets them when it starts."""

    settings: Settings
    keys: ApiKeys
    certificates: CertificateFiles


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises:
        InvalidRequest: A port is taken, or a file of keys or certificates cannot be
            used.
    """
    check_security(settings)
    check_capture(settings)
    start_log(settings.log_level, settings.log_format)
    for remark in Settings.remarks(os.environ):
        _log.warning("%s", remark)
    allowed = connections_allowed(settings.max_connections)
    settings = dataclasses.replace(settings, max_connections=allowed)
    ports = Ports(
        bound(settings.host, settings.http_port, "--http-port"),
        reserved(settings.host, settings.grpc_port, "--grpc-port"),
    )
    _say_addresses(settings, ports)
    _warn_of_openness(settings)
    keys = ApiKeys(settings.api_key_file)
    gateway = _Gateway(settings, keys, CertificateFiles(settings))
    if settings.workers_wanted == 1:
        return _serve(gateway, ports, None)
    looking = [gateway.keys.watch(), gateway.certificates.watch()]
    try:
        return run(
            _serve,
            gateway,
            ports,
            workers=settings.workers_wanted,
            end_s=settings.drain_timeout_s,
            delay_s=settings.drain_delay_s,
            not_started=STARTUP_FAILURE,
        )
    finally:
        for one in looking:
            one.stop()


def application(
    gateway: _Gateway,
    grpc_address: tuple[str, int],
    folder: Path | None,
    ending: Ending,
    held: HeldBytes,
) -> AsgiApp:
    """Return the ASGI application of one process, which starts and ends gRPC, too.

    Args:
        gateway: The gateway's settings and keys.
        grpc_address: The host and the port for gRPC.
        folder: The directory for the metrics of all workers; None for a single process.
        ending: Tells when this process is not ready any more, and when it ends.
        held: Counts the bytes of all requests of the process.
    """
    settings, keys = gateway.settings, gateway.keys
    _prepare_process()
    engine = create_engine(settings, folder)
    drift, capture, metrics, end_traces = _observed(settings, folder)
    pool = ThreadPool(settings.work_threads, settings.queue, settings.queue_timeout_s)
    rollout = Rollout(engine, metrics, pool, settings)
    limits, quotas = settings.limits, settings.quotas()
    service = Service(
        engine, limits, settings.max_batch, quotas, rollout.mirror, capture, drift
    )

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        grpc_server = _grpc_server(gateway, service, pool, metrics, held)
        grpc_server.start(*grpc_address)
        grpc_ended = _end_together(ending, service, grpc_server)
        saver = Repeating("saving the metrics", metrics.save, lambda: _SAVE_PAUSE_S)
        looking = keys.watch()
        # The objects that exist now stay, so the garbage collector need not visit them.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            ending.finish()
            await asyncio.to_thread(grpc_ended[0].wait)
            grpc_server.close()
            for thread in (saver, looking):
                thread.stop()
            for part in (pool, rollout, engine, capture, drift):
                if part is not None:
                    part.close()
            end_traces()

    handlers = Handlers(service, metrics, keys, settings, held)
    return AsgiApp(handlers, pool, held, settings, running)


def _prepare_process() -> None:
    give_memory_back()
    # With it, threads of the pool give the interpreter lock to the event loop sooner.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def _observed(
    settings: Settings, folder: Path | None
) -> tuple[Drift, Capture | None, Metrics, Callable[[], None]]:
    """Return what watches the requests, and a function that sends the last traces."""
    drift = Drift(Repository(settings.models_dir, settings.model_name))
    capture = Capture(settings, settings.workers_wanted) if settings.capture else None
    access, tracing = AccessLog(settings.access_log), tracing_of(settings)
    parts: dict[str, Counted] = {"drift": drift}
    if capture is not None:
        parts["capture"] = capture
    if tracing is None:
        return drift, capture, Metrics(folder, access, parts=parts), lambda: None
    metrics = Metrics(folder, access, tracing.tell, parts)
    return drift, capture, metrics, tracing.close


def _grpc_server(
    gateway: _Gateway,
    service: Service,
    pool: ThreadPool,
    metrics: Metrics,
    held: HeldBytes,
) -> GrpcServer:
    """Return the gRPC server with all protocols, not started yet."""
    # Both ports look for a new certificate by themselves.
    files = copy(gateway.certificates)
    made = GrpcServer(
        service, pool, metrics, held, gateway.settings, gateway.keys, files
    )
    for dialect in (
        TensorFlowServingDialect(service, pool, metrics),
        OpenInferenceDialect(service, pool, metrics, made.streams),
    ):
        dialect.add_to(made.server)
    return made


def _end_together(
    ending: Ending, service: Service, grpc_server: GrpcServer
) -> list[threading.Event]:
    """End gRPC with HTTP; return where the event will be that all calls have ended.

    uvicorn ends its application only after HTTP has drained. gRPC must begin to drain
    at the same time as HTTP.
    """
    ended: list[threading.Event] = []

    def tell() -> None:
        service.leave()
        grpc_server.leave()

    ending.when_told = tell
    ending.when_over = lambda: ended.append(grpc_server.end())
    return ended


def _serve(gateway: _Gateway, ports: Ports, worker: Worker | None) -> int:
    """Serve in this process until a signal comes; return the exit code."""
    settings = gateway.settings
    start_log(settings.log_level, settings.log_format)
    collect_stderr()
    ending = Ending(settings.drain_delay_s)
    listener = Listener(fileno=ports.http.detach())
    listener.ending = worker.ending if worker else None
    grpc_address, folder = ports.grpc_address, worker.folder if worker else None
    held = HeldBytes(settings.held_bytes, settings.held_bytes_of_client)
    server = HttpServer(
        settings,
        lambda: application(gateway, grpc_address, folder, ending, held),
        held=held,
        when_started=worker.serving.set if worker else lambda: None,
        supervised=worker is not None,
        ending=ending,
        certificates=gateway.certificates,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn sets its own handlers only later. After it has drained, uvicorn raises
        # the signal again, and this handler then has no further effect.
        signal.signal(number, server.handle_exit)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    server.run(sockets=[listener])
    return 0


def _say_addresses(settings: Settings, ports: Ports) -> None:
    """Log the addresses in the form that every command takes."""
    secure = "s" if settings.tls_certificate else ""
    for protocol, taken, end in (("http", ports.http, "/"), ("grpc", ports.grpc, "")):
        host, port = taken.getsockname()[:2]
        address = Address(f"{protocol}{secure}", host, port)
        _log.info("listening on %s%s", address.url, end)


def _warn_of_openness(settings: Settings) -> None:
    if is_loopback(settings.host):
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
