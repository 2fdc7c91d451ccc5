# SPDX-License-Identifier: Apache-2.0
"""The gRPC server under clients that are late, malformed, many, or gone."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import inkling
from inkling.contract import Contract
from inkling.v1 import classifier_pb2 as pb
from tests.serving.grpc_api.server_here import Here, served_here
from tests.support.http2_frames import DATA, GOAWAY, PING, Connection, frame, message
from tests.support.machine import until, within

_CLASSIFY = "/inkling.v1.Classifier/Classify"
_STREAM = "/inkling.v1.Classifier/ClassifyStream"
_KEY = "a-key-of-some-length"
_LATE_S = 1.0
# Late calls are looked for twice a second, and no answer is sooner than its message.
_ENDED_S = (_LATE_S - 0.1, _LATE_S + 1.0)


@pytest.fixture(scope="module")
def here(digit_contract: Contract) -> Iterator[Here]:
    """A server of this process, which waits for a message for one second."""
    with served_here(digit_contract, body_timeout_s=_LATE_S) as server:
        yield server


@pytest.fixture
def request_(picture: bytes) -> pb.ClassifyRequest:
    """A request with one picture."""
    return pb.ClassifyRequest(model="mlp", images=[picture])


def _refused(call: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


# Messages that are late.


@pytest.mark.parametrize("deadline_s", [None, 30])
def test_a_message_that_does_not_come_ends_its_call(
    here: Here, deadline_s: float | None
) -> None:
    """Within a second of the time for a body, whatever the deadline of the call."""
    outbox: queue.Queue[Any] = queue.Queue()
    with here.channel() as channel:
        call: Any = channel.stream_unary(_CLASSIFY)
        started = time.monotonic()
        _refused(lambda: call(iter(outbox.get, None), timeout=deadline_s))
        took = time.monotonic() - started
    outbox.put(None)

    assert took > _ENDED_S[0]
    within(took, _ENDED_S[1])


def test_a_message_in_drips_ends_its_call(
    here: Here, request_: pb.ClassifyRequest
) -> None:
    """A byte now and then does not prolong the time."""
    body = message(request_.SerializeToString())
    with Connection(here.port) as connection:
        stream, started = connection.call(_CLASSIFY), time.monotonic()
        for place in range(len(body)):
            connection.send(frame(DATA, body[place : place + 1], stream))
            if any(f.ends_stream for f in connection.frames(0.1)):
                break
        took = time.monotonic() - started

    assert took > _ENDED_S[0]
    within(took, _ENDED_S[1])


def test_late_messages_keep_nobody_out(
    here: Here, request_: pb.ClassifyRequest
) -> None:
    """Beside 100 calls without a message others are answered; then no call is left."""
    with ExitStack() as stack, here.stub() as stub:
        connections = [stack.enter_context(Connection(here.port)) for _ in range(2)]
        last = [[one.call(_CLASSIFY) for _ in range(50)][-1] for one in connections]
        time.sleep(0.2)
        started = time.monotonic()
        for _ in range(10):
            assert stub.Classify(request_, timeout=5).results
        took = time.monotonic() - started
        for connection, stream in zip(connections, last, strict=True):
            connection.end_of(stream)
        # All 256 calls that may be open are free again.
        calls = [stub.Classify.future(request_, timeout=20) for _ in range(120)]
        assert all(call.result().results for call in calls)

    within(took, 0.5)


def test_idle_connections_do_not_delay_the_end(digit_contract: Contract) -> None:
    """Who says nothing, not even HTTP/2, is not waited for as long as a call is."""
    with ExitStack() as stack, served_here(digit_contract, drain_timeout_s=15) as here:
        for _ in range(3):
            stack.enter_context(Connection(here.port))
        stack.enter_context(Connection(here.port)).call(_STREAM)
        time.sleep(0.2)
        started = time.monotonic()
        assert here.server.end().wait(20)
        took = time.monotonic() - started

    within(took, 4)


def test_calls_under_way_are_waited_for(
    digit_contract: Contract, request_: pb.ClassifyRequest
) -> None:
    """A call that has begun is answered, however long it takes within the drain time."""
    with served_here(digit_contract, drain_timeout_s=15) as here, here.stub() as stub:
        here.engine.free.clear()
        call = stub.Classify.future(request_, timeout=20)
        until(lambda: here.engine.timeouts)
        ended = here.server.end()
        assert not ended.wait(2)
        here.engine.free.set()
        assert call.result().results
        within(until(ended.is_set), 3)


# Deadlines.


@pytest.mark.parametrize("form", ["unary", "stream"])
def test_without_a_deadline_the_engine_is_given_none(
    here: Here, request_: pb.ClassifyRequest, form: str
) -> None:
    """Grpcio says 292 billion years then, which no server can be given."""
    here.engine.timeouts.clear()
    for timeout_s in (None, 30, 100_000):
        with here.stub() as stub:
            if form == "unary":
                stub.Classify(request_, timeout=timeout_s)
            else:
                asked = pb.ClassifyStreamRequest(request=request_)
                list(stub.ClassifyStream(iter([asked]), timeout=timeout_s))

    none, given, long = here.engine.timeouts
    assert none is None
    assert long is None
    assert given is not None
    assert 29 < given <= 30


def test_without_a_deadline_a_call_does_not_wait_forever(
    digit_contract: Contract, request_: pb.ClassifyRequest
) -> None:
    """In a queue that does not move it is refused like a request over HTTP."""
    with (
        served_here(digit_contract, threads=1, queue_timeout_s=0.5) as here,
        here.stub() as stub,
    ):
        here.engine.free.clear()
        first = stub.Classify.future(request_)
        until(lambda: here.engine.timeouts)
        second = stub.Classify.future(request_)
        time.sleep(0.8)
        here.engine.free.set()
        assert first.result().results
        refused = _refused(second.result)

    assert grpc.StatusCode.UNAVAILABLE == refused.code()


# Messages that are wrong.


def test_of_two_messages_the_first_is_answered(
    here: Here, request_: pb.ClassifyRequest
) -> None:
    """A client that sends two to a method that takes one gets one answer."""
    bodies = [request_.SerializeToString(), b"\xff" * 100]
    with here.channel() as channel:
        call: Any = channel.stream_stream(_CLASSIFY)
        answers = list(call(iter(bodies), timeout=5))

    assert 1 == len(answers)
    assert pb.ClassifyResponse.FromString(answers[0]).results


def test_no_message_is_the_callers_mistake(here: Here) -> None:
    """A call that ends without its message is told what it lacks."""
    with here.channel() as channel:
        call: Any = channel.stream_unary(_CLASSIFY)
        refused = _refused(lambda: call(iter([]), timeout=5))

    assert grpc.StatusCode.INVALID_ARGUMENT == refused.code()
    assert "one message" in refused.details()


# Streams.


def test_one_stream_too_many_is_refused(
    here: Here, request_: pb.ClassifyRequest
) -> None:
    """The 65th is overloaded; the others go on, and a place that is left is taken."""
    asked = pb.ClassifyStreamRequest(request=request_)
    outboxes: list[queue.Queue[Any]] = [queue.Queue() for _ in range(65)]
    with here.stub() as stub:
        calls = []
        for outbox in outboxes[:64]:
            calls.append(stub.ClassifyStream(iter(outbox.get, None), timeout=60))
            outbox.put(asked)
            assert next(calls[-1]).response.results
        refused = _refused(lambda: next(stub.ClassifyStream(iter([asked]), timeout=5)))
        for outbox, call in zip(outboxes, calls, strict=False):
            outbox.put(asked)
            assert next(call).response.results
        outboxes[0].put(None)
        assert [] == list(calls[0])
        again = stub.ClassifyStream(iter([asked]), timeout=5)
        assert next(again).response.results
        for outbox, call in zip(outboxes, calls, strict=False):
            outbox.put(None)
            call.cancel()

    assert grpc.StatusCode.UNAVAILABLE == refused.code()
    assert ("inkling-error-code", "overloaded") in refused.trailing_metadata()
    assert "64 requests" in refused.details()


# Keys.


@pytest.fixture(scope="module")
def keyed(
    digit_contract: Contract, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Here]:
    """A server that asks for a key."""
    path = tmp_path_factory.mktemp("keyed") / "keys"
    path.write_text(_KEY)
    with served_here(digit_contract, api_key_file=str(path)) as server:
        yield server


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_of_a_key_has_no_case(
    keyed: Here, request_: pb.ClassifyRequest, scheme: str
) -> None:
    """The key opens every method, however Bearer is written (RFC 9110, section 11.1)."""
    key = [("authorization", f"{scheme} {_KEY}")]
    asked = pb.ClassifyStreamRequest(request=request_)
    with keyed.stub() as stub:
        assert stub.Classify(request_, metadata=key, timeout=5).results
        [answer] = stub.ClassifyStream(iter([asked]), metadata=key, timeout=5)

    assert answer.response.results


@pytest.mark.parametrize("words", [None, "Bearer wrong", f"Basic {_KEY}", _KEY])
def test_without_a_key_a_stream_ends_before_its_first_message(
    keyed: Here, words: str | None
) -> None:
    """The refusal does not wait until the caller says something, or is done."""
    metadata = [("authorization", words)] if words else []
    outbox: queue.Queue[Any] = queue.Queue()
    with keyed.stub() as stub:
        call = stub.ClassifyStream(
            iter(outbox.get, None), metadata=metadata, timeout=10
        )
        started = time.monotonic()
        refused = _refused(lambda: next(call))
        took = time.monotonic() - started
        outbox.put(None)

    assert grpc.StatusCode.UNAUTHENTICATED == refused.code()
    within(took, 1)


def test_who_has_no_key_does_not_learn_which_methods_there_are(keyed: Here) -> None:
    """An unknown method is UNIMPLEMENTED to those who have a key, and to no others."""
    key = [("authorization", f"Bearer {_KEY}")]
    with keyed.channel() as channel:
        call: Any = channel.unary_unary("/no.Such/Method")
        without = _refused(lambda: call(b"", timeout=5))
        with_key = _refused(lambda: call(b"", metadata=key, timeout=5))

    assert grpc.StatusCode.UNAUTHENTICATED == without.code()
    assert grpc.StatusCode.UNIMPLEMENTED == with_key.code()


# Settings of connections.


def _kinds(connection: Connection, seconds: float, kind: int) -> float:
    """Return after how many seconds a frame of a kind came."""
    started = time.monotonic()
    for came in connection.frames(seconds):
        if came.kind == kind and not came.flags:
            return time.monotonic() - started
    raise AssertionError(f"no frame of kind {kind} within {seconds:g} s")


def test_connections_end_when_they_are_old(
    digit_contract: Contract, picture: bytes
) -> None:
    """The age and its grace hold; our client moves on and none of its calls fails."""
    ages = {"grpc_max_connection_age_s": 1.0, "grpc_max_connection_age_grace_s": 1.0}
    with served_here(digit_contract, **ages) as here:
        stop = time.monotonic() + 3
        with (
            inkling.connect(f"127.0.0.1:{here.port}", model="mlp") as classifier,
            Connection(here.port) as connection,
        ):
            told = threading.Thread(
                target=lambda: ages.update(told=_kinds(connection, 3, GOAWAY))
            )
            told.start()
            count = 0
            while time.monotonic() < stop:
                assert "3" == classifier.classify(picture).label
                count += 1
            told.join()

    assert count > 20
    assert ages["told"] > 0.8
    within(ages["told"], 2.5)


def test_connections_end_when_they_are_idle(digit_contract: Contract) -> None:
    """A connection without a call is told to go after the idle time."""
    with (
        served_here(digit_contract, grpc_max_connection_idle_s=1.0) as here,
        Connection(here.port) as connection,
    ):
        took = _kinds(connection, 5, GOAWAY)

    assert took > 0.8
    within(took, 3)


def test_idle_connections_are_asked_whether_they_live(
    digit_contract: Contract,
) -> None:
    """A ping comes after the keepalive time."""
    with (
        served_here(digit_contract, grpc_keepalive_s=1.0) as here,
        Connection(here.port) as connection,
    ):
        took = _kinds(connection, 5, PING)

    assert took > 0.8
    within(took, 3)


def test_times_beyond_measure_are_never(digit_contract: Contract) -> None:
    """An endless time, or more milliseconds than gRPC can count, does not stop the start."""
    times = dict.fromkeys(
        ("grpc_max_connection_idle_s", "grpc_max_connection_age_s"), math.inf
    )
    with served_here(digit_contract, **times, grpc_max_connection_age_grace_s=1e9):
        pass


# Tools.


def test_tools_list_and_describe_over_both_reflections(
    digit_contract: Contract,
) -> None:
    """v1, for which grpcurl asks first, says the same as v1alpha."""
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="inkling.v1.Classifier"
        ),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Such"),
    ]
    found = []
    with served_here(digit_contract, grpc_reflection=True) as here:
        for version in ("v1", "v1alpha"):
            with here.channel() as channel:
                call: Any = channel.stream_stream(
                    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
                )
                bodies = (one.SerializeToString() for one in asked)
                found.append(list(call(bodies, timeout=5)))

    listed, file, unknown = map(
        reflection_pb2.ServerReflectionResponse.FromString, found[0]
    )
    assert found[0] == found[1]
    assert "inkling.v1.Classifier" in {
        service.name for service in listed.list_services_response.service
    }
    assert file.file_descriptor_response.file_descriptor_proto
    assert 5 == unknown.error_response.error_code  # NOT_FOUND


@pytest.mark.parametrize("asked_for", [True, False])
def test_channelz_is_there_where_it_is_asked_for(
    digit_contract: Contract, asked_for: bool
) -> None:
    """It tells the server's own calls; without the setting, the method is not there."""
    with (
        served_here(digit_contract, grpc_channelz=asked_for) as here,
        here.channel() as channel,
    ):
        stub = channelz_pb2_grpc.ChannelzStub(channel)

        def servers() -> Any:
            return stub.GetServers(channelz_pb2.GetServersRequest(), timeout=5).server

        if asked_for:
            [server] = servers()
            assert server.data.calls_started >= 1
        else:
            assert grpc.StatusCode.UNIMPLEMENTED == _refused(servers).code()


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_answers_are_compressed_where_that_is_set(
    digit_contract: Contract, picture: bytes, compression: str
) -> None:
    """An answer comes compressed, and is the same."""
    many = pb.ClassifyRequest(model="mlp", images=[picture] * 32, top_k=10)
    found = {}
    for chosen in ("none", compression):
        with (
            served_here(digit_contract, grpc_compression=chosen) as here,
            Connection(here.port) as connection,
            here.stub() as stub,
        ):
            same_id = (("x-request-id", "same"),)
            answer = stub.Classify(many, timeout=10, metadata=same_id)
            stream = connection.call(_CLASSIFY, many.SerializeToString(), end=True)
            body = b"".join(
                came.payload for came in connection.of(stream) if came.kind == DATA
            )
            found[chosen] = (answer, body[0], len(body))

    print({name: size for name, (_, _, size) in found.items()})
    assert found["none"][0] == found[compression][0]
    assert (0, 1) == (found["none"][1], found[compression][1])
    assert found[compression][2] < found["none"][2] / 4
