# SPDX-License-Identifier: Apache-2.0
"""The coalescer in this process: every call waits until the test lets it end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from inkling.errors import DeadlineExceeded, InternalError, Overloaded
from inkling_serving.engines.coalescer import Coalescer
from tests.support.machine import until, within

_LONG_S = 30.0


@dataclass(eq=False)
class Call:
    """A call of the batched function: it ends when `end` or `fail` says so."""

    inputs: np.ndarray
    timeout_s: float
    _ended: threading.Event = field(default_factory=threading.Event)
    _error: BaseException | None = None

    @property
    def numbers(self) -> list[int]:
        return [int(one) for one in self.inputs[:, 0, 0, 0]]

    def run(self) -> np.ndarray:
        if not self._ended.wait(min(self.timeout_s, _LONG_S)):
            raise DeadlineExceeded("the call took too long")
        if self._error is not None:
            raise self._error
        return _scores(self.inputs)

    def end(self) -> None:
        self._ended.set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._ended.set()


def _inputs(*numbers: int) -> np.ndarray:
    """Inputs that can be told apart by their first value."""
    inputs = np.zeros((len(numbers), 2, 2, 1), np.float32)
    inputs[:, 0, 0, 0] = numbers
    return inputs


def _scores(inputs: np.ndarray) -> np.ndarray:
    """Scores that tell of which inputs they are."""
    return np.repeat(inputs[:, 0, 0], 3, axis=1) * np.float32([1, 2, 3])


class Bench:
    """A coalescer, the calls that it made, and threads that ask it."""

    def __init__(self, max_batch: int, calls: int, pool: ThreadPoolExecutor) -> None:
        self.calls: list[Call] = []
        self.coalescer = Coalescer(self._predict, max_batch, calls)
        self._pool = pool

    def _predict(self, inputs: np.ndarray, timeout_s: float) -> np.ndarray:
        call = Call(inputs, timeout_s)
        self.calls.append(call)
        return call.run()

    def ask(self, *numbers: int, timeout_s: float = _LONG_S) -> Future[np.ndarray]:
        """Ask in a thread of its own, and return once the request waits or is sent."""
        known = self.taken
        future = self._pool.submit(self.coalescer.predict, _inputs(*numbers), timeout_s)
        until(lambda: self.taken > known or future.done())
        return future

    @property
    def taken(self) -> int:
        """Pictures that wait, or were sent."""
        sent = sum(len(call.inputs) for call in self.calls)
        return sent + sum(len(job.inputs) for job in list(self.coalescer._waiting))

    def numbers(self) -> list[list[int]]:
        """The inputs of each call."""
        return [call.numbers for call in self.calls]

    def wait_for_calls(self, count: int) -> None:
        until(lambda: len(self.calls) == count)

    def end_all(self) -> None:
        for call in self.calls:
            call.end()


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Make a coalescer with threads: `bench(max_batch=4, calls=1)`."""
    made: list[Bench] = []
    with ThreadPoolExecutor(32) as pool:

        def make(max_batch: int = 4, calls: int = 1) -> Bench:
            made.append(Bench(max_batch, calls, pool))
            return made[-1]

        yield make

        def settled() -> bool:
            for one in made:
                one.end_all()
            left = [one.coalescer for one in made]
            return not any(one._waiting or one._under_way for one in left)

        until(settled)


def _answer(future: Future[np.ndarray], *numbers: int) -> None:
    assert np.array_equal(_scores(_inputs(*numbers)), future.result(_LONG_S))


def test_a_lone_request_is_sent_at_once(bench: Callable[..., Bench]) -> None:
    """Nothing is waited for: the first request is a call of its own."""
    one = bench()
    future = one.ask(7)
    one.wait_for_calls(1)

    assert [[7]] == one.numbers()
    one.end_all()
    _answer(future, 7)


def test_requests_that_wait_share_the_next_call(bench: Callable[..., Bench]) -> None:
    """While a call is under way requests queue, in order, and get their own scores."""
    one = bench(max_batch=9)
    futures = [one.ask(0), one.ask(1), one.ask(2, 3), one.ask(4)]

    assert [[0]] == one.numbers()
    one.calls[0].end()
    one.wait_for_calls(2)
    assert [[0], [1, 2, 3, 4]] == one.numbers()
    one.end_all()
    for future, numbers in zip(futures, [(0,), (1,), (2, 3), (4,)], strict=True):
        _answer(future, *numbers)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_as_many_calls_are_under_way_as_allowed(
    calls: int, bench: Callable[..., Bench]
) -> None:
    """Each free call is used at once; the next request waits for one of them to end."""
    one = bench(calls=calls)
    futures = [one.ask(number) for number in range(calls + 2)]

    one.wait_for_calls(calls)
    assert sorted(one.numbers()) == [[number] for number in range(calls)]
    one.calls[-1].end()
    one.wait_for_calls(calls + 1)
    assert one.numbers()[-1] == [calls, calls + 1]
    one.end_all()
    for number, future in enumerate(futures):
        _answer(future, number)


def test_a_full_call_goes_ahead(bench: Callable[..., Bench]) -> None:
    """With all calls under way, a full one is sent as well, and one that is not waits."""
    one = bench(max_batch=3, calls=1)
    futures = [one.ask(0), one.ask(1), one.ask(2)]
    assert len(one.calls) == 1

    futures.append(one.ask(3))
    one.wait_for_calls(2)
    futures += [one.ask(number) for number in range(4, 9)]

    assert [[0], [1, 2, 3]] == one.numbers()
    one.calls[0].end()
    one.wait_for_calls(3)
    assert one.numbers()[2] == [4, 5, 6]
    one.calls[1].end()
    one.calls[2].end()
    one.wait_for_calls(4)
    assert one.numbers()[3] == [7, 8]
    one.end_all()
    for number, future in enumerate(futures):
        _answer(future, number)


def test_no_call_is_larger_than_its_limit(bench: Callable[..., Bench]) -> None:
    """Requests keep their order, and none is split or joined beyond the limit."""
    one = bench(max_batch=4)
    futures = [one.ask(0), one.ask(1, 2, 3)]
    futures.append(one.ask(4, 5))  # four wait: a full call of the first three
    one.wait_for_calls(2)
    futures.append(one.ask(6, 7))
    one.end_all()
    one.wait_for_calls(3)

    assert [[0], [1, 2, 3], [4, 5, 6, 7]] == one.numbers()
    one.end_all()
    _answer(futures[1], 1, 2, 3)
    _answer(futures[3], 6, 7)


def test_a_single_request_may_exceed_the_limit(bench: Callable[..., Bench]) -> None:
    """A request of more inputs than the limit is a call of its own."""
    one = bench(max_batch=2)
    future = one.ask(0, 1, 2, 3, 4)
    one.end_all()

    _answer(future, 0, 1, 2, 3, 4)
    assert [[0, 1, 2, 3, 4]] == one.numbers()


def test_an_error_reaches_all_in_the_call_and_no_other(
    bench: Callable[..., Bench],
) -> None:
    """The requests of a failed call get its error; those that wait are still answered."""
    one = bench(max_batch=2)
    first, others, later = one.ask(0), [one.ask(1), one.ask(2)], one.ask(3)
    one.wait_for_calls(2)
    one.calls[1].fail(Overloaded("full"))
    one.calls[0].end()

    for other in others:
        with pytest.raises(Overloaded, match="full"):
            other.result(_LONG_S)
    one.wait_for_calls(3)
    one.end_all()
    _answer(first, 0)
    _answer(later, 3)


def test_an_unforeseen_error_ends_the_call_alone(bench: Callable[..., Bench]) -> None:
    """The caller gets the error itself, the others InternalError; the next call works."""
    one = bench(max_batch=2)
    first, caller, other = one.ask(0), one.ask(1), one.ask(2)
    one.wait_for_calls(2)
    one.calls[1].fail(ZeroDivisionError())
    one.calls[0].end()

    with pytest.raises(ZeroDivisionError):
        caller.result(_LONG_S)
    with pytest.raises(InternalError):
        other.result(_LONG_S)
    later = one.ask(3)
    one.end_all()
    _answer(first, 0)
    _answer(later, 3)


def test_those_who_wait_go_on_after_an_unforeseen_error(
    bench: Callable[..., Bench],
) -> None:
    """The call that ends so is free for those in the queue, whom nobody else wakes."""
    one = bench()
    caller, later = one.ask(0), one.ask(1)
    one.calls[0].fail(ZeroDivisionError())
    one.wait_for_calls(2)

    one.end_all()
    _answer(later, 1)
    with pytest.raises(ZeroDivisionError):
        caller.result(_LONG_S)


@pytest.mark.parametrize("_", range(20))
def test_calls_that_end_together_are_all_used(
    _: int, bench: Callable[..., Bench]
) -> None:
    """Two calls end at once: two begin, though both may have woken the same thread."""
    one = bench(max_batch=1, calls=1)
    for number in range(4):
        one.ask(number)
    one.wait_for_calls(2)
    with one.coalescer._lock:
        one.end_all()
        time.sleep(0.002)
    one.wait_for_calls(4)


def test_a_request_that_waits_too_long_is_never_sent(
    bench: Callable[..., Bench],
) -> None:
    """It raises DeadlineExceeded in its time, and its inputs are not in the next call."""
    one = bench()
    first = one.ask(0)
    started = time.monotonic()
    hasty, patient = one.ask(1, timeout_s=0.05), one.ask(2)
    with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
        hasty.result(_LONG_S)
    took = time.monotonic() - started
    one.calls[0].end()
    one.wait_for_calls(2)

    assert one.numbers() == [[0], [2]]
    one.end_all()
    _answer(first, 0)
    _answer(patient, 2)
    assert took >= 0.05
    within(took, 1)


def test_a_call_may_take_what_its_caller_may(bench: Callable[..., Bench]) -> None:
    """The function is given the rest of the caller's own time, waiting included."""
    one = bench()
    one.ask(0)
    future = one.ask(1, timeout_s=20)
    time.sleep(0.1)
    one.calls[0].end()
    one.wait_for_calls(2)

    assert 0 < one.calls[1].timeout_s <= 19.9
    one.end_all()
    _answer(future, 1)


def test_patient_requests_wait_for_another_call(bench: Callable[..., Bench]) -> None:
    """A call that is too slow for its caller leaves those with more time in the queue."""
    one = bench()
    first = one.ask(0)
    hasty, patient = one.ask(1, timeout_s=0.3), one.ask(2, 3)
    one.calls[0].end()
    one.wait_for_calls(2)
    with pytest.raises(DeadlineExceeded):
        hasty.result(_LONG_S)
    one.wait_for_calls(3)

    assert one.numbers() == [[0], [1, 2, 3], [2, 3]]
    one.end_all()
    _answer(first, 0)
    _answer(patient, 2, 3)


def test_a_request_that_was_put_back_may_give_up(bench: Callable[..., Bench]) -> None:
    """After a call that was too slow it waits again, in its own time, and is not sent."""
    one = bench(max_batch=2)
    first = one.ask(0)
    hasty, patient = one.ask(1, timeout_s=0.2), one.ask(2, timeout_s=0.4)
    one.wait_for_calls(2)
    for future in (hasty, patient):
        with pytest.raises(DeadlineExceeded):
            future.result(_LONG_S)
    later = one.ask(3)
    one.end_all()
    one.wait_for_calls(3)

    assert one.numbers() == [[0], [1, 2], [3]]
    one.end_all()
    _answer(first, 0)
    _answer(later, 3)


def test_whoever_joins_a_slow_call_keeps_its_own_deadline(
    bench: Callable[..., Bench],
) -> None:
    """A request in another's call gives up in its own time."""
    one = bench()
    first = one.ask(0)
    caller, hasty = one.ask(1), one.ask(2, timeout_s=0.2)
    one.calls[0].end()
    one.wait_for_calls(2)
    with pytest.raises(DeadlineExceeded):
        hasty.result(_LONG_S)

    assert not caller.done()
    one.end_all()
    _answer(first, 0)
    _answer(caller, 1)


class Dawdler:
    """A batched function that takes up to 3 ms, and fails one time in ten."""

    def __init__(self, seed: int) -> None:
        self.most = 0
        self._chance = random.Random(seed)
        self._under_way: list[int] = []

    def __call__(self, inputs: np.ndarray, timeout_s: float) -> np.ndarray:
        self._under_way.append(1)
        self.most = max(self.most, len(self._under_way))
        takes_s = 0.003 * self._chance.random()
        time.sleep(min(timeout_s, takes_s))
        self._under_way.pop()
        if takes_s < 0.0003:
            raise Overloaded("full")
        if timeout_s < takes_s:
            raise DeadlineExceeded("too slow")
        return _scores(inputs)


@pytest.mark.parametrize("calls", [1, 3])
def test_nobody_is_left_waiting(calls: int) -> None:
    """1,600 requests over calls that fail and dawdle: each is answered or gives up."""
    dawdler = Dawdler(calls)
    coalescer = Coalescer(dawdler, 8, calls)

    def ask(number: int) -> Any:
        timeout_s = 0.002 if number % 7 == 0 else _LONG_S
        try:
            return coalescer.predict(_inputs(number), timeout_s)
        except (Overloaded, DeadlineExceeded) as error:
            return type(error)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(1600), timeout=_LONG_S))

    right = [number for number, one in enumerate(found) if not isinstance(one, type)]
    late = [number for number, one in enumerate(found) if one is DeadlineExceeded]
    assert all(np.array_equal(_scores(_inputs(n)), found[n]) for n in right)
    assert all(number % 7 == 0 for number in late)
    assert len(right) > 800
    assert dawdler.most <= 2 * calls
    assert (0, 0) == (len(coalescer._waiting), coalescer._under_way)
