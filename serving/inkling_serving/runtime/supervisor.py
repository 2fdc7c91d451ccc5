"""The processes of a gateway: one that serves, or several and one that keeps them.

The processes share the listening sockets. Each accepts one connection at a time, so
that none takes all of what arrives at once, and on the way out each answers what had
already been accepted by the system: a connection that waits when the last listener
closes would be reset.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from inkling_serving.http_api.direct import DirectProtocol
from inkling_serving.runtime.listeners import Listener, Listeners

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Event

    from inkling_serving.settings import Settings

    # Makes the ASGI application of a process, from the folder where its workers meet
    # and the socket that it listens on for gRPC.
    Application = Callable[[Settings, Path | None, Listener], Any]

__all__ = ["run"]

_log = logging.getLogger(__name__)
_context = multiprocessing.get_context("spawn")
# uvicorn's exit code where an application could not start.
_NOT_STARTED = 3
# What starting and stopping may take beside the requests under way.
_SLACK_S = 5.0
_RESTART_PAUSE_S = 0.5
# For clients that wait to be accepted at the end, to agree on how to encrypt.
_TAKE_S = 1.0


def run(settings: Settings, listeners: Listeners, application: Application) -> int:
    """Serve on the listeners until SIGTERM or SIGINT; return the exit code."""
    if settings.workers_wanted == 1:
        return _serve(settings, listeners, application, None)
    with tempfile.TemporaryDirectory(prefix="inkling-") as folder:
        return _Supervisor(settings, listeners, application, Path(folder)).run()


def _serve(
    settings: Settings,
    listeners: Listeners,
    application: Application,
    folder: Path | None,
    serving: Event | None = None,
    ending: Event | None = None,
) -> int:
    accepting = Listener(fileno=listeners.http.detach())
    accepting_grpc = Listener(fileno=listeners.grpc.detach())
    accepting.ending = accepting_grpc.ending = ending
    config = uvicorn.Config(
        lambda: application(settings, folder, accepting_grpc),
        factory=True,
        # The standard loop was as fast as uvloop in our measurements, and keeps
        # signals that uvloop loses while it starts.
        loop="asyncio",
        http=DirectProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        # asyncio accepts as many connections at a time as may wait.
        backlog=1,
        ssl_certfile=settings.tls_certificate or None,
        ssl_keyfile=settings.tls_key or None,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    server = _Server(config, serving)
    for number in (signal.SIGTERM, signal.SIGINT):
        # From now on, and not only from when uvicorn sets its own. It raises the signal
        # again that stopped it once all is answered; this handler then does no harm.
        signal.signal(number, server.handle_exit)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    server.run(sockets=[accepting])
    return 0


class _Server(uvicorn.Server):  # type: ignore[misc]
    """uvicorn's server, which shares its listener and loses nothing at the end."""

    def __init__(self, config: uvicorn.Config, serving: Event | None) -> None:
        """Take the configuration, and what tells the supervisor, where there is one."""
        super().__init__(config)
        self._serving = serving

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or end at once where this is the second signal."""
        if self._serving is not None and sig == signal.SIGINT:
            return  # a terminal sends it to all; the supervisor passes it on
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self._serving is not None:
            self._serving.set()

    async def shutdown(self, sockets: list[Listener] | None = None) -> None:
        """Take over what waits to be accepted, and answer that, too."""
        waiting = [one for listener in sockets or [] for one in await listener.last()]
        for server in self.servers:
            server.close()
        # What was accepted but has no protocol yet is told to end by its protocol.
        self.server_state.ending = True
        taken = [asyncio.create_task(self._take(one)) for one in waiting]
        if taken:
            await asyncio.wait(taken, timeout=_TAKE_S)
        await super().shutdown(sockets)

    async def _take(self, connection: socket.socket) -> None:
        config, state = self.config, self.lifespan.state
        loop = self.servers[0].get_loop()
        with suppress(OSError):  # a client that left, or that speaks no TLS
            await loop.connect_accepted_socket(
                lambda: DirectProtocol(config, self.server_state, state),
                connection,
                ssl=config.ssl,
            )


class _Supervisor:
    """Keeps as many workers alive as there are to be."""

    def __init__(
        self,
        settings: Settings,
        listeners: Listeners,
        application: Application,
        folder: Path,
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._arguments = (settings, listeners, application, folder)
        self._workers: list[BaseProcess] = []
        # By the name of the worker, whether it has begun to accept connections.
        self._serving: dict[str, Event] = {}
        self._signals = 0
        self._ending = _context.Event()
        self._awake, self._waker = os.pipe()

    def run(self) -> int:
        """Return once all workers have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        self._workers = [self._started() for _ in range(self._settings.workers_wanted)]
        code = self._keep()
        self._end()
        return code

    def _told(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._signals += 1
        os.write(self._waker, b".")

    def _started(self) -> BaseProcess:
        serving = _context.Event()
        arguments = (*self._arguments, serving, self._ending)
        worker = _context.Process(target=_work, args=arguments)
        worker.start()
        self._serving[worker.name] = serving
        return worker

    def _keep(self) -> int:
        """Replace workers that die until a signal comes, or until one cannot start."""
        while not self._signals:
            wait([self._awake, *(worker.sentinel for worker in self._workers)])
            for place, worker in enumerate(self._workers):
                if self._signals or worker.exitcode is None:
                    continue
                if worker.exitcode == _NOT_STARTED:
                    _log.error("a worker could not start; this is the end")
                    return 1
                _log.error("a worker ended with %s; another follows", worker.exitcode)
                del self._serving[worker.name]
                time.sleep(_RESTART_PAUSE_S)
                self._workers[place] = self._started()
        return 0

    def _end(self) -> None:
        """Pass the end on; the last worker takes what still waits on the listener.

        One that does not serve yet may end without a look at it, and so goes first.
        """
        self._ending.set()
        late = [one for one in self._workers if not self._serving[one.name].is_set()]
        self._end_all(late, _SLACK_S)
        self._listeners.close()
        self._end_all(self._workers, self._settings.drain_timeout_s + _SLACK_S)

    def _end_all(self, workers: list[BaseProcess], within_s: float) -> None:
        """End workers; a second signal, and at last the time, make it immediate."""
        passed_on, give_up = 0, time.monotonic() + within_s
        while alive := [one for one in workers if one.exitcode is None]:
            if time.monotonic() > give_up:
                for worker in alive:
                    worker.kill()
            elif passed_on < max(1, self._signals):
                passed_on += 1
                for worker in alive:
                    worker.terminate()
            wait([self._awake, *(one.sentinel for one in alive)], timeout=1.0)
            _emptied(self._awake)
        for worker in workers:
            worker.join()


def _emptied(pipe: int) -> None:
    os.set_blocking(pipe, False)
    try:
        os.read(pipe, 64)
    except BlockingIOError:
        return


def _work(
    settings: Settings,
    listeners: Listeners,
    application: Application,
    folder: Path,
    serving: Event,
    ending: Event,
) -> None:
    """Be a worker."""
    _end_with_parent(ending)
    _serve(settings, listeners, application, folder, serving, ending)


def _end_with_parent(ending: Event) -> None:
    """End a worker whose supervisor was killed, so that it does not hold the port."""
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None

    def watch() -> None:
        supervisor.join()
        ending.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="inkling-supervisor", daemon=True).start()
