# SPDX-License-Identifier: Apache-2.0
"""The schedule by which the users of a process send their requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

from gevent.event import Event
from gevent.lock import Semaphore

from inkling_loadtest.load.arrivals import Stage, arrivals

__all__ = ["Arrival", "Schedule"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """The moment at which one request is due.

    Attributes:
        stage: Place of the stage in which it is due.
        window: Window of the run in which it is due.
        due_s: When it is due, by `time.perf_counter`.
        awaited: Whether a user was free at that moment.
    """

    stage: int
    window: int
    due_s: float
    awaited: bool


class Schedule:
    """A schedule that the users of one process share.

    In an open loop a free user takes the next arrival and waits for its moment. While
    all users are busy, arrivals wait, and their waiting is part of their latency. In a
    closed loop a request is due as soon as a user is free.
    """

    def __init__(self, window_s: float) -> None:
        """Take the length of a window."""
        self._window_s = window_s
        self._turn = Semaphore(1)
        self._changed = Event()
        self._origin_s: float | None = None
        self._place = 0
        self._stage: Stage | None = None
        self._start_s = 0.0
        self._due: Iterator[float] = iter(())
        self._next_s: float | None = None

    def begin(self, place: int, stage: Stage, seed: str) -> None:
        """Begin a stage now."""
        self._start_s = perf_counter()
        self._origin_s = self._origin_s or self._start_s
        self._place, self._stage = place, stage
        self._due = arrivals(stage, seed) if stage.is_open else iter(())
        self._next_s = next(self._due, None)
        self._change()

    def end(self) -> tuple[int, list[int]]:
        """End the stage; return its place, and the windows of the requests not sent."""
        stage, self._stage = self._stage, None
        elapsed_s = perf_counter() - self._start_s
        missed = []
        while stage and self._next_s is not None and self._next_s <= elapsed_s:
            missed.append(self._window(self._start_s + self._next_s))
            self._next_s = next(self._due, None)
        self._change()
        return self._place, missed

    def take(self) -> Arrival:
        """Wait until a request is due, and return it; the caller sends it."""
        free_s = perf_counter()
        while True:
            with self._turn:
                arrival = self._wait(free_s)
            if arrival:
                return arrival

    def window_now(self) -> int:
        """Return the window of this moment."""
        return self._window(perf_counter())

    def _wait(self, free_s: float) -> Arrival | None:
        """Wait for the next arrival; None if the stage changed meanwhile.

        Users have their turn in the order in which they became free. So if a user was
        not yet free when a request was due, no other user was.
        """
        changed = self._changed
        if self._stage is None or (self._stage.is_open and self._next_s is None):
            changed.wait()
            return None
        if not self._stage.is_open:
            return self._arrival(perf_counter(), True)
        assert self._next_s is not None
        due_s = self._start_s + self._next_s
        pause_s = due_s - perf_counter()
        if pause_s > 0 and changed.wait(pause_s):
            return None
        self._next_s = next(self._due, None)
        return self._arrival(due_s, free_s <= due_s)

    def _arrival(self, due_s: float, awaited: bool) -> Arrival:
        return Arrival(self._place, self._window(due_s), due_s, awaited)

    def _window(self, at_s: float) -> int:
        return int((at_s - (self._origin_s or at_s)) / self._window_s)

    def _change(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()
