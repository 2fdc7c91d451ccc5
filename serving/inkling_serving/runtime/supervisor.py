# SPDX-License-Identifier: Apache-2.0
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
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType
from typing import Any

from inkling.errors import InklingError, InvalidRequest
from inkling_serving.runtime.listeners import Ports

__all__ = ["Worker", "run"]

_log = logging.getLogger(__name__)
_context = multiprocessing.get_context("spawn")
# The seconds that the start and the end of a worker may take without its requests.
_SLACK_S = 5.0
_LOOK_AT_LATE_S = 0.1
# The pauses before a worker that ended is replaced: doubled each time, unless the
# worker has lived long enough for its end to be another matter.
_FIRST_PAUSE_S, _LAST_PAUSE_S, _LONG_LIFE_S = 0.5, 30.0, 60.0


@dataclass(frozen=True)
class Worker:
    """The objects that a worker process shares with the other processes.

    Attributes:
        folder: The directory for the metrics of all workers; None where the system has
            no directory that can be written to.
        serving: An event that the worker sets once it accepts connections.
        ending: An event that is set when all workers end.
    """

    folder: Path | None
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
    end_s: float,
    delay_s: float = 0.0,
    not_started: int,
) -> int:
    """Keep workers serving until SIGTERM or SIGINT; return the exit code.

    The code is 1 if the workers cannot start, or if one of them had to be killed.

    Args:
        serve: The function of a module that runs in each spawned process.
        settings: The first argument of `serve`, as it is when a worker starts.
        ports: The second argument of `serve`.
        workers: The number of processes.
        end_s: The seconds that open requests may take at the end.
        delay_s: The seconds before that in which workers serve as before.
        not_started: The exit code of a worker that cannot start; after this code the
            supervisor ends all workers.

    Raises:
        InvalidRequest: The system does not let processes share memory.
    """
    with _shared_folder() as folder:
        try:
            supervisor = _Supervisor(serve, settings, ports, folder)
        except OSError:
            raise InvalidRequest(
                "Workers need /dev/shm to be writable, and it is not. Mount it, or "
                "serve with one process: --workers 1."
            ) from None
        return supervisor.run(workers, end_s, delay_s, not_started)


@contextmanager
def _shared_folder() -> Iterator[Path | None]:
    """Make a directory for the metrics; None on a system that is read-only."""
    for parent in (None, "/dev/shm"):
        try:
            made = tempfile.TemporaryDirectory(
                prefix="inkling-", dir=parent, ignore_cleanup_errors=True
            )
        except OSError:
            continue
        with made as folder:
            yield Path(folder)
        return
    _log.warning(
        "no directory for temporary files can be written to, so /metrics shows the "
        "figures of one worker only; set TMPDIR, or mount a tmpfs at /tmp"
    )
    yield None


@dataclass
class _Seat:
    """The place of one worker among the others.

    Attributes:
        process: The worker that is there, or was there last.
        serving: The event `Worker.serving` of that worker.
        began_s: When that worker was started.
        pause_s: The pause before the next worker.
        start_at_s: When the next worker is to be started; None while one is there.
        told: How many signals it was sent at the end.
    """

    process: BaseProcess
    serving: Event
    began_s: float
    pause_s: float = _FIRST_PAUSE_S
    start_at_s: float | None = None
    told: int = 0

    def is_alive(self, late: bool) -> bool:
        """Whether the process runs; with `late`, whether it does not serve yet."""
        return self.process.exitcode is None and not (late and self.serving.is_set())


class _Supervisor:
    """Keeps a number of workers alive."""

    def __init__(
        self, serve: Serve, settings: Any, ports: Ports, folder: Path | None
    ) -> None:
        self._arguments = (serve, settings, ports)
        self._ports = ports
        self._folder = folder
        self._seats: list[_Seat] = []
        self._signals = 0
        self._ending = _context.Event()
        self._awake, self._waker = os.pipe()

    def run(self, workers: int, end_s: float, delay_s: float, not_started: int) -> int:
        """Return once all workers have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        self._seats = [_Seat(*self._started()) for _ in range(workers)]
        could_start = self._keep(not_started)
        none_killed = self._end(end_s, delay_s)
        return 0 if could_start and none_killed else 1

    def _told(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._signals += 1
        os.write(self._waker, b".")

    def _started(self) -> tuple[BaseProcess, Event, float]:
        serving = _context.Event()
        known = Worker(self._folder, serving, self._ending)
        worker = _context.Process(target=_work, args=(*self._arguments, known))
        worker.start()
        return worker, serving, time.monotonic()

    def _keep(self, not_started: int) -> bool:
        """Replace ended workers until a signal comes; False if one cannot start."""
        while not self._signals:
            wait([self._awake, *self._sentinels()], timeout=self._next_start_s())
            for seat in self._seats:
                if self._signals:
                    break
                if seat.start_at_s is None and seat.process.exitcode is not None:
                    if seat.process.exitcode == not_started:
                        _log.error("a worker could not start; the gateway stops")
                        return False
                    _plan_replacement(seat)
                elif seat.start_at_s and seat.start_at_s <= time.monotonic():
                    seat.process, seat.serving, seat.began_s = self._started()
                    seat.start_at_s = None
        return True

    def _sentinels(self) -> list[int]:
        return [one.process.sentinel for one in self._seats if one.start_at_s is None]

    def _next_start_s(self) -> float | None:
        """Return the seconds until a worker is to be started; None if none is."""
        due = [one.start_at_s for one in self._seats if one.start_at_s is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _end(self, end_s: float, delay_s: float) -> bool:
        """End the workers; the last worker accepts the connections that still wait.

        A worker that does not serve yet may end without accepting them, so it ends
        first. A delay is long enough for that, and must begin for all at once: the
        first worker at its end stops new connections for all.

        Returns:
            Whether no worker had to be killed.
        """
        killed = 0
        if not delay_s:
            late = [one for one in self._seats if not one.serving.is_set()]
            killed = self._end_all(late, _SLACK_S, late=True)
        self._ending.set()
        self._ports.close()
        killed += self._end_all(self._seats, delay_s + end_s + _SLACK_S)
        if killed:
            _log.error("%d workers did not end in time and were killed", killed)
        return not killed

    def _end_all(
        self, seats: list[_Seat], within_s: float, *, late: bool = False
    ) -> int:
        """End workers, and pass further signals on; return how many were killed.

        Args:
            seats: The workers.
            within_s: The seconds after which they are killed.
            late: Return once the workers that still run serve, too.
        """
        give_up, killed = time.monotonic() + within_s, 0
        while alive := [one for one in seats if one.is_alive(late)]:
            for seat in alive:
                if time.monotonic() > give_up:
                    killed += 1
                    seat.process.kill()
                    seat.process.join()
                elif seat.told < max(1, self._signals):
                    seat.told += 1
                    seat.process.terminate()
            pause_s = _LOOK_AT_LATE_S if late else 1.0
            wait([self._awake, *(one.process.sentinel for one in alive)], pause_s)
            _emptied(self._awake)
        return killed


def _plan_replacement(seat: _Seat) -> None:
    """Set the time of the next start; it is the later the more often workers end."""
    lived_s = time.monotonic() - seat.began_s
    if lived_s > _LONG_LIFE_S:
        seat.pause_s = _FIRST_PAUSE_S
    _log.error(
        "a worker ended with exit code %s after %.1f s; a new worker replaces it in "
        "%g s",
        seat.process.exitcode,
        lived_s,
        seat.pause_s,
    )
    seat.start_at_s = time.monotonic() + seat.pause_s
    seat.pause_s = min(2 * seat.pause_s, _LAST_PAUSE_S)


def _emptied(pipe: int) -> None:
    os.set_blocking(pipe, False)
    try:
        os.read(pipe, 64)
    except BlockingIOError:
        return


def _work(serve: Serve, settings: Any, ports: Ports, worker: Worker) -> None:
    """Serve in a worker process."""
    _end_with_parent(worker.ending)
    try:
        serve(settings, ports, worker)
    except InklingError as error:
        _log.error("%s", error.message)
        sys.exit(1)
    except Exception:  # noqa: BLE001 - as the last line of a process
        # Python would write to the standard error, and wait for its reader.
        _log.exception("a worker failed")
        sys.exit(1)


def _end_with_parent(ending: Event) -> None:
    """End this worker if its supervisor was killed, so that the port becomes free."""
    supervisor = multiprocessing.parent_process()
    assert supervisor is not None

    def watch() -> None:
        supervisor.join()
        ending.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="inkling-supervisor", daemon=True).start()
