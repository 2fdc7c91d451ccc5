# SPDX-License-Identifier: Apache-2.0
"""The HTTP server where clients hold what they can: connections, bytes and time."""

from __future__ import annotations

import asyncio
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from inkling.contract import Contract
from inkling_serving.http_api import flow, protocol
from inkling_serving.http_api.connections import Turns
from tests.serving.http_api.server_here import Here, code_of, served_here
from tests.support.http_bytes import converse, whole_answer
from tests.support.machine import until, within

_LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
_PATH = "/v1/models/mlp:classify"
_POST = b"POST /v1/models/mlp:classify HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def here(digit_contract: Contract) -> Iterator[Here]:
    """A server that holds 2 MiB, and whose model is quick."""
    limits = {"max_body_bytes": 2**20, "max_held_bytes": 1}
    with served_here(digit_contract, quick=True, **limits) as server:
        yield server


def _connect(here: Here, **options: int) -> socket.socket:
    made = socket.socket()
    if "buffer" in options:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["buffer"])
    made.connect(("127.0.0.1", here.port))
    made.settimeout(20)
    return made


def _ends(connection: socket.socket) -> float:
    """Return after how many seconds the server ends a connection."""
    started = time.monotonic()
    with suppress(ConnectionResetError):
        while connection.recv(65_536):
            pass
    return time.monotonic() - started


# Timers.


@pytest.mark.parametrize("drip", [b"\r\n", b"\n", b"\r", b"\r\n" * 500])
def test_empty_lines_do_not_keep_a_connection(
    digit_contract: Contract, monkeypatch: pytest.MonkeyPatch, drip: bytes
) -> None:
    """A client that sends them after an answer, or first, is idle, and is closed as such."""
    monkeypatch.setattr(protocol, "_HEAD_TIMEOUT_S", 1.0)
    with served_here(digit_contract) as here, ExitStack() as stack:
        here.server.config.timeout_keep_alive = 1
        for first in (b"", _LIVE):
            one = stack.enter_context(_connect(here))
            one.sendall(first)
            assert not first or whole_answer(one)
            started = time.monotonic()
            one.settimeout(0.05)
            ended = False
            while not ended and time.monotonic() < started + 10:
                try:
                    one.sendall(drip)
                    ended = not one.recv(4096)
                except TimeoutError:
                    continue
                except ConnectionError:
                    ended = True
            assert ended
            within(time.monotonic() - started, 3)


@pytest.mark.parametrize("start", [b"", b"\r\n", _LIVE])
@pytest.mark.parametrize("piece", [b"1", b" ", b"\t", b":", b"\x00", b"\xff", b"a"])
def test_no_piece_of_a_head_passes_the_limit(
    here: Here, start: bytes, piece: bytes
) -> None:
    """A head is collected up to 32 KiB, whatever its pieces begin with."""
    with _connect(here) as one:
        one.sendall(start + b"GET / HTTP/1.1\r\nHost: x\r\nx: y")
        sent, received = 0, b""
        one.setblocking(False)
        while not re.search(b"HTTP/1.1 [45]", received) and sent < 2**20:
            with suppress(BlockingIOError):
                sent += one.send(piece * 4096)
            with suppress(BlockingIOError):
                received += one.recv(65_536)
            time.sleep(0.001)

    assert received.rpartition(b"HTTP/1.1 ")[2][:3] in (b"431", b"400")
    assert sent < 256 * 1024


def test_an_upgrade_behind_a_request_is_ignored(here: Here, picture: bytes) -> None:
    """The body of a request that asks for one is its body, wherever the request stands."""
    fields = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(picture)
    close = _LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    heard = converse(here.port, _LIVE + _POST + fields + length + picture + close)

    assert (200, 200, 200) == heard.statuses


def test_a_client_that_takes_no_answer_is_disconnected(
    digit_contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers pile up to a limit, and for a limited time."""
    monkeypatch.setattr(flow, "_TAKE_TIMEOUT_S", 1.0)
    page = b"GET /page/page.js HTTP/1.1\r\nHost: x\r\n\r\n"
    with served_here(digit_contract) as here, _connect(here, buffer=4096) as one:
        one.settimeout(0.1)
        with suppress(TimeoutError):
            one.sendall(page * 2000)
        connections = here.server.server_state.connections
        until(lambda: not connections, 10)
        assert here.held.total == 0


# The sending half.


@pytest.mark.parametrize("busy", [False, True], ids=["at once", "later"])
def test_a_client_that_closes_its_sending_half_is_answered(
    digit_contract: Contract, picture: bytes, busy: bool
) -> None:
    """Also two requests in one piece; nothing is open afterwards."""
    length = b"Content-Length: %d\r\n\r\n" % len(picture)
    with served_here(digit_contract) as here, _connect(here) as one:
        if busy:
            here.engine.free.clear()
        one.sendall((_POST + length + picture) * 2)
        one.shutdown(socket.SHUT_WR)
        time.sleep(0.3)
        here.engine.free.set()
        text = b""
        while piece := one.recv(65_536):
            text += piece
        until(lambda: not here.server.server_state.connections, 5)

    assert 2 == text.count(b"HTTP/1.1 200 ")
    assert text.count(b"HTTP/1.1 100 ") <= (2 if busy else 0)


def test_a_client_that_was_reset_is_not_worked_for(
    digit_contract: Contract, picture: bytes
) -> None:
    """40 requests whose clients have left take no turn from the one that waits."""
    length = b"Content-Length: %d\r\n\r\n" % len(picture)
    with served_here(digit_contract, threads=1) as here:
        here.engine.free.clear()
        running, first = here.in_background("POST", _PATH, picture)
        until(lambda: here.engine.threads)
        for _ in range(40):
            with _connect(here) as one:
                linger = b"\1\0\0\0\0\0\0\0"
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                one.sendall(_POST + length + picture)
                time.sleep(0.005)
        waiting, last = here.in_background("POST", _PATH, picture)
        time.sleep(0.3)
        here.engine.free.set()
        for thread in (running, waiting):
            thread.join()

    assert (200, 200) == (first[0].status, last[0].status)
    assert 2 == len(here.engine.threads)


# Bytes and connections.


def test_slow_bodies_make_room_for_others(here: Here, picture: bytes) -> None:
    """Five halves of the limit: the oldest are refused, and nobody else is."""
    length = b"Content-Length: 1000000\r\n\r\n"
    with ExitStack() as stack:
        slow = [stack.enter_context(_connect(here)) for _ in range(5)]
        for one in slow:
            one.sendall(_POST + length + bytes(900_000))
            time.sleep(0.1)
        for one in slow[:3]:
            answer = whole_answer(one)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1" in answer
            assert b"arriving for the longest" in answer
        assert here.held.total <= 2 * 2**20
        assert here.request("POST", _PATH, picture).status == 200
        slow[4].sendall(bytes(100_000))
        assert whole_answer(slow[4]).startswith(b"HTTP/1.1 400 ")
    until(lambda: here.held.total == 0, 5)


def test_bodies_that_drip_do_not_count_as_work(here: Here, picture: bytes) -> None:
    """600 slow clients are no reason to refuse a quick request."""
    with ExitStack() as stack:
        for _ in range(600):
            one = stack.enter_context(_connect(here))
            one.sendall(_POST + b"Content-Length: 99\r\n\r\nx")
        assert here.request("POST", _PATH, picture).status == 200


def test_pictures_that_wait_are_counted_in_bytes(
    digit_contract: Contract, encode: Callable[..., bytes]
) -> None:
    """With room for one picture of 700 kB, the second one is refused."""
    noise = bytes(range(256)) * 2800
    limits = {"max_body_bytes": 2**20 // 2 + len(noise) // 2, "max_held_bytes": 1}
    with served_here(digit_contract, threads=1, **limits) as here:
        here.engine.free.clear()
        body = _padded(encode, noise)
        running, first = here.in_background("POST", _PATH, body)
        until(lambda: here.engine.threads)
        refused = here.request("POST", _PATH, body)
        small = _padded(encode, b"")
        waiting, last = here.in_background("POST", _PATH, small)
        time.sleep(0.2)
        here.engine.free.set()
        for thread in (running, waiting):
            thread.join()

    assert (503, "overloaded") == (refused.status, code_of(refused))
    assert (200, 200) == (first[0].status, last[0].status)


def _padded(encode: Callable[..., bytes], padding: bytes) -> bytes:
    import zlib

    import numpy as np

    picture = encode(np.full((64, 64), 255, np.uint8))
    chunk = b"prVt" + padding
    size, crc = len(padding).to_bytes(4, "big"), zlib.crc32(chunk).to_bytes(4, "big")
    return picture[:33] + size + chunk + crc + picture[33:]


def test_connections_beyond_the_limit(digit_contract: Contract) -> None:
    """A new one ends the one that is idle longest; beside fresh bodies it is refused."""
    with served_here(digit_contract, max_connections=4) as here, ExitStack() as stack:
        made: list[Any] = []
        for _ in range(4):
            made.append(stack.enter_context(_connect(here)))
            made[-1].sendall(_LIVE)
            assert whole_answer(made[-1])
        made[0].sendall(_LIVE)
        assert whole_answer(made[0])  # now the second one is idle longest
        fifth = stack.enter_context(_connect(here))
        fifth.sendall(_LIVE)
        assert whole_answer(fifth).startswith(b"HTTP/1.1 200 ")
        within(_ends(made[1]), 2)
        for one in (made[0], made[2], made[3], fifth):
            one.sendall(_POST + b"Content-Length: 99\r\n\r\nx")
        time.sleep(0.2)
        sixth = stack.enter_context(_connect(here))
        answer = whole_answer(sixth)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"too many connections" in answer
    assert b"retry-after: 1" in answer


def test_the_slowest_body_makes_room(
    digit_contract: Contract, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit a body that drips is refused, one that comes faster is answered.

    A body that has just begun does not end: its client may be as fast as any.
    """
    monkeypatch.setattr(flow, "_FRESH_S", 0.2)
    length = b"Content-Length: %d\r\n\r\n" % len(picture)
    with served_here(digit_contract, max_connections=4) as here, ExitStack() as stack:
        made = [stack.enter_context(_connect(here)) for _ in range(4)]
        half = len(picture) // 2
        for one, sent in zip(made, (half, half, 1, half), strict=True):
            one.sendall(_POST + length + picture[:sent])
        connections = here.server.server_state.connections
        until(lambda: len(connections) == 4)
        bodies = [one.flow for one in connections]
        until(lambda: all(one.body_rate < math.inf for one in bodies))
        fifth = stack.enter_context(_connect(here))
        fifth.sendall(_POST + length + picture)

        assert whole_answer(fifth).startswith(b"HTTP/1.1 200 ")
        assert whole_answer(made[2]).startswith(b"HTTP/1.1 503 ")
        for one in (made[0], made[1], made[3]):
            one.sendall(picture[half:])
            assert whole_answer(one).startswith(b"HTTP/1.1 200 ")
    assert here.held.total == 0


def test_a_slow_body_makes_room_for_its_own_address(
    digit_contract: Contract, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a share of two connections, a third ends the slower body of the two."""
    monkeypatch.setattr(flow, "_FRESH_S", 0.1)
    limits = {"max_connections": 40, "client_share": 0.05}
    head = _POST + b"Content-Length: %d\r\n\r\n" % len(picture)
    with served_here(digit_contract, **limits) as here, ExitStack() as stack:
        slow, fair = (stack.enter_context(_connect(here)) for _ in range(2))
        slow.sendall(head + picture[:1])
        fair.sendall(head + picture[:-1])

        until(lambda: len(here.server.server_state.connections) == 2)
        bodies = [one.flow for one in here.server.server_state.connections]
        until(lambda: sum(one.body_rate < math.inf for one in bodies) == 2)
        third = stack.enter_context(_connect(here))
        third.sendall(head + picture)
        assert whole_answer(slow).startswith(b"HTTP/1.1 503 ")
        assert whole_answer(third).startswith(b"HTTP/1.1 200 ")
        fair.sendall(picture[-1:])
        assert whole_answer(fair).startswith(b"HTTP/1.1 200 ")


def test_a_refused_body_is_forgotten_at_once(
    digit_contract: Contract, caplog: pytest.LogCaptureFixture
) -> None:
    """A body that turns out malformed holds nothing while its connection lingers."""
    head = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
    with served_here(digit_contract, body_timeout_s=0.5) as here:
        with _connect(here) as one:
            one.sendall(head + b"40000\r\n" + bytes(0x40000) + b"\r\nno length\r\n\r\n")
            assert whole_answer(one).startswith(b"HTTP/1.1 400 ")
            until(lambda: here.held.total == 0, 5)
            assert _ends(one) < 20
        until(lambda: not here.server.server_state.connections, 10)

    assert not [one for one in caplog.records if one.levelname == "ERROR"]


def test_long_bodies_are_read_in_longer_pieces(
    here: Here, picture: bytes, encode: Callable[..., bytes]
) -> None:
    """What follows on the connection is read in short ones again."""
    long = _padded(encode, bytes(300_000))
    connections = here.server.server_state.connections
    with _connect(here) as one:
        for body in (long, picture):
            one.sendall(_POST + b"Content-Length: %d\r\n\r\n" % len(body))
            if body is long:
                until(lambda: 256 * 1024 in _read_at_once(connections), 10)
            one.sendall(body)
            assert whole_answer(one).startswith(b"HTTP/1.1 200 ")
            assert 256 * 1024 not in _read_at_once(connections)


def _read_at_once(connections: Any) -> set[int]:
    return {one.transport.max_size for one in list(connections)}


def test_a_long_wait_is_refused_while_no_thread_is_free(
    digit_contract: Contract, encode: Callable[..., bytes]
) -> None:
    """A request that has waited for --queue-timeout-s hears it then, and not later."""
    body = _padded(encode, b"")
    with served_here(digit_contract, threads=1, queue_timeout_s=0.5) as here:
        here.engine.free.clear()
        running, first = here.in_background("POST", _PATH, body)
        until(lambda: here.engine.threads)
        started = time.monotonic()
        refused = here.request("POST", _PATH, body)
        took = time.monotonic() - started
        here.engine.free.set()
        running.join()

    assert (503, 200) == (refused.status, first[0].status)
    within(took, 1.5)


def test_chunks_of_one_connection_do_not_stop_the_others(here: Here) -> None:
    """A body of nothing but empty lines in chunks is read in turns."""
    body = b"\r\n\r\n" * 250_000
    head = _POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body)
    waits: list[float] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.005):
            started = time.monotonic()
            assert here.request("GET", "/livez").status == 200
            waits.append(time.monotonic() - started)

    thread = threading.Thread(target=ask)
    thread.start()
    answers = [converse(here.port, head + body).statuses for _ in range(3)]
    done.set()
    thread.join()

    assert [(400,)] * 3 == answers
    # The clients share the interpreter with this server.
    within(sorted(waits)[int(0.95 * len(waits))], 0.5)


# Shares.


def test_few_long_bodies_are_read_at_once() -> None:
    """The others wait; new ones come next, and all get their turns."""
    turns, made = Turns(), [_Reading() for _ in range(20)]

    async def read() -> list[set[int]]:
        seen = []
        for one in made:
            one.loop = asyncio.get_running_loop()
            turns.begin(one)
        for _ in range(4):
            seen.append({number for number, one in enumerate(made) if one.reads})
            turns._go_on()
        for one in made:
            turns.end(one)
        return seen

    seen = asyncio.run(read())

    assert [8] * 4 == [len(one) for one in seen]
    assert set(range(8)) == seen[0]
    assert 19 in seen[1]
    assert set(range(20)) == set.union(*seen)
    assert all(one.reads for one in made)


class _Reading:
    """A connection, as far as `Turns` knows it."""

    def __init__(self) -> None:
        self.flow: Any = self
        self.loop: Any = None
        self.transport: Any = None
        self.waits, self.reads = False, True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    idle = in_head = False

    def refuse(self, _: Any) -> None: ...


def test_a_client_has_a_share_of_the_connections(digit_contract: Contract) -> None:
    """Beyond it, its own oldest idle connection ends, though there is room for more."""
    limits = {"max_connections": 40, "client_share": 0.1}
    with served_here(digit_contract, **limits) as here, ExitStack() as stack:
        made = [stack.enter_context(_connect(here)) for _ in range(4)]
        for one in made:
            one.sendall(_LIVE)
            assert whole_answer(one)
        fifth = stack.enter_context(_connect(here))
        fifth.sendall(_LIVE)
        assert whole_answer(fifth).startswith(b"HTTP/1.1 200 ")
        made[0].settimeout(20)
        assert made[0].recv(1) == b""
        made[1].sendall(_LIVE)

        assert whole_answer(made[1]).startswith(b"HTTP/1.1 200 ")
