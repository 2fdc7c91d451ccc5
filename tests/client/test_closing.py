# SPDX-License-Identifier: Apache-2.0
"""Closing a classifier: whatever is under way ends with our error, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import inkling
from inkling.errors import InklingError, InvalidRequest, NotReady
from inkling.model.repository import Repository
from tests.support.machine import until

_WAYS: dict[str, Callable[[Any, Path], str]] = {
    "gRPC": lambda gateway, _: gateway.grpc_target,
    "HTTP": lambda gateway, _: gateway.url,
    "device": lambda _, models: str(Repository(models).newest("mlp").path),
}
_SECONDS = 2.0


@pytest.fixture(params=_WAYS)
def target(request: pytest.FixtureRequest, gateway: Any, published: Path) -> str:
    """An address over each protocol, and a version on this device."""
    return _WAYS[request.param](gateway, published)


@pytest.fixture(params=["gRPC", "HTTP"])
def address(request: pytest.FixtureRequest, gateway: Any, published: Path) -> str:
    """An address over each protocol."""
    return _WAYS[request.param](gateway, published)


def _options(target: str) -> dict[str, Any]:
    return {} if target.startswith("/") else {"model": "mlp"}


def _outcome(call: Callable[[], Any]) -> str:
    """Return the class of what a call raises; empty if it is answered."""
    try:
        call()
    except InklingError as error:
        return type(error).__name__
    except BaseException as error:  # noqa: BLE001 - any other is what is looked for
        return f"{type(error).__name__}: {error}"
    return ""


def test_calls_beside_close_are_answered_or_not_ready(
    target: str, picture: bytes
) -> None:
    """Six threads ask while another closes again and again: no error is a foreign one."""
    classifier = inkling.connect(target, **_options(target))
    stop, seen = threading.Event(), Counter[str]()

    def ask(many: bool) -> None:
        while not stop.is_set():
            if many:
                seen[
                    _outcome(lambda: list(classifier.classify_many([picture] * 9)))
                ] += 1
            else:
                seen[_outcome(lambda: classifier.classify(picture))] += 1

    threads = [threading.Thread(target=ask, args=(n % 2 == 0,)) for n in range(6)]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + _SECONDS
    while time.monotonic() < give_up:
        # More often, the server's queue of new connections would overflow.
        time.sleep(0.1)
        classifier.close()
    stop.set()
    for thread in threads:
        thread.join()
    classifier.close()
    gc.collect()  # a connection that nobody closed would warn here

    assert set(seen) <= {"", "NotReady"}, seen
    assert seen[""] > 0


def test_closing_again_and_using_afterwards(target: str, picture: bytes) -> None:
    """A second close does nothing; a call after it connects anew."""
    with inkling.connect(target, **_options(target)) as classifier:
        expected = classifier.classify(picture).label
        classifier.close()
        classifier.close()

        assert expected == classifier.classify(picture).label


def test_an_iteration_ends_with_its_classifier(address: str, picture: bytes) -> None:
    """What an iteration has not asked when its classifier closes is not asked any more."""
    classifier = inkling.connect(address, model="mlp")
    outcomes = classifier.outcomes(iter([picture] * 200))
    next(outcomes)

    classifier.close()

    rest = list(outcomes)
    late = rest[20:]
    assert 199 == len(rest)
    assert {NotReady} == {type(one) for one in late}
    assert "was closed" in str(late[0])
    with pytest.raises(NotReady, match="was closed"):
        for _ in classifier.classify_many(_closing(classifier, picture)):
            pass


def _closing(classifier: inkling.Classifier, picture: bytes) -> Iterator[bytes]:
    for number in range(100):
        if number == 50:
            classifier.close()
        yield picture


def test_an_error_in_the_block_is_the_callers(target: str, picture: bytes) -> None:
    """`with` closes on the way out, and hides no error."""

    def ask() -> None:
        with inkling.connect(target, **_options(target)) as classifier:
            for _ in classifier.classify_many([picture] * 40):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_child_has_connections_of_its_own(address: str, picture: bytes) -> None:
    """After a fork the child's close leaves the parent's connections alone."""
    if "http" not in address:
        pytest.skip("gRPC itself does not survive a fork with threads")
    with inkling.connect(address, model="mlp") as classifier:
        expected = classifier.classify(picture).label
        fork = multiprocessing.get_context("fork")
        found: Any = fork.Queue()

        def child() -> None:
            found.put(classifier.classify(picture).label)
            classifier.close()

        process = fork.Process(target=child)
        process.start()
        assert expected == found.get(timeout=20)
        process.join(20)

        assert expected == classifier.classify(picture).label


def test_aio_calls_beside_close_are_not_ready(gateway: Any, picture: bytes) -> None:
    """Calls under way at a close, and calls after it, end with NotReady in asyncio."""

    async def run(pause_s: float) -> list[Any]:
        classifier = inkling.AioClassifier(gateway.grpc_target, model="mlp")
        await classifier.classify(picture)
        calls = [asyncio.create_task(classifier.classify(picture)) for _ in range(40)]
        await asyncio.sleep(pause_s)
        await asyncio.gather(classifier.close(), classifier.close())
        late = asyncio.create_task(classifier.classify(picture))
        return list(await asyncio.gather(*calls, late, return_exceptions=True))

    for pause_s in (0, 0, 0.0005, 0.002, 0.005):
        found = asyncio.run(run(pause_s))
        kinds = {type(one) for one in found}
        assert kinds <= {inkling.Prediction, NotReady}, kinds
        assert NotReady is type(found[-1])


def test_aio_cancellation_stays_cancellation(gateway: Any, picture: bytes) -> None:
    """A task that its owner cancels is cancelled, even if the classifier closes, too."""

    async def run() -> Any:
        classifier = inkling.AioClassifier(gateway.grpc_target, model="mlp")
        await classifier.classify(picture)
        call = asyncio.create_task(classifier.classify(picture))
        await asyncio.sleep(0)
        call.cancel()
        await classifier.close()
        with contextlib.suppress(NotReady):
            await call

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())


def test_aio_belongs_to_one_loop(gateway: Any, picture: bytes) -> None:
    """It may be made before its loop; in another loop its error says what to do."""
    classifier = inkling.AioClassifier(gateway.grpc_target, model="mlp")
    assert asyncio.run(classifier.classify(picture)).label

    with pytest.raises(InvalidRequest, match="another loop"):
        asyncio.run(classifier.classify(picture))
    asyncio.run(classifier.close())


def test_no_thread_waits_for_a_closed_classifier(address: str, picture: bytes) -> None:
    """A call that waits for a silent server ends at once when its classifier closes."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        scheme = "http://" if address.startswith("http") else ""
        silent = f"{scheme}127.0.0.1:{listener.getsockname()[1]}"
        classifier = inkling.connect(silent, timeout_s=60.0)
        found: list[str] = []
        thread = threading.Thread(
            target=lambda: found.append(_outcome(lambda: classifier.classify(picture)))
        )
        thread.start()
        time.sleep(0.3)
        classifier.close()
        until(lambda: found)
        thread.join()

    assert ["NotReady"] == found


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_close_ends_a_call_that_connects(scheme: str) -> None:
    """Neither a port that takes no connection nor a handshake keeps a thread waiting."""
    outcomes: list[str] = []
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = silent.getsockname()
        if scheme == "http":  # one connection fills the queue, and further ones wait
            stack.enter_context(socket.create_connection(address))
        url = f"{scheme}://127.0.0.1:{address[1]}"
        classifier = inkling.connect(url, model="mlp", timeout_s=300)
        thread = threading.Thread(
            target=lambda: outcomes.append(
                _outcome(lambda: classifier.classify(b"\x89PNG\r\n\x1a\n"))
            )
        )
        thread.start()
        pool = classifier._transport.pool  # type: ignore[attr-defined]
        until(lambda: any(one._opening for one in list(pool._busy)))
        classifier.close()
        until(lambda: not thread.is_alive())

    assert outcomes == ["NotReady"]
