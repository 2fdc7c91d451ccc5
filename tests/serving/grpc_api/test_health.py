# SPDX-License-Identifier: Apache-2.0
"""Health over gRPC: whoever watches, and however badly, the others are answered."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inkling.contract import Contract
from inkling.v1 import classifier_pb2 as pb
from tests.serving.grpc_api.server_here import Here, served_here
from tests.support.http2_frames import DATA, INITIAL_WINDOW, Connection
from tests.support.machine import memory_bytes, until, within

_WATCH = "/grpc.health.v1.Health/Watch"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
# A client that gives no room to answers: none is ever sent to it.
_NO_ROOM = [(INITIAL_WINDOW, 0)]


@pytest.fixture
def here(digit_contract: Contract) -> Iterator[Here]:
    """A server of this process."""
    with served_here(digit_contract) as server:
        yield server


def _asked(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


def _check(here: Here, service: str = "", timeout_s: float = 5) -> Any:
    with here.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(_asked(service), timeout=timeout_s).status


def _watches(here: Here, stack: ExitStack, count: int, service: str = "") -> list[Any]:
    """Watch so many times, 100 on each connection; each has had its first answer."""
    watches = []
    for number in range(count):
        if number % 100 == 0:
            channel = stack.enter_context(here.channel())
            stub = health_pb2_grpc.HealthStub(channel)
        watches.append(stub.Watch(_asked(service), timeout=60))
    assert all(next(watch).status == _SERVING for watch in watches)
    return watches


def test_watchers_are_told_and_hold_no_thread(here: Here, picture: bytes) -> None:
    """300 watchers learn each change; there are 256 threads, and calls find one."""
    with ExitStack() as stack, here.stub() as stub:
        watches = _watches(here, stack, 300)
        request = pb.ClassifyRequest(model="mlp", images=[picture])
        assert stub.Classify(request, timeout=5).results
        here.engine.models = {"mlp": False}
        found = [next(watch).status for watch in watches]
        here.engine.models = {"mlp": True}
        again = [next(watch).status for watch in watches]

    assert {_NOT_SERVING} == set(found)
    assert {_SERVING} == set(again)


def test_the_end_is_told_to_watchers(digit_contract: Contract) -> None:
    """At the end a watcher hears NOT_SERVING, and its call ends with OK."""
    with ExitStack() as stack:
        with served_here(digit_contract) as here:
            [watch] = _watches(here, stack, 1)
            [model] = _watches(here, stack, 1, "mlp")
        assert [[_NOT_SERVING]] * 2 == [
            [answer.status for answer in call] for call in (watch, model)
        ]
        assert grpc.StatusCode.OK == watch.code()


def test_a_name_that_comes_later_is_told(here: Here) -> None:
    """A watcher of an unknown name is told so, and is not cut off."""
    with here.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(_asked("cnn"), timeout=5)
        assert _UNKNOWN == next(watch).status
        here.engine.models = {"mlp": True, "cnn": True}
        assert _SERVING == next(watch).status


def test_a_watcher_that_takes_nothing_delays_nobody(here: Here) -> None:
    """Health is told to all others, at once, and that watcher's call is ended."""
    with ExitStack() as stack:
        stuck = []
        for _ in range(40):
            stuck.append(stack.enter_context(Connection(here.port, _NO_ROOM)))
            stuck[-1].call(_WATCH, b"")
        time.sleep(0.3)
        started = time.monotonic()
        assert _SERVING == _check(here)
        [watch] = _watches(here, stack, 1)
        here.engine.models = {"mlp": False}
        assert _NOT_SERVING == next(watch).status
        assert _NOT_SERVING == _check(here)
        took = time.monotonic() - started
        ended = stuck[0].end_of(1)

    within(took, 1.5)
    within(ended, 4)


def test_such_a_watcher_does_not_delay_the_end(here: Here) -> None:
    """The end begins at once, on the event loop of HTTP, and does not take long."""
    with Connection(here.port, _NO_ROOM) as stuck:
        stuck.call(_WATCH, b"")
        time.sleep(0.3)
        started = time.monotonic()
        ended = here.server.end()
        begun = time.monotonic() - started
        assert ended.wait(20)
        took = time.monotonic() - started

    within(begun, 0.5)
    within(took, 6)


def test_names_are_not_kept(here: Here) -> None:
    """A caller without a key cannot fill the memory with names to watch."""
    pid, name = os.getpid(), "x" * 1_000_000
    with here.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def watched(number: int) -> None:
            call = stub.Watch(_asked(f"{number}{name}"), timeout=5)
            assert _UNKNOWN == next(call).status
            call.cancel()

        for number in range(20):
            watched(number)
        before = memory_bytes(pid)
        for number in range(20, 120):
            watched(number)
        grown = memory_bytes(pid) - before

    print(f"100 names of 1 MB: {grown / 2**20:+.1f} MiB")
    assert grown < 50 * 2**20


def test_watches_are_bounded(here: Here) -> None:
    """Beyond 1,024 watches one more is refused as overloaded; a check is answered."""
    with ExitStack() as stack:
        for _ in range(1024 // 64):
            connection = stack.enter_context(Connection(here.port))
            for _ in range(64):
                connection.call(_WATCH, b"")
            answers = (f for f in connection.frames(5) if f.kind == DATA)
            assert 64 == sum(1 for _ in zip(range(64), answers, strict=False))
        with pytest.raises(grpc.RpcError) as refused:
            _watched_once(here)
        assert _SERVING == _check(here)
    assert grpc.StatusCode.UNAVAILABLE == refused.value.code()
    until(lambda: _is_watched(here))


def _watched_once(here: Here) -> Any:
    with here.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(_asked(""), timeout=5)
        return next(watch).status


def _is_watched(here: Here) -> bool:
    try:
        return bool(_SERVING == _watched_once(here))
    except grpc.RpcError:
        return False
