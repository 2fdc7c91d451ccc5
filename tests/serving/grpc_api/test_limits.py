# SPDX-License-Identifier: Apache-2.0
"""The gRPC server where clients hold what they can: places, streams, bytes and time."""

from __future__ import annotations

import gc
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from inkling.contract import Contract
from inkling.errors import Overloaded
from inkling.v1 import classifier_pb2 as pb
from inkling_serving.grpc_api import open_calls
from inkling_serving.grpc_api.compressed import as_written
from inkling_serving.grpc_api.errors import StatusError
from inkling_serving.grpc_api.receiving import Receiving
from inkling_serving.runtime.held_bytes import HeldBytes
from tests.serving.grpc_api.server_here import Here, served_here
from tests.support.http2_frames import (
    HEADERS,
    INITIAL_WINDOW,
    Connection,
    frame,
    head,
    literal,
)
from tests.support.machine import until, within

_CLASSIFY = "/inkling.v1.Classifier/Classify"
_STREAM = "/inkling.v1.Classifier/ClassifyStream"
_CHECK = "/grpc.health.v1.Health/Check"
_MIB = 2**20


@pytest.fixture(scope="module")
def here(digit_contract: Contract) -> Iterator[Here]:
    """A server with the usual limits."""
    with served_here(digit_contract) as server:
        yield server


# Places.


@pytest.mark.parametrize("path", [_CLASSIFY, _CHECK], ids=["classify", "health"])
def test_calls_without_a_message_give_their_places_up(
    here: Here, picture: bytes, path: str
) -> None:
    """300 calls that send no message: checks and classifications are answered at once."""
    request = pb.ClassifyRequest(model="mlp", images=[picture])
    with ExitStack() as stack:
        for _ in range(3):
            silent = stack.enter_context(Connection(here.port))
            for _ in range(100):
                silent.call(path)
        time.sleep(0.5)
        channel = stack.enter_context(here.channel())
        check = channel.unary_unary(_CHECK)
        stub = stack.enter_context(here.stub())
        started = time.monotonic()
        for _ in range(10):
            assert check(b"", timeout=5) == b"\x08\x01"
            assert stub.Classify(request, timeout=5).results
        took = time.monotonic() - started

    within(took, 3)


def test_a_health_check_has_two_seconds_for_its_message(here: Here) -> None:
    """It needs no key and has nothing to send; a classification has more time."""
    with Connection(here.port) as silent:
        took = silent.end_of(silent.call(_CHECK), 10)

    within(took, 4)


def test_an_idle_stream_gives_its_place_to_a_new_one(
    digit_contract: Contract, picture: bytes
) -> None:
    """The one that was idle longest ends with a reason; while all are busy, none does."""
    request = pb.ClassifyStreamRequest(id="a")
    request.request.CopyFrom(pb.ClassifyRequest(model="mlp", images=[picture]))
    with served_here(digit_contract, grpc_max_streams=2) as here, here.stub() as stub:
        more = threading.Event()

        def asking() -> Iterator[Any]:
            yield request
            more.wait(20)

        streams = []
        for _ in range(2):
            streams.append(stub.ClassifyStream(asking(), timeout=20))
            assert next(streams[-1]).response.results
            time.sleep(0.3)
        with pytest.raises(grpc.RpcError) as fresh:
            list(stub.ClassifyStream(iter([request]), timeout=5))
        time.sleep(1.2)
        [answer] = stub.ClassifyStream(iter([request]), timeout=5)
        with pytest.raises(grpc.RpcError) as ended:
            next(streams[0])
        more.set()
        assert [] == list(streams[1])

    assert answer.response.results
    assert "already answers" in str(fresh.value.details())  # type: ignore[attr-defined]
    assert "idle for the longest" in str(ended.value.details())  # type: ignore[attr-defined]


def test_an_answer_that_is_not_taken_ends_its_call(
    digit_contract: Contract, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client has a limited time; then the call is open no longer."""
    monkeypatch.setattr(open_calls, "_TAKE_TIMEOUT_S", 0.5)
    whole = pb.ClassifyRequest(model="mlp", images=[picture]).SerializeToString()
    with served_here(digit_contract) as here, ExitStack() as stack:
        closed = stack.enter_context(Connection(here.port, [(INITIAL_WINDOW, 0)]))
        for _ in range(5):
            closed.call(_CLASSIFY, whole, end=True)
        messages = here.server._messages
        until(lambda: not messages.idle, 5)
        within(until(lambda: messages.idle, 10), 3)


# Messages.


@pytest.mark.parametrize("form", ["gzip", "deflate"])
def test_compressed_messages_are_answered(
    here: Here, picture: bytes, form: str
) -> None:
    """The client of grpcio sends them, in both forms."""
    compression = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
    request = pb.ClassifyRequest(model="mlp", images=[picture] * 8)
    with here.stub() as stub:
        answer = stub.Classify(request, timeout=5, compression=compression[form])

    assert 8 == len(answer.results)


def test_a_message_that_inflates_too_far_is_refused(here: Here) -> None:
    """100 messages of 10 kB that become 10 MB; others are answered meanwhile."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(bytes(11 * _MIB)) + packer.flush()
    block = head(_CLASSIFY) + literal(b"grpc-encoding", b"gzip")
    with Connection(here.port) as one:
        body = b"\1" + len(packed).to_bytes(4, "big") + packed
        one.send(frame(HEADERS, block, 1, 4) + frame(0, body, 1, 1))
        told = b"".join(came.payload for came in one.of(1))
    held = HeldBytes(20 * _MIB)
    with pytest.raises(StatusError, match="more than"):
        as_written(packed, 10 * _MIB, held.arriving())
    small = HeldBytes(1 * _MIB)
    with pytest.raises(Overloaded):
        as_written(packed, 10 * _MIB, small.arriving())

    assert b"grpc-status\x018" in told
    assert b"more than" in told


@pytest.mark.parametrize(
    "body", [b"", b"x", b"\x78\x9cnothing", b"\x1f\x8b\x08", b"\x0a\x03mlp"]
)
def test_what_only_looks_compressed_stays_as_it_is(body: bytes) -> None:
    """A message of which no part inflates is taken for one that is not compressed."""
    assert body == as_written(body, _MIB, HeldBytes(_MIB).arriving())


class _Call:
    """A call, as far as `Receiving` knows it."""

    def __init__(self, peer: str, receiving: Receiving) -> None:
        self._peer, self._receiving, self.active = peer, receiving, True
        self._callbacks: list[Callable[[], None]] = []

    def peer(self) -> str:
        return self._peer

    def is_active(self) -> bool:
        return self.active

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self._callbacks.append(callback)
        return self.active

    def cancel(self) -> None:
        self.leave()
        ending = threading.Timer(0.01, self._receiving.end, (self,))
        ending.daemon = True
        ending.start()

    def leave(self) -> None:
        self.active = False
        for callback in self._callbacks:
            callback()


def test_connections_take_turns() -> None:
    """Beside 100 calls of one connection, another connection waits for no more than one."""
    receiving = Receiving(3)
    receiving.short_of_memory = True
    slow: list[Any] = [_Call("many", receiving) for _ in range(100)]
    for call in slow:
        threading.Thread(target=receiving.begin, args=(call,), daemon=True).start()
    time.sleep(0.3)
    other: Any = _Call("other", receiving)
    started = time.monotonic()
    receiving.begin(other)
    took = time.monotonic() - started
    receiving.end(other)
    time.sleep(0.5)
    receiving.look()
    for call in slow:
        call.leave()

    assert other.active
    within(took, 1.0)


# Memory.


def _messages() -> int:
    """Return the number of requests that are in memory."""
    return sum(isinstance(one, pb.ClassifyRequest) for one in gc.get_objects())


def _refused(stub: Any, request: pb.ClassifyRequest) -> None:
    with pytest.raises(grpc.RpcError):
        stub.Classify(request, timeout=5)


def _streamed(stub: Any, request: pb.ClassifyRequest) -> None:
    asked = pb.ClassifyStreamRequest(id="a")
    asked.request.CopyFrom(request)
    list(stub.ClassifyStream(iter([asked]), timeout=5))


@pytest.mark.parametrize("ask", [_refused, _streamed])
def test_no_cycle_keeps_a_message(
    digit_contract: Contract, ask: Callable[[Any, pb.ClassifyRequest], None]
) -> None:
    """What a call has held is free without the garbage collector, also after errors."""
    request = pb.ClassifyRequest(model="mlp", images=[b"\x89PNG" + bytes(100_000)])
    with served_here(digit_contract) as here, here.stub() as stub:
        ask(stub, request)
        gc.collect()
        gc.disable()
        try:
            before = _messages()
            for _ in range(5):
                ask(stub, request)
            until(lambda: _messages() <= before, 5)
        finally:
            gc.enable()
        assert 0 == here.held.total
