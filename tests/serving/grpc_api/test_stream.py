# SPDX-License-Identifier: Apache-2.0
"""One stream of requests and answers, without a connection around it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from inkling.errors import InklingError, InvalidRequest, Overloaded
from inkling_serving.grpc_api.stream import Stream
from tests.support.machine import until

_WINDOW = 16
_Stream = Stream[int, str]


def _told(request: int, error: InklingError) -> str:
    return f"{request}: {error.code}"


def _here(request: int) -> str:
    return str(request)


class _Futures:
    """Answers that come when they are set."""

    def __init__(self) -> None:
        self.begun: dict[int, Future[str]] = {}

    def __call__(self, request: int) -> Future[str]:
        self.begun[request] = Future()
        return self.begun[request]


class _Requests:
    """Requests that come when they are put; None is the end, an error is raised."""

    def __init__(self, *requests: Any) -> None:
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.put(*requests)

    def put(self, *requests: Any) -> None:
        for request in requests:
            self.queue.put(request)

    def __iter__(self) -> Iterator[int]:
        while (request := self.queue.get()) is not None:
            if isinstance(request, Exception):
                raise request
            yield request


def _readers() -> int:
    return sum(one.name == "inkling-stream" for one in threading.enumerate())


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    until(lambda: _readers() == 0)


def test_answers_that_are_there_keep_their_order() -> None:
    """What is answered at once comes in the order of the requests."""
    stream = _Stream(_here, _told)

    assert [str(n) for n in range(100)] == list(stream.answers(iter(range(100))))
    assert stream.error is None


def test_answers_come_as_they_are_done() -> None:
    """A later request may be answered first; the end waits for the last."""
    futures = _Futures()
    answers = _Stream(futures, _told).answers(iter(range(3)))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, answers)
        until(lambda: len(futures.begun) == 3)
        futures.begun[2].set_result("2")
        assert "2" == first.result(5)
        futures.begun[0].set_result("0")
        futures.begun[1].set_result("1")
        assert ["0", "1"] == pool.submit(list, answers).result(5)


def test_no_more_is_read_than_the_window_holds() -> None:
    """Requests that wait are left with the client until answers have been taken."""
    futures, requests = _Futures(), _Requests(*range(40), None)
    answers = _Stream(futures, _told).answers(requests)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, answers)
        until(lambda: len(futures.begun) == _WINDOW)
        time.sleep(0.1)
        assert _WINDOW == len(futures.begun)
        futures.begun[0].set_result("0")
        assert "0" == first.result(5)
        # The place is free once the next answer is asked for.
        rest = pool.submit(list, answers)
        until(lambda: len(futures.begun) == _WINDOW + 1)
        for number in range(1, 40):
            until(lambda n=number: n in futures.begun)
            futures.begun[number].set_result(str(number))
        assert 39 == len(rest.result(5))


def test_an_error_is_an_answer() -> None:
    """Whether it is raised at once, or later, or means that too many wait."""
    outcomes: list[Any] = [InvalidRequest("no"), Future(), Overloaded("full"), "good"]
    outcomes[1].set_exception(InvalidRequest("later"))

    def answer(request: int) -> Any:
        outcome = outcomes[request]
        if isinstance(outcome, InklingError):
            raise outcome
        return outcome

    found = list(_Stream(answer, _told).answers(iter(range(4))))

    assert ["0: invalid_request", "1: invalid_request", "2: overloaded"] == found[:3]
    assert "good" == found[3]


def test_what_nobody_foresaw_is_told() -> None:
    """A fault of ours does not look like the end of a stream that was answered."""

    def broken(_: int) -> str:
        raise RuntimeError("secret words")

    stream = _Stream(broken, _told)

    assert [] == list(stream.answers(iter([1])))
    assert stream.error is not None
    assert "internal" == stream.error.code
    assert "secret" not in stream.error.message


def test_a_request_that_cannot_be_read_ends_the_stream() -> None:
    """After the answers to those before; why is left to be told."""
    futures = _Futures()
    requests = _Requests(0, 1, InvalidRequest("no message"))
    stream = _Stream(futures, _told)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(list, stream.answers(requests))
        until(lambda: stream.error is not None)
        assert not answers.done()
        for number in (0, 1):
            futures.begun[number].set_result(str(number))
        assert ["0", "1"] == answers.result(5)

    assert "no message" in str(stream.error)


def test_the_end_answers_what_was_read() -> None:
    """The server's end: nothing more is read, what was is answered."""
    futures, requests = _Futures(), _Requests(0, 1)
    stream = _Stream(futures, _told)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(list, stream.answers(requests))
        until(lambda: len(futures.begun) == 2)
        stream.end()
        requests.put(2, 3)
        futures.begun[1].set_result("1")
        futures.begun[0].set_result("0")
        assert ["1", "0"] == answers.result(5)

    assert {0, 1} == futures.begun.keys()
    requests.put(None)


def test_the_end_of_a_silent_stream_is_at_once() -> None:
    """A client that says nothing is not waited for."""
    requests = _Requests()
    stream = _Stream(_here, _told)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(list, stream.answers(requests))
        time.sleep(0.05)
        stream.end()
        assert [] == answers.result(5)
    requests.put(None)


@pytest.mark.parametrize("full", [False, True])
def test_who_leaves_cancels_what_has_not_begun(full: bool) -> None:
    """GRPC drops the answers; futures are cancelled, and the reader's thread ends."""
    count = 40 if full else 3
    futures, requests = _Futures(), _Requests(*range(count))
    answers = _Stream(futures, _told).answers(requests)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(next, answers)
        until(lambda: len(futures.begun) == min(count, _WINDOW))
        futures.begun[0].set_result("0")
        assert "0" == first.result(5)
        pool.submit(answers.close).result(5)  # type: ignore[attr-defined]
    requests.put(grpc.RpcError())

    waiting = [one for number, one in futures.begun.items() if number]
    assert all(future.cancelled() for future in waiting)


def test_who_leaves_while_nothing_is_answered_ends_the_stream() -> None:
    """The reader is told by gRPC; what is under way is cancelled, and nothing follows."""
    futures, requests = _Futures(), _Requests(0, grpc.RpcError())
    stream = _Stream(futures, _told)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(list, stream.answers(requests))
        assert [] == answers.result(5)

    assert futures.begun[0].cancelled()
    assert stream.error is None
