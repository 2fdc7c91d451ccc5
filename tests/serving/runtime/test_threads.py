# SPDX-License-Identifier: Apache-2.0
"""The threads in which pictures are worked on: who waits, how long, and who is refused."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from inkling.errors import DeadlineExceeded, Overloaded
from inkling_serving.runtime.thread_pool import ThreadPool
from tests.support.machine import until, within


class Busy:
    """A pool whose only thread is busy until it is told to go on."""

    def __init__(self, queue: int = 2, queue_timeout_s: float = 60) -> None:
        self.pool = ThreadPool(1, queue, queue_timeout_s)
        self.free = threading.Event()
        self.began = threading.Event()
        self.first = self.pool.submit(self._hold, None)
        assert self.began.wait(5)

    def _hold(self) -> bool:
        self.began.set()
        return self.free.wait(20)

    def queued(self, result: Any = None, timeout_s: float | None = None) -> Future[Any]:
        """Put a call into the queue."""
        return self.pool.submit(lambda: result, timeout_s)

    def close(self) -> None:
        self.free.set()
        self.pool.close()


@pytest.fixture
def busy() -> Iterator[Callable[..., Busy]]:
    """Make such pools; all are closed at the end."""
    made: list[Busy] = []

    def make(**options: Any) -> Busy:
        made.append(Busy(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_what_would_wait_too_long_is_refused_at_once(busy: Callable[..., Busy]) -> None:
    """One call more than may wait is told how many there are; a place is free again."""
    here = busy(queue=2)
    waiting = [here.queued(number) for number in range(2)]
    started = time.monotonic()
    with pytest.raises(Overloaded, match="3 requests"):
        here.queued()
    within(time.monotonic() - started, 2)
    waiting[1].cancel()
    again = here.queued("again")
    here.free.set()

    assert (0, "again") == (waiting[0].result(5), again.result(5))


def test_places_are_counted_right_for_ever(busy: Callable[..., Busy]) -> None:
    """Calls that end well, fail, are cancelled or are refused leave no place taken."""
    here = busy(queue=2)

    def fail() -> None:
        raise ValueError("no")

    for _ in range(50):
        calls = [here.pool.submit(fail, None), here.queued()]
        with pytest.raises(Overloaded):
            here.queued()
        for call in calls:
            call.cancel()
    here.free.set()
    here.first.result(5)
    for _ in range(50):
        with pytest.raises(ValueError, match="no"):
            here.pool.submit(fail, None).result(5)
    here.free.clear()
    here.began.clear()
    here.pool.submit(here._hold, None)
    assert here.began.wait(5)
    assert all([here.queued(), here.queued()])
    with pytest.raises(Overloaded):
        here.queued()


@pytest.mark.parametrize(
    ("timeout_s", "error"),
    [(None, Overloaded), (10.0, None), (0.05, DeadlineExceeded), (0.3, Overloaded)],
)
def test_patience_is_half_of_what_the_caller_allows(
    busy: Callable[..., Busy], timeout_s: float | None, error: type[Exception] | None
) -> None:
    """But never less than the queue's own time: 0.1 s here, before a wait of 0.4 s."""
    here = busy(queue_timeout_s=0.1)
    call = here.queued("done", timeout_s)
    time.sleep(0.4)
    here.free.set()

    if error is None:
        assert "done" == call.result(5)
    else:
        with pytest.raises(error):
            call.result(5)


def test_a_call_whose_time_is_over_never_runs(busy: Callable[..., Busy]) -> None:
    """Its caller has given up, so it is not worked on."""
    here, ran = busy(), threading.Event()
    call = here.pool.submit(ran.set, 0.1)
    time.sleep(0.2)
    here.free.set()

    with pytest.raises(DeadlineExceeded):
        call.result(5)
    assert not ran.is_set()


# Callers with threads of their own.


class Caller:
    """A caller that may leave, as gRPC tells it."""

    def __init__(self) -> None:
        self.left = False
        self._callbacks: list[Callable[[], None]] = []

    def when_it_leaves(self, callback: Callable[[], None]) -> bool:
        if not self.left:
            self._callbacks.append(callback)
        return not self.left

    def leave(self) -> None:
        self.left = True
        for callback in self._callbacks:
            callback()


def test_a_caller_in_a_thread_gets_its_result(busy: Callable[..., Busy]) -> None:
    """The result, or the very error of the call."""
    here = busy()
    with ThreadPoolExecutor(2) as threads:
        calls = [
            threads.submit(here.pool.call, call, 5.0, Caller().when_it_leaves)
            for call in (lambda: "done", lambda: int("x"))
        ]
        here.free.set()
        assert "done" == calls[0].result(5)
        with pytest.raises(ValueError, match="invalid literal"):
            calls[1].result(5)


def test_a_caller_that_leaves_is_released_and_its_call_never_runs(
    busy: Callable[..., Busy],
) -> None:
    """While the thread is busy; the place in the queue is free at once."""
    here, caller, ran = busy(queue=1), Caller(), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(here.pool.call, ran.set, None, caller.when_it_leaves)
        until(lambda: _refuses(here))
        caller.leave()
        with pytest.raises(DeadlineExceeded):
            call.result(5)
    other = here.queued("other")
    here.free.set()

    assert "other" == other.result(5)
    assert not ran.is_set()


def _refuses(here: Busy) -> bool:
    try:
        here.queued().cancel()
    except Overloaded:
        return True
    return False


def test_a_caller_that_has_left_already_is_not_served(
    busy: Callable[..., Busy],
) -> None:
    """Whoever left before its call was in the queue."""
    here, caller, ran = busy(), Caller(), threading.Event()
    caller.leave()

    with pytest.raises(DeadlineExceeded):
        here.pool.call(ran.set, None, caller.when_it_leaves)
    here.free.set()
    here.first.result(5)
    assert not ran.is_set()


class _Pictures:
    """Something that takes memory."""


def test_calls_of_callers_that_left_hold_no_memory(busy: Callable[..., Busy]) -> None:
    """What they were to work on is free while the thread is still busy."""
    here, callers = busy(queue=50), [Caller() for _ in range(20)]
    held: list[weakref.ref[_Pictures]] = []

    def ask(caller: Caller) -> None:
        pictures = _Pictures()
        held.append(weakref.ref(pictures))
        with pytest.raises(DeadlineExceeded):
            here.pool.call(lambda: id(pictures), None, caller.when_it_leaves)

    with ThreadPoolExecutor(20) as threads:
        calls = [threads.submit(ask, caller) for caller in callers]
        until(lambda: all(caller._callbacks for caller in callers))
        for caller in callers:
            caller.leave()
        for call in calls:
            call.result(5)
    gc.collect()

    assert 20 == len(held)
    assert [] == [one for one in held if one() is not None]


# Callers on an event loop.


def test_a_task_that_is_cancelled_frees_its_place(busy: Callable[..., Busy]) -> None:
    """The next one gets it, and the call that was cancelled never runs."""
    here, ran = busy(queue=1), threading.Event()

    async def run() -> str:
        first = asyncio.create_task(here.pool.run(ran.set))
        await asyncio.sleep(0.02)
        first.cancel()
        await asyncio.sleep(0.02)
        second = asyncio.create_task(here.pool.run(lambda: "second"))
        await asyncio.sleep(0.02)
        here.free.set()
        return await second

    assert "second" == asyncio.run(run())
    assert not ran.is_set()


# What the system does not allow.


def test_a_closed_pool_refuses(busy: Callable[..., Busy]) -> None:
    """A call at the very end is told to try again, as if too many were waiting."""
    here = busy()
    here.close()
    for _ in range(5):
        with pytest.raises(Overloaded):
            here.queued()


_FEW = """
import resource, sys, threading
from pathlib import Path
from inkling.errors import Overloaded
from inkling_serving.runtime.thread_pool import ThreadPool

threading.stack_size(64 * 2**20)
pool, free = ThreadPool(64, 64), threading.Event()
size = next(line for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmSize"))
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
limit = int(size.split()[1]) * 1024 + int(sys.argv[1]) * 2**20
first = [pool.submit(free.wait, None) for _ in range(int(sys.argv[2]))]
resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
calls, refused = [], 0
for _ in range(60):
    try:
        calls.append(pool.submit(free.wait, None))
    except Overloaded:
        refused += 1
threads = threading.active_count() - 1
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
free.set()
done = sum(call.result(20) for call in first + calls)
again = [pool.submit(lambda: True, None) for _ in range(128)]
print(threads, done, refused, sum(call.result(20) for call in again))
"""


@pytest.mark.parametrize("first", [1, 0])
def test_fewer_threads_than_asked_for_are_enough(first: int) -> None:
    """Where the system allows no further thread, calls wait; without any, they are refused."""
    # Five stacks of 64 MiB, and room for the calls that wait. Arenas of glibc's malloc
    # would take it.
    room_mib = 5 * 64 + 48 if first else 16
    command = [sys.executable, "-c", _FEW, str(room_mib), str(first)]
    environ = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    threads, answered, refused, again = map(int, done.stdout.split())
    print(f"{threads} of 61 threads; {answered} answered, {refused} refused")
    assert threads < 60
    assert 60 + first == answered + refused
    assert (60 if not first else 0) == refused
    assert 128 == again
