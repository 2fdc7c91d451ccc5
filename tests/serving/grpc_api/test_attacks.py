# SPDX-License-Identifier: Apache-2.0
"""Attacks on the gRPC port of a gateway: it keeps its size, and answers the others."""

from __future__ import annotations

import random
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from tests.support.http2_frames import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    frame,
    head,
    literal,
    message,
)
from tests.support.machine import memory_bytes, until, within

_CLASSIFY = "/inkling.v1.Classifier/Classify"
_MIB = 2**20
_LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
_REFUSED_STREAM, _CANCEL, _ENHANCE_YOUR_CALM = (
    code.to_bytes(4, "big") for code in (7, 8, 11)
)


class Attacked:
    """A gateway process, and a client that behaves."""

    def __init__(self, gateway: Any, request: pb.ClassifyRequest) -> None:
        self.pid, self.port = gateway.process.pid, gateway.grpc_port
        self.target, self.request = gateway.grpc_target, request

    def answers(self) -> float:
        """Classify over a new connection; return the seconds that it took."""
        started = time.monotonic()
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.target, options) as channel:
            stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
            assert stub.Classify(self.request, timeout=20).results
        return time.monotonic() - started

    def connection(self, window: int | None = None) -> Connection:
        """Connect, with this room for answers."""
        return Connection(self.port, [(INITIAL_WINDOW, window)] if window else [])

    @contextmanager
    def attacked(self, mib: float, answer_s: float = 2.0) -> Iterator[None]:
        """Check that an attack costs so little memory, and delays others so little."""
        before = memory_bytes(self.pid)
        yield
        took, grown = self.answers(), (memory_bytes(self.pid) - before) / _MIB
        print(f"{grown:+.1f} MiB; the next call took {took:.3f} s")
        assert grown < mib
        within(took, answer_s)


@pytest.fixture(scope="module")
def gateway_(
    published: Path,
    serve_gateway: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """A gateway that waits for a message for one second."""
    log = tmp_path_factory.mktemp("attacked") / "log"
    with serve_gateway(published, "--body-timeout-s", "1", log=log) as process:
        yield process


@pytest.fixture
def attacked(gateway_: Any, picture: bytes) -> Attacked:
    """That gateway, which has answered before."""
    found = Attacked(gateway_, pb.ClassifyRequest(model="mlp", images=[picture]))
    found.answers()
    return found


def _garbage(number: int) -> bytes:
    chance = random.Random(number)
    noise = chance.randbytes(chance.randint(1, 600))
    kinds = [
        noise,
        _LIVE,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,
        PREFACE[: chance.randint(1, 23)],
        PREFACE + noise,
        PREFACE + frame(SETTINGS) + noise,
        PREFACE + frame(SETTINGS) + frame(HEADERS, noise, 1, 5),
        PREFACE + frame(SETTINGS) + frame(chance.randrange(256), noise, 1, noise[0]),
    ]
    return kinds[number % len(kinds)]


@pytest.mark.parametrize(
    "count", [400, pytest.param(2_000, marks=pytest.mark.soak, id="2000")]
)
def test_garbage(attacked: Attacked, count: int) -> None:
    """Connections of bytes that mean nothing are ended, and cost nothing afterwards."""
    files = len(list(Path(f"/proc/{attacked.pid}/fd").iterdir()))
    with attacked.attacked(mib=24):
        started = time.monotonic()
        for number in range(count):
            address = ("127.0.0.1", attacked.port)
            with socket.create_connection(address, 5) as one, suppress(OSError):
                one.sendall(_garbage(number))
                if number % 16 < 8:
                    one.shutdown(socket.SHUT_WR)
                    one.settimeout(0.05)
                    one.recv(4096)
        took = time.monotonic() - started

    print(f"{count} connections took {took:.2f} s")
    folder = Path(f"/proc/{attacked.pid}/fd")
    within(until(lambda: len(list(folder.iterdir())) <= files + 3), 10)


@pytest.mark.parametrize(
    "greeting",
    [b"", PREFACE[:9], PREFACE, _LIVE, b"\x16\x03\x01\x00\x05hello"],
    ids=["nothing", "half a preface", "preface alone", "HTTP/1.1", "TLS"],
)
def test_who_does_not_speak_http2_is_hung_up_on(
    silent: dict[bytes, tuple[socket.socket, float]], greeting: bytes
) -> None:
    """Within the five seconds that HTTP/1.1 gives as well, and at once if it is wrong."""
    connection, started = silent[greeting]
    connection.settimeout(20)
    with suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
    within(time.monotonic() - started, 7)


@pytest.fixture(scope="module")
def silent(gateway_: Any) -> Iterator[dict[bytes, tuple[socket.socket, float]]]:
    """Connections that say this much and no more, and when they were opened."""
    greetings = [b"", PREFACE[:9], PREFACE, _LIVE, b"\x16\x03\x01\x00\x05hello"]
    with ExitStack() as stack:
        found = {}
        for greeting in greetings:
            made = socket.create_connection(("127.0.0.1", gateway_.grpc_port), 20)
            stack.enter_context(made).sendall(greeting)
            found[greeting] = (made, time.monotonic())
        yield found


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(frame(SETTINGS), id="empty SETTINGS"),
        pytest.param(frame(SETTINGS, b"\0\4\0\0\xff\xff"), id="SETTINGS"),
        pytest.param(frame(PRIORITY, bytes(5), 1), id="PRIORITY"),
        pytest.param(frame(WINDOW_UPDATE, b"\0\0\0\1"), id="WINDOW_UPDATE"),
        pytest.param(frame(RST_STREAM, bytes(4), 1), id="RST_STREAM of no stream"),
        pytest.param(frame(DATA, b"", 1), id="empty DATA of no stream"),
        pytest.param(frame(77, bytes(10)), id="unknown frames"),
    ],
)
def test_floods(attacked: Attacked, frames: bytes) -> None:
    """20,000 frames that ask for nothing cost no memory, and delay nobody."""
    with attacked.attacked(mib=16), attacked.connection() as connection:
        with suppress(OSError):
            connection.send(frames * 20_000)
        list(connection.frames(0.2))


def test_a_flood_of_pings_ends_its_connection(attacked: Attacked) -> None:
    """The answer is GOAWAY with ENHANCE_YOUR_CALM."""
    with attacked.attacked(mib=16), attacked.connection() as connection:
        with suppress(OSError):
            connection.send(frame(PING, bytes(8)) * 20_000)
        told = [f.payload[4:8] for f in connection.frames(5) if f.kind == GOAWAY]

    assert [_ENHANCE_YOUR_CALM] == told


@pytest.mark.parametrize("whole", [True, False], ids=["whole calls", "heads"])
def test_rapid_reset(attacked: Attacked, whole: bool) -> None:
    """20,000 calls that are taken back at once are refused beyond some (CVE-2023-44487)."""
    body = message(attacked.request.SerializeToString())
    with attacked.attacked(mib=32), attacked.connection() as connection:
        with suppress(OSError):
            for first in range(1, 40_000, 2 * 200):
                sent = b""
                for stream in range(first, first + 2 * 200, 2):
                    sent += frame(HEADERS, head(_CLASSIFY), stream, 4)
                    sent += frame(DATA, body, stream, 1) if whole else b""
                    sent += frame(RST_STREAM, _CANCEL, stream)
                connection.send(sent)
        resets = [f.payload for f in connection.frames(1) if f.kind == RST_STREAM]

    # A whole call may be over before the next one comes.
    assert whole or resets.count(_REFUSED_STREAM) > 10_000


@pytest.mark.parametrize("bomb", ["continuation", "header compression"])
def test_long_heads(attacked: Attacked, bomb: str) -> None:
    """A head without end, or of 4,000 references to one field, is refused."""
    with attacked.attacked(mib=64), attacked.connection() as connection:
        if bomb == "continuation":
            block = literal(b"x", b"y" * 8_000)
            sent = frame(HEADERS, head(_CLASSIFY), 1) + 2_000 * frame(
                CONTINUATION, block, 1
            )
        else:
            field = b"\x40" + literal(b"a", b"v" * 4_000)[1:]
            block = head(_CLASSIFY) + field + b"\xbe" * 4_000
            sent = frame(HEADERS, block, 1, 4)
        with suppress(OSError):
            connection.send(sent)
        refused = any(came.ends_stream for came in connection.frames(2))

    assert refused or connection.hung_up


def test_answers_that_nobody_takes(attacked: Attacked, picture: bytes) -> None:
    """12 clients with all the room there is, who ask and never read."""
    many = pb.ClassifyRequest(model="mlp", images=[picture] * 32, top_k=10)
    whole = message(many.SerializeToString())
    with attacked.attacked(mib=96, answer_s=5), ExitStack() as stack:
        for _ in range(12):
            one = stack.enter_context(attacked.connection(window=2**31 - 1))
            room = (2**31 - 1 - 65_535).to_bytes(4, "big")
            one.send(frame(WINDOW_UPDATE, room))
            one.socket.settimeout(0.2)
            with suppress(OSError):
                for stream in range(1, 2 * 160, 2):
                    one.send(frame(HEADERS, head(_CLASSIFY), stream, 4))
                    one.send(frame(DATA, whole, stream, 1))
        time.sleep(1)
        print(f"while they wait: {memory_bytes(attacked.pid) / _MIB:.1f} MiB in all")
        attacked.answers()


def test_fewer_threads_than_calls(attacked: Attacked) -> None:
    """Where the system allows no further thread, calls wait, and the port lives on."""
    pid, address_space = attacked.pid, resource.RLIMIT_AS
    soft, hard = resource.prlimit(pid, address_space)
    room = memory_bytes(pid, "VmSize") + 96 * _MIB
    with attacked.connection() as one, attacked.connection() as other:
        resource.prlimit(pid, address_space, (room, hard))
        try:
            last = [(c, c.call(_CLASSIFY)) for c in [one, other] * 110][-2:]
            time.sleep(0.3)
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
            for connection, stream in last:
                connection.end_of(stream, 15)
            attacked.answers()
        finally:
            resource.prlimit(pid, address_space, (soft, hard))

    print(f"{threads} threads for 220 calls")
    assert threads < 220
    within(attacked.answers(), 2)
