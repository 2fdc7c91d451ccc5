"""Puts a gateway process together and runs it under uvicorn."""

from __future__ import annotations

import logging
import os
import signal
import socket
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.supervisors import Multiprocess

from inkling.errors import InvalidRequest
from inkling.repository import Repository
from inkling_serving.engines.embedded import EmbeddedEngine
from inkling_serving.front import Front
from inkling_serving.http_gateway import Gateway
from inkling_serving.service import Service
from inkling_serving.settings import Settings

if TYPE_CHECKING:
    from inkling_serving.engines.base import Engine

__all__ = ["create_engine", "create_gateway", "serve", "worker"]

_log = logging.getLogger(__name__)
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def create_engine(settings: Settings) -> Engine:
    """Return the engine that the settings ask for, with what is published loaded."""
    repository = Repository(settings.models_dir)
    return EmbeddedEngine(repository, settings.tflite_format, settings.poll_s)


def create_gateway(settings: Settings, engine: Engine) -> Gateway:
    """Return the gateway over an engine."""
    service = Service(engine, settings.limits, settings.max_batch)
    return Gateway(service, settings.max_batch)


def worker() -> Front:
    """Return the application of one gateway process, set by its environment.

    uvicorn calls this by name in each process that it starts.
    """
    settings = Settings.from_env(os.environ)
    logging.basicConfig(level=settings.log_level.upper(), format=_LOG_FORMAT)
    engine = create_engine(settings)
    return Front(create_gateway(settings, engine), settings, on_stop=engine.close)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    Raises:
        InvalidRequest: The port is taken.
    """
    os.environ.update(settings.to_env())
    logging.basicConfig(level=settings.log_level.upper(), format=_LOG_FORMAT)
    listener = _listener(settings)
    host, port = listener.getsockname()[:2]
    _log.info("listening on http://%s:%d/", host, port)
    if host not in ("127.0.0.1", "::1"):
        _log.warning(
            "everyone who reaches %s can use this; nothing asks for a key", host
        )
    config = uvicorn.Config(
        "inkling_serving.server:worker",
        factory=True,
        workers=settings.workers,
        # The standard loop was as fast as uvloop in our measurements, and keeps
        # signals that uvloop loses while it starts.
        loop="asyncio",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_timeout_s),
    )
    # Once all is answered, uvicorn raises the signal again that stopped it; having
    # drained is success, so by then the signal must not kill.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = uvicorn.Server(config)
    if settings.workers > 1:
        Multiprocess(config, target=server.run, sockets=[listener]).run()
    else:
        server.run(sockets=[listener])
    return 0


def _listener(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.http_port))
    except OSError:
        listener.close()
        raise InvalidRequest(
            f"Cannot listen on {settings.host} port {settings.http_port}: the port is "
            "taken, or the address is not this machine's. Choose another with "
            "--http-port or --host."
        ) from None
    listener.set_inheritable(True)
    return listener
