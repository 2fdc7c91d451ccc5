# SPDX-License-Identifier: Apache-2.0
"""Engines that vanish without a word: nothing is refused, and nothing is answered."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from benchmarks.peers.timed_engine import TimedEngine
from inkling.errors import InklingError, NotReady
from inkling_serving.engines.base import State
from inkling_serving.engines.tensorflow_serving import TensorFlowServingEngine
from inkling_serving.settings import Settings
from tests.serving.engines.engine_process import timed_engines
from tests.support.machine import free_port, until, within

_INPUTS = np.zeros((1, 28, 28, 1), np.float32)


@contextmanager
def _engine(*addresses: str, **settings: Any) -> Iterator[TensorFlowServingEngine]:
    engine = TensorFlowServingEngine(
        Settings(
            engine="tensorflow_serving",
            tensorflow_serving=",".join(addresses),
            served_models="mlp",
            **settings,
        )
    )
    try:
        yield engine
    finally:
        engine.close()


def _ready(engine: TensorFlowServingEngine) -> bool:
    return engine.status()[0].ready


@dataclass(frozen=True)
class Try:
    """One prediction: when it began, how long it took, and its error if it has one."""

    began: float
    took: float
    error: type[InklingError] | None


def _tried(engine: TensorFlowServingEngine, timeout_s: float = 30.0) -> Try:
    began = time.monotonic()
    error = None
    try:
        engine.select("mlp").predict(_INPUTS, timeout_s)
    except InklingError as raised:
        error = type(raised)
    return Try(began, time.monotonic() - began, error)


@contextmanager
def _load(engine: TensorFlowServingEngine) -> Iterator[list[Try]]:
    """Predict in four threads without a pause until the block ends."""
    tries: list[Try] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            tries.append(_tried(engine))
            time.sleep(0.01)

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(run) for _ in range(4)]
        try:
            yield tries
        finally:
            stop.set()
        for one in runs:
            one.result()


@pytest.mark.parametrize("loaded", [False, True], ids=["idle", "under load"])
def test_a_frozen_engine_is_soon_not_ready(loaded: bool) -> None:
    """Unready in 2 s, and once it is given up requests are refused at once; then back."""
    address = f"127.0.0.1:{free_port()}"
    with (
        timed_engines(address, call_s=0.005) as [process],
        _engine(address) as engine,
        ExitStack() as stack,
    ):
        until(lambda: _ready(engine))
        tries = stack.enter_context(_load(engine)) if loaded else []
        until(lambda: not loaded or len(tries) > 20)
        frozen = time.monotonic()
        process.send_signal(signal.SIGSTOP)
        unready = until(lambda: not _ready(engine))
        [version] = engine.status()[0].versions or [None]
        given_up = until(lambda: _tried(engine).error is NotReady)
        refusal = _tried(engine)
        process.send_signal(signal.SIGCONT)
        back = until(lambda: _ready(engine) and _tried(engine).error is None)
    longest = max((one.took for one in tries if one.began < frozen + 5), default=0.0)

    print(
        f"unready after {unready:.2f} s, given up after {given_up:.2f} s more; the "
        f"longest request {longest:.2f} s; back after {back:.2f} s"
    )
    if version is not None:
        assert version.state == State.FAILED
        assert "does not answer" in (version.reason or "")
    assert {None, NotReady} >= {one.error for one in tries}
    within(unready, 2.5)
    within(unready + given_up, 4.5)
    within(longest, 4.5)
    within(refusal.took, 0.05)
    within(back, 3)


def test_of_two_engines_one_may_freeze() -> None:
    """The gateway stays ready, and every request is answered by the other engine."""
    addresses = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with (
        timed_engines(*addresses, call_s=0.005) as [process, _],
        _engine(*addresses) as engine,
    ):
        until(lambda: _ready(engine))
        with _load(engine) as tries:
            until(lambda: len(tries) > 20)
            process.send_signal(signal.SIGSTOP)
            frozen = time.monotonic()
            unready = []
            while time.monotonic() < frozen + 4:
                unready += [1] * (not _ready(engine))
                time.sleep(0.01)
    late = [one for one in tries if one.began > frozen + 3]

    print(f"{len(tries)} requests, the longest {max(one.took for one in tries):.2f} s")
    assert {None} == {one.error for one in tries}
    assert not unready
    within(max(one.took for one in tries), 4.5)
    within(max(one.took for one in late), 1)


@contextmanager
def _dropping() -> Iterator[int]:
    """A port on which packets to connect are dropped: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        probe = stack.enter_context(socket.socket())
        probe.settimeout(0.3)
        try:
            probe.connect(listener.getsockname())
        except TimeoutError:
            yield listener.getsockname()[1]
        else:
            pytest.skip("this machine queues more connections; NOTHING was checked")


def test_an_address_that_drops_packets_holds_nothing_up() -> None:
    """The start takes a moment, requests are refused at once, and the end is quick."""
    with _dropping() as port:
        started = time.monotonic()
        with _engine(f"127.0.0.1:{port}") as engine:
            took = time.monotonic() - started
            tries = [_tried(engine) for _ in range(10)]
            ready = _ready(engine)
            ending = time.monotonic()
        ended = time.monotonic() - ending

    assert not ready
    assert {NotReady} == {one.error for one in tries}
    within(took, 2)
    within(sum(one.took for one in tries), 0.1)
    within(ended, 2)


def test_beside_an_address_that_drops_packets_another_answers() -> None:
    """Of two addresses one answers: the gateway is ready, and no request is lost."""
    other = TimedEngine()
    with _dropping() as port:
        addresses = f"127.0.0.1:{port}", f"127.0.0.1:{other.port}"
        with _engine(*addresses) as engine:
            until(lambda: _ready(engine))
            tries = [_tried(engine) for _ in range(100)]
    other.stop()

    assert {None} == {one.error for one in tries}
    within(sorted(one.took for one in tries)[50], 0.1)


def test_an_engine_that_is_too_busy_for_its_status_is_ready() -> None:
    """Predictions are answered and the question for the status is not: still ready."""
    server = TimedEngine(call_s=0.01)
    with _engine(f"127.0.0.1:{server.port}", poll_s=0.05) as engine:
        until(lambda: _ready(engine))
        with _load(engine) as tries:
            server.deaf.set()
            until(lambda: len(tries) > 20)
            began, unready = time.monotonic(), 0
            while time.monotonic() < began + 1.5:
                unready += not _ready(engine)
                time.sleep(0.01)
        server.deaf.clear()
    server.stop()

    assert {None} == {one.error for one in tries}
    assert unready == 0


def test_an_engine_that_answers_no_status_is_not_ready() -> None:
    """Without predictions in between, the question that is not answered counts."""
    server = TimedEngine()
    with _engine(f"127.0.0.1:{server.port}", poll_s=0.05) as engine:
        until(lambda: _ready(engine))
        server.deaf.set()
        unready = until(lambda: not _ready(engine))
        assert _tried(engine).error is None
        server.deaf.clear()
        back = until(lambda: _ready(engine))
    server.stop()

    within(unready, 2)
    within(back, 2)
