"""The processes of a gateway: one that serves, or several and one that keeps them.

The processes share one listening socket. Each accepts one connection at a time, so that
none takes all of what arrives at once, and on the way out each answers what had already
been accepted by the system: a connection that waits when the last listener closes would
be reset.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from inkling_serving.direct import DirectProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from inkling_serving.settings import Settings

    # Makes the ASGI application of a process; the folder is where its workers meet.
    Application = Callable[[Settings, Path | None], Any]

__all__ = ["run"]

_log = logging.getLogger(__name__)
_BACKLOG = 2048
# uvicorn's exit code where an application could not start.
_NOT_STARTED = 3
# What starting and stopping may take beside the requests under way.
_SLACK_S = 5.0
_RESTART_PAUSE_S = 0.5


def run(settings: Settings, listener: socket.socket, application: Application) -> int:
    """Serve on the listener until SIGTERM or SIGINT; return the exit code."""
    if settings.workers_wanted == 1:
        return _serve(settings, listener, application, None)
    with tempfile.TemporaryDirectory(prefix="inkling-") as folder:
        return _Supervisor(settings, listener, application, Path(folder)).run()


def _serve(
    settings: Settings,
    listener: socket.socket,
    application: Application,
    folder: Path | None,
) -> int:
    config = uvicorn.Config(
        lambda: application(settings, folder),
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
    server = _Server(config, supervised=folder is not None)
    for number in (signal.SIGTERM, signal.SIGINT):
        # From now on, and not only from when uvicorn sets its own. It raises the signal
        # again that stopped it once all is answered; this handler then does no harm.
        signal.signal(number, server.handle_exit)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    server.run(sockets=[listener])
    return 0


class _Server(uvicorn.Server):  # type: ignore[misc]
    """uvicorn's server, which shares its listener and loses nothing at the end."""

    def __init__(self, config: uvicorn.Config, supervised: bool) -> None:
        super().__init__(config)
        self._supervised = supervised

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end, or end at once where this is the second signal."""
        if self._supervised and sig == signal.SIGINT:
            return  # a terminal sends it to all; the supervisor passes it on
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and let more than one connection wait."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take over what waits to be accepted, and answer that, too."""
        waiting = [one for listener in sockets or [] for one in _accepted(listener)]
        for server in self.servers:
            server.close()
        for connection in waiting:
            await self._loop_take(connection)
        await super().shutdown(sockets)

    async def _loop_take(self, connection: socket.socket) -> None:
        config, state = self.config, self.lifespan.state
        loop = self.servers[0].get_loop()
        await loop.connect_accepted_socket(
            lambda: DirectProtocol(config, self.server_state, state),
            connection,
            ssl=config.ssl,
        )


def _accepted(listener: socket.socket) -> list[socket.socket]:
    found: list[socket.socket] = []
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # none is left
            return found
        connection.setblocking(False)
        found.append(connection)


class _Supervisor:
    """Keeps as many workers alive as there are to be."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        application: Application,
        folder: Path,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._arguments = (settings, listener, application, folder)
        self._workers: list[BaseProcess] = []
        self._signals = 0
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
        context = multiprocessing.get_context("spawn")
        worker = context.Process(target=_work, args=self._arguments)
        worker.start()
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
                time.sleep(_RESTART_PAUSE_S)
                self._workers[place] = self._started()
        return 0

    def _end(self) -> None:
        """Pass the end on; a second signal, and at last the time, make it immediate."""
        # The workers hold it as well; the last of them takes what still waits there.
        self._listener.close()
        passed_on, give_up = 0, self._settings.drain_timeout_s + _SLACK_S
        give_up += time.monotonic()
        while alive := [one for one in self._workers if one.exitcode is None]:
            if time.monotonic() > give_up:
                for worker in alive:
                    worker.kill()
            elif passed_on < max(1, self._signals):
                passed_on += 1
                for worker in alive:
                    worker.terminate()
            wait([self._awake, *(one.sentinel for one in alive)], timeout=1.0)
            _emptied(self._awake)
        for worker in self._workers:
            worker.join()


def _emptied(pipe: int) -> None:
    os.set_blocking(pipe, False)
    try:
        os.read(pipe, 64)
    except BlockingIOError:
        return


def _work(
    settings: Settings, listener: socket.socket, application: Application, folder: Path
) -> None:
    """Be a worker."""
    _end_with_parent()
    _serve(settings, listener, application, folder)


def _end_with_parent() -> None:
    """End a worker whose supervisor was killed, so that it does not hold the port."""
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None

    def watch() -> None:
        supervisor.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="inkling-supervisor", daemon=True).start()
