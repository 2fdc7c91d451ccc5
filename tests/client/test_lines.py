# SPDX-License-Identifier: Apache-2.0
"""The connections of a gRPC client: one for calls in turn, several for calls at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import inkling
from inkling.gateway.channel import Lines
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import (
    ClassifierServicer,
    add_ClassifierServicer_to_server,
)


class _Service(ClassifierServicer):
    """Answers once `together` calls are there; knows from which connections they came."""

    def __init__(self) -> None:
        self.peers: list[str] = []
        self.meeting = threading.Barrier(1)

    def Classify(self, request: pb.ClassifyRequest, context: Any) -> Any:
        self.peers.append(context.peer())
        self.meeting.wait(60)
        score = pb.Score(label="7", probability=1.0)
        return pb.ClassifyResponse(
            model="mlp", version=1, results=[pb.Prediction(top=[score])]
        )

    def meet(self, together: int) -> None:
        self.peers.clear()
        self.meeting = threading.Barrier(together)


@pytest.fixture
def service() -> Iterator[tuple[_Service, str]]:
    """A server, and its address."""
    found = _Service()
    server = grpc.server(ThreadPoolExecutor(32))
    add_ClassifierServicer_to_server(found, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield found, f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(("together", "connections"), [(3, 3), (20, 8)])
def test_calls_at_once_take_several_connections(
    service: tuple[_Service, str], picture: bytes, together: int, connections: int
) -> None:
    """So all processes of a gateway get calls; there are eight connections at most."""
    found, target = service
    with (
        inkling.connect(target, model="mlp") as classifier,
        ThreadPoolExecutor(together) as pool,
    ):
        for _ in range(4):
            classifier.classify(picture)
        assert len(set(found.peers)) == 1
        found.meet(together)
        list(pool.map(classifier.classify, [picture] * together))

        assert len(set(found.peers)) == connections
        shares = [found.peers.count(peer) for peer in set(found.peers)]
        assert max(shares) - min(shares) <= 1


def test_a_window_of_calls_takes_several_connections(
    service: tuple[_Service, str], picture: bytes
) -> None:
    """`classify_many` has 16 calls under way, on eight connections."""
    found, target = service
    found.meet(16)
    with inkling.connect(target, model="mlp") as classifier:
        assert len(list(classifier.classify_many([picture] * 16))) == 16

    assert len(set(found.peers)) == 8


def test_asyncio_takes_several_connections(
    service: tuple[_Service, str], picture: bytes
) -> None:
    """The same holds for the classifier of asyncio."""
    found, target = service

    async def work() -> None:
        async with inkling.AioClassifier(target, model="mlp") as classifier:
            await classifier.classify(picture)
            found.meet(6)
            await asyncio.gather(*(classifier.classify(picture) for _ in range(6)))

    asyncio.run(work())

    assert len(set(found.peers)) == 6


class _Channel:
    """As much of a channel as a stub needs."""

    def unary_unary(self, *_: Any, **__: Any) -> Any:
        return None

    stream_stream = unary_unary


def test_the_line_with_the_fewest_calls_is_next() -> None:
    """A line that was given back is taken before another one is opened."""
    lines = Lines(_Channel)
    first, second = lines.take(), lines.take()
    assert first is not second
    lines.give_back(first)

    assert lines.take() is first
    assert [first.under_way, second.under_way] == [1, 1]
    assert lines.take() not in (first, second)


def test_there_are_eight_lines_at_most() -> None:
    """Beyond eight, calls share the lines evenly."""
    lines = Lines(_Channel)
    taken = [lines.take() for _ in range(24)]

    assert len(set(taken)) == 8
    assert {line.under_way for line in taken} == {3}


def test_lines_that_were_taken_down_are_not_used_again() -> None:
    """After closing, a call under way finds its line closed, and a new one is opened."""
    lines = Lines(_Channel)
    before = lines.take()
    assert before in lines

    assert lines.take_down() == [before.channel]
    assert before not in lines
    lines.give_back(before)
    assert lines.take() is not before
