"""The processes of a gateway: a supervisor keeps several workers alive, and ends them.

The workers share the listening socket for HTTP. Each worker accepts one connection at a
time, so that no worker takes all connections that arrive together. At the end, the last
worker answers the connections that still wait: the kernel resets connections that wait
when the last listener closes.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType
from typing import Any

from inkling_serving.runtime.listeners import Ports

__all__ = ["Worker", "run"]

_log = logging.getLogger(__name__)
_context = multiprocessing.get_context("spawn")
# The seconds that the start and the end of a worker may take without its requests.
_SLACK_S = 5.0
_RESTART_PAUSE_S = 0.5


@dataclass(frozen=True)
class Worker:
    """The objects that a worker process shares with the other processes.

    Attributes:
        folder: The directory for the metrics of all workers.
        serving: An event that the worker sets once it accepts connections.
        ending: An event that is set when all workers end.
    """

    folder: Path
    serving: Event
    ending: Event


# Serves on the ports until a signal comes; returns the exit code.
Serve = Callable[[Any, Ports, Worker], int]


def run(
    serve: Serve,
    settings: Any,
    ports: Ports,
    *,
    workers: int,
    drain_timeout_s: float,
    not_started: int,
) -> int:
    """Keep workers serving until SIGTERM or SIGINT; return the exit code.

    Args:
        serve: The function of a module that runs in each spawned process.
        settings: The first argument of `serve`.
        ports: The second argument of `serve`.
        workers: The number of processes.
        drain_timeout_s: The seconds that open requests may take at the end.
        not_started: The exit code of a worker that cannot start; after this code the
            supervisor ends all workers.
    """
    with tempfile.TemporaryDirectory(prefix="inkling-") as folder:
        supervisor = _Supervisor(serve, settings, ports, Path(folder))
        return supervisor.run(workers, drain_timeout_s, not_started)


class _Supervisor:
    """Keeps a number of workers alive."""

    def __init__(self, serve: Serve, settings: Any, ports: Ports, folder: Path) -> None:
        self._arguments = (serve, settings, ports)
        self._ports = ports
        self._folder = folder
        self._workers: list[BaseProcess] = []
        # The event `Worker.serving` of each worker, by the worker's name.
        self._serving: dict[str, Event] = {}
        self._signals = 0
        self._ending = _context.Event()
        self._awake, self._waker = os.pipe()

    def run(self, workers: int, drain_timeout_s: float, not_started: int) -> int:
        """Return once all workers have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        self._workers = [self._started() for _ in range(workers)]
        code = self._keep(not_started)
        self._end(drain_timeout_s)
        return code

    def _told(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._signals += 1
        os.write(self._waker, b".")

    def _started(self) -> BaseProcess:
        serving = _context.Event()
        known = Worker(self._folder, serving, self._ending)
        worker = _context.Process(target=_work, args=(*self._arguments, known))
        worker.start()
        self._serving[worker.name] = serving
        return worker

    def _keep(self, not_started: int) -> int:
        """Replace ended workers until a signal comes or a worker cannot start."""
        while not self._signals:
            wait([self._awake, *(worker.sentinel for worker in self._workers)])
            for place, worker in enumerate(self._workers):
                if self._signals or worker.exitcode is None:
                    continue
                if worker.exitcode == not_started:
                    _log.error("a worker could not start; the gateway stops")
                    return 1
                _log.error(
                    "a worker ended with exit code %s; a new worker replaces it",
                    worker.exitcode,
                )
                del self._serving[worker.name]
                time.sleep(_RESTART_PAUSE_S)
                self._workers[place] = self._started()
        return 0

    def _end(self, drain_timeout_s: float) -> None:
        """End the workers; the last worker accepts the connections that still wait.

        A worker that does not serve yet may end without accepting them, so it ends
        first.
        """
        self._ending.set()
        late = [one for one in self._workers if not self._serving[one.name].is_set()]
        self._end_all(late, _SLACK_S)
        self._ports.close()
        self._end_all(self._workers, drain_timeout_s + _SLACK_S)

    def _end_all(self, workers: list[BaseProcess], within_s: float) -> None:
        """End workers; end them at once after a second signal or after `within_s`."""
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


def _work(serve: Serve, settings: Any, ports: Ports, worker: Worker) -> None:
    """Serve in a worker process."""
    _end_with_parent(worker.ending)
    serve(settings, ports, worker)


def _end_with_parent(ending: Event) -> None:
    """End this worker if its supervisor was killed, so that the port becomes free."""
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None

    def watch() -> None:
        supervisor.join()
        ending.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="inkling-supervisor", daemon=True).start()
