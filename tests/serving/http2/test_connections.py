"""Connections that break HTTP/2's rules, ask for too much, or are to end."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import hpack
import pytest

from inkling_serving.http2 import frames
from inkling_serving.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    MAX_WINDOW,
    PREFACE,
    Fault,
    Kind,
    Setting,
    StreamFault,
)
from inkling_serving.http2.heads import Heads
from inkling_serving.http2.messages import prefixed
from tests.serving.http2.peer import HEADERS, Client, Server
from tests.support.machine import until, within

_ENDED = END_HEADERS | END_STREAM


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of odd methods; at its end nothing must be left over."""
    made = Server()
    yield made
    made.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return FRAME_HEAD.pack(0, len(payload), kind, flags, stream) + payload


_EMPTY_SETTINGS = frames.settings({})
# What is sent after the greeting -> why the connection ends (RFC 9113).
_FAULTS: dict[str, tuple[bytes, Fault]] = {
    "frame too long": (b"\1\0\1" + bytes(6), Fault.FRAME_SIZE_ERROR),
    "data of no stream": (_frame(0, 0, 0, b"x"), Fault.PROTOCOL_ERROR),
    "data before its head": (_frame(0, 0, 1, b"x"), Fault.PROTOCOL_ERROR),
    "reset before its head": (_frame(3, 0, 1, bytes(4)), Fault.PROTOCOL_ERROR),
    "reset of no stream": (_frame(3, 0, 0, bytes(4)), Fault.PROTOCOL_ERROR),
    "window of no stream": (_frame(8, 0, 1, b"\0\0\0\1"), Fault.PROTOCOL_ERROR),
    "window of nothing": (_frame(8, 0, 0, bytes(4)), Fault.PROTOCOL_ERROR),
    "window cut off": (_frame(8, 0, 0, bytes(3)), Fault.FRAME_SIZE_ERROR),
    "window too wide": (frames.window_update(0, MAX_WINDOW), Fault.FLOW_CONTROL_ERROR),
    "server's stream": (_frame(1, _ENDED, 2, b"\x82"), Fault.PROTOCOL_ERROR),
    "head of no stream": (_frame(1, _ENDED, 0, b"\x82"), Fault.PROTOCOL_ERROR),
    "unknown index": (_frame(1, _ENDED, 1, b"\xfe"), Fault.COMPRESSION_ERROR),
    "cut block": (_frame(1, _ENDED, 1, b"\0\5abc"), Fault.COMPRESSION_ERROR),
    "table too big": (_frame(1, _ENDED, 1, b"\x3f\xff\xff\1"), Fault.COMPRESSION_ERROR),
    "bad padding": (
        _frame(1, _ENDED | frames.PADDED, 1, b"\5abc"),
        Fault.PROTOCOL_ERROR,
    ),
    "no padding": (_frame(1, _ENDED | frames.PADDED, 1), Fault.PROTOCOL_ERROR),
    "short priority": (
        _frame(1, _ENDED | frames.PRIORITISED, 1, b"ab"),
        Fault.FRAME_SIZE_ERROR,
    ),
    "priority cut off": (_frame(2, 0, 1, bytes(4)), Fault.FRAME_SIZE_ERROR),
    "push": (_frame(5, 4, 1, bytes(4)), Fault.PROTOCOL_ERROR),
    "continuation of nothing": (_frame(9, 4, 1, b"\x82"), Fault.PROTOCOL_ERROR),
    "interrupted head": (
        _frame(1, 0, 1, b"\x82") + _frame(6, 0, 0, bytes(8)),
        Fault.PROTOCOL_ERROR,
    ),
    "head in a head": (
        _frame(1, 0, 1, b"\x82") + _frame(9, 4, 3, b"\x82"),
        Fault.PROTOCOL_ERROR,
    ),
    "ping cut off": (_frame(6, 0, 0, bytes(7)), Fault.FRAME_SIZE_ERROR),
    "ping of a stream": (_frame(6, 0, 1, bytes(8)), Fault.PROTOCOL_ERROR),
    "settings of a stream": (_frame(4, 0, 1), Fault.PROTOCOL_ERROR),
    "settings cut off": (_frame(4, 0, 0, bytes(5)), Fault.FRAME_SIZE_ERROR),
    "settings in an ack": (_frame(4, ACK, 0, bytes(6)), Fault.PROTOCOL_ERROR),
    "push wanted": (frames.settings({Setting.ENABLE_PUSH: 2}), Fault.PROTOCOL_ERROR),
    "wide windows": (
        frames.settings({Setting.INITIAL_WINDOW_SIZE: 1 << 31}),
        Fault.FLOW_CONTROL_ERROR,
    ),
    "small frames": (
        frames.settings({Setting.MAX_FRAME_SIZE: 100}),
        Fault.PROTOCOL_ERROR,
    ),
    "many settings": (_frame(4, 0, 0, bytes(6) * 65), Fault.ENHANCE_YOUR_CALM),
    "ping flood": (_frame(6, 0, 0, bytes(8)) * 1500, Fault.ENHANCE_YOUR_CALM),
    "settings flood": (_EMPTY_SETTINGS * 1500, Fault.ENHANCE_YOUR_CALM),
    "priority flood": (_frame(2, 0, 1, bytes(5)) * 1500, Fault.ENHANCE_YOUR_CALM),
    "unknown flood": (_frame(99, 0, 1, b"x") * 1500, Fault.ENHANCE_YOUR_CALM),
    "continuation flood": (
        _frame(1, 0, 1) + _frame(9, 0, 1) * 1500,
        Fault.ENHANCE_YOUR_CALM,
    ),
    "long head": (
        _frame(1, 0, 1) + _frame(9, 0, 1, bytes(60_000)) * 3,
        Fault.ENHANCE_YOUR_CALM,
    ),
}


@pytest.mark.parametrize("case", _FAULTS)
def test_faults_end_a_connection(case: str, server: Server) -> None:
    """With the reason that the RFC names, and without harm to another connection."""
    sent, why = _FAULTS[case]
    with Client(server.port) as other, Client(server.port) as client:
        client.send(sent)

        assert ("goaway", why) == client.fate()
        assert "closed" == client.fate()
        other.send(other.call(1, b"x"))
        assert [b"x"] == other.answer(1).messages


# What is sent after a call on stream 1 that waits -> why that stream ends.
_STREAM_FAULTS: dict[str, tuple[bytes, Fault]] = {
    "window of nothing": (_frame(8, 0, 1, bytes(4)), Fault.PROTOCOL_ERROR),
    "window too wide": (frames.window_update(1, MAX_WINDOW), Fault.FLOW_CONTROL_ERROR),
    "data after the end": (_frame(0, 0, 1, b"x"), Fault.STREAM_CLOSED),
    "second head": (_frame(1, 4, 1, b"\x83"), Fault.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("case", _STREAM_FAULTS)
def test_faults_end_a_stream(case: str, server: Server) -> None:
    """And leave the others of the connection alone."""
    sent, why = _STREAM_FAULTS[case]
    with Client(server.port) as client:
        client.send(client.call(1, b"", "Wait") + sent + client.call(3, b"x"))
        frame = client.until(Kind.RST_STREAM)

        assert (1, why) == (frame.stream, int.from_bytes(frame.payload, "big"))
        assert [b"x"] == client.answer(3).messages


def test_more_than_was_allowed(server: Server) -> None:
    """A client that ignores the window of a stream loses it."""
    with Client(server.port, INITIAL_WINDOW_SIZE=0) as client:
        client.send(client.head(1, "EchoAll"))
        messages = prefixed(bytes(60_000))[:65_000]
        for _ in range(40):
            client.send(frames.frame(Kind.DATA, 0, 1, messages))
        frame = client.until(Kind.RST_STREAM)
        assert Fault.FLOW_CONTROL_ERROR == int.from_bytes(frame.payload, "big")
        client.send(client.call(3, b""))
        client.send(frames.window_update(3, 10))
        assert [b""] == client.answer(3).messages


def test_settings_come_first(server: Server) -> None:
    """Before them nothing else is read."""
    with Client(server.port, greet=False) as client:
        client.send(PREFACE + client.call(1, b"x"))
        assert ("goaway", Fault.PROTOCOL_ERROR) == client.fate()


@pytest.mark.parametrize(
    "sent", [b"hello", b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\nXX", bytes(24)]
)
def test_other_protocols(sent: bytes, server: Server) -> None:
    """What is no HTTP/2 is hung up on, without a word."""
    with Client(server.port, greet=False) as client:
        client.send(sent)
        with pytest.raises((EOFError, ConnectionError)):
            client.next()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_http_1(method: str, server: Server) -> None:
    """A browser or curl on this port is told so in its own language."""
    with Client(server.port, greet=False) as client:
        client.send(f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = client.socket.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.1 505 ")
    assert b"This port speaks gRPC" in answer


def test_too_many_streams(server: Server) -> None:
    """1,024 calls wait; one more is refused, so that its client may try it again."""
    with Client(server.port) as client:
        calls = [client.call(2 * n + 1, b"", "Wait") for n in range(1025)]
        client.send(b"".join(calls))
        frame = client.until(Kind.RST_STREAM)
        assert (2049, Fault.REFUSED_STREAM) == (
            frame.stream,
            int.from_bytes(frame.payload, "big"),
        )
        client.send(frames.reset(1, Fault.CANCEL) + client.call(2051, b"x"))
        assert [b"x"] == client.answer(2051).messages


def test_calls_that_are_reset_at_once(server: Server) -> None:
    """20,000 calls, each reset by its client, leave nothing behind (CVE-2023-44487)."""
    with Client(server.port) as client:
        for start in range(1, 40_000, 400):
            client.send(
                b"".join(
                    client.call(stream, b"", "Wait")
                    + frames.reset(stream, Fault.CANCEL)
                    for stream in range(start, start + 400, 2)
                )
            )
        client.send(client.call(40_001, b"x"))
        assert [b"x"] == client.answer(40_001).messages
        until(lambda: _count(server) == 0)


def test_clients_may_ping_as_often_as_they_are_answered(server: Server) -> None:
    """As grpc-go does, which measures the way with each answer."""
    with Client(server.port) as client:
        for stream in range(1, 8000, 2):
            ping = frames.frame(Kind.PING, 0, 0, bytes(8))
            client.send(client.call(stream, b"x") + ping)
            client.until(Kind.PING)
        client.send(client.head(8001, "EchoAll"))
        for _ in range(3000):
            message = frames.frame(Kind.DATA, 0, 8001, prefixed(b"x"))
            client.send(message + ping)
            client.until(Kind.PING)


def test_a_client_that_does_not_read(server: Server) -> None:
    """It is not answered beyond what it takes, and gets all once it does."""
    with Client(server.port, INITIAL_WINDOW_SIZE=MAX_WINDOW) as client:
        client.send(frames.window_update(0, MAX_WINDOW - 65_535))
        calls = [client.call(n, b"290000", "Big") for n in range(1, 2000, 2)]
        client.send(b"".join(calls))
        [connection] = server.connections
        until(lambda: connection._paused)
        transport = connection._transport
        waiting = server.do(transport.get_write_buffer_size)
        assert waiting < 1 << 20
        received = 0
        while received < 1000 * 290_005:
            received += len(client.until(Kind.DATA).payload)


# The end.


def test_what_is_under_way_at_the_end_is_answered(server: Server) -> None:
    """And so is a call that was sent before the client knew; a later one is not."""
    until(lambda: not server.connections)
    with Client(server.port) as client:
        client.send(client.call(1, b"one", "Wait"))
        until(lambda: server.connections and _count(server) == 1)
        [connection] = server.connections
        server.do(connection.end)
        assert MAX_WINDOW == int.from_bytes(
            client.until(Kind.GOAWAY).payload[:4], "big"
        )
        ping = client.until(Kind.PING).payload
        client.send(client.call(3, b"two") + _frame(6, ACK, 0, ping))
        assert [b"two"] == client.answer(3).messages
        assert 3 == int.from_bytes(client.until(Kind.GOAWAY).payload[:4], "big")
        client.send(client.call(5, b"too late"))
        server.do(server.released.set)
        assert [b"one"] == client.answer(1).messages
        assert "closed" == client.fate()
        assert all(frame.stream != 5 for frame in client.seen)
    server.do(server.released.clear)


def test_the_last_answer_arrives_whole(server: Server) -> None:
    """Though its client reads slowly, and goes on to say that it has."""
    until(lambda: not server.connections)
    with Client(server.port, INITIAL_WINDOW_SIZE=1 << 30) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        client.send(frames.window_update(0, 1 << 30))
        client.send(client.call(1, b"299000", "Big"))
        until(lambda: server.connections and _count(server) == 0)
        [connection] = server.connections
        server.do(connection.end)
        server.do(connection._end_for_good)
        received = 0
        while received < 299_005:
            received += len(client.until(Kind.DATA).payload)
            client.send(frames.window_update(1, 1000) + frames.window_update(0, 1000))
            time.sleep(0.005)
        assert Kind.HEADERS == client.until(Kind.HEADERS).kind


def _count(server: Server) -> int:
    [connection] = server.connections
    return len(connection._calls)


@pytest.mark.parametrize("greet", [True, False])
def test_clients_that_say_nothing_at_the_end(greet: bool, server: Server) -> None:
    """An idle client that does not acknowledge is left after a second."""
    until(lambda: not server.connections)
    with Client(server.port, greet=greet) as client:
        until(lambda: server.connections)
        [connection] = server.connections
        started = time.monotonic()
        server.do(connection.end)
        while client.fate() != "closed":
            pass
        took = time.monotonic() - started
    assert took > 0.9
    within(took, 2)


def test_a_greeting_that_comes_at_the_end(server: Server) -> None:
    """A client that was accepted too late is told, and what it asks is answered."""
    until(lambda: not server.connections)
    with Client(server.port, greet=False) as client:
        until(lambda: server.connections)
        [connection] = server.connections
        server.do(connection.end)
        client.send(PREFACE + _EMPTY_SETTINGS + client.call(1, b"x"))
        assert MAX_WINDOW == int.from_bytes(
            client.until(Kind.GOAWAY).payload[:4], "big"
        )
        assert [b"x"] == client.answer(1).messages
        assert 1 == int.from_bytes(client.until(Kind.GOAWAY).payload[:4], "big")


# Whatever comes.


_PATHS = ("Echo", "Refuse", "Nothing")


def _conversation(chance: random.Random, *more: str) -> bytes:
    """Return what a client might send to some methods."""
    encoder, paths = hpack.Encoder(), (*_PATHS, *more)
    parts = []
    for number in range(chance.randint(1, 8)):
        stream = 2 * number + 1
        fields = [
            (n, f"/test.Odd/{chance.choice(paths)}" if n == ":path" else v)
            for n, v in HEADERS
        ]
        fields += [("x", str(chance.randint(0, 3)))] * chance.randint(0, 2)
        block = encoder.encode(fields, huffman=chance.random() < 0.5)
        parts.append(_frame(Kind.HEADERS, END_HEADERS, stream, block))
        body = prefixed(chance.randbytes(chance.randint(0, 60)))
        cut = chance.randint(0, len(body))
        parts.append(_frame(Kind.DATA, 0, stream, body[:cut]))
        parts.append(_frame(Kind.DATA, END_STREAM, stream, body[cut:]))
        parts.append(
            chance.choice(
                [
                    b"",
                    _EMPTY_SETTINGS,
                    frames.settings(
                        {Setting.INITIAL_WINDOW_SIZE: chance.randint(0, 99)}
                    ),
                    _frame(Kind.PING, 0, 0, bytes(8)),
                    frames.reset(stream, Fault.CANCEL),
                    frames.window_update(stream, chance.randint(1, 99)),
                    frames.window_update(0, chance.randint(1, 99)),
                ]
            )
        )
    return b"".join(parts)


def test_mutated_conversations(server: Server) -> None:
    """2,000 of them; each connection lives or ends, and the server complains of none."""
    fates: dict[str, int] = {}
    for number in range(2000):
        chance = random.Random(number)
        data = bytearray(_conversation(chance, "Later", "Wait", "EchoAll"))
        for _ in range(chance.choice([0, 1, 1, 2, 5])):
            place = chance.randrange(len(data))
            data[place] = chance.choice([0, 1, 255, chance.randrange(256)])
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.settimeout(30)
            try:
                connection.sendall(PREFACE + _EMPTY_SETTINGS + data)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.makefile("rb").read()
                fate = "goaway" if b"\7\0\0\0\0\0" in answer else "closed"
            except ConnectionError:
                fate = "reset"
        fates[fate] = fates.get(fate, 0) + 1
    until(lambda: not server.connections)

    print(fates)
    assert not server.complaints
    assert fates["goaway"] > 100
    assert fates["closed"] > 100


def test_cuts_change_nothing(server: Server) -> None:
    """The same bytes get the same answer in whatever pieces they come."""
    for number in range(40):
        chance = random.Random(number)
        data = PREFACE + _EMPTY_SETTINGS + _conversation(chance)
        whole, cut = _answered(server, [data]), []
        while data:
            size = chance.randint(1, 40)
            cut.append(data[:size])
            data = data[size:]
        assert whole == _answered(server, cut)


def _answered(server: Server, pieces: list[bytes]) -> list[tuple[int, int, int, bytes]]:
    """Return the frames of the answers, those of a stream together and in order."""
    with Client(server.port, greet=False) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.send(piece)
        client.send(_frame(Kind.PING, 0, 0, b"the end."))
        while client.until(Kind.PING).payload != b"the end.":
            pass
        kinds = (Kind.DATA, Kind.HEADERS)
        found = [frame for frame in client.seen if frame.kind in kinds]
    return sorted(found, key=lambda frame: frame.stream)


def test_remembered_heads_are_what_they_say() -> None:
    """Whatever the tables did before, a block means what HPACK says it means."""
    for number in range(200):
        chance = random.Random(number)
        encoder, fresh = hpack.Encoder(), hpack.Decoder()
        heads = Heads(lambda _: None)
        for _ in range(60):
            if chance.random() < 0.05:
                encoder.header_table_size = chance.choice([0, 64, 200, 1000, 4096])
            fields = [
                (n, chance.choice("abc") if n == ":authority" else v)
                for n, v in HEADERS
            ]
            for _ in range(chance.randint(0, 3)):
                pair = (
                    chance.choice("xyz"),
                    chance.choice("123") * chance.choice([1, 40]),
                )
                fields.append(
                    hpack.NeverIndexedHeaderTuple(*pair)
                    if chance.random() < 0.3
                    else pair
                )
            block = encoder.encode(fields, huffman=chance.random() < 0.5)
            wanted = dict(fresh.decode(block))
            head = heads.read(block)
            found = {":path": head.path, **head.metadata}
            assert {n: v for n, v in wanted.items() if n in found} == found


def test_remembered_heads_are_bounded() -> None:
    """A client that never says the same twice does not fill the memory."""
    heads = Heads(lambda _: None)
    plain = b"".join(frames.literal(n.encode(), v.encode()) for n, v in HEADERS)
    for number in range(1000):
        heads.read(plain + frames.literal(b"x", b"%d" % number))
    heads.read(plain + frames.literal(b"x", b"y" * 5000))
    with pytest.raises(StreamFault):
        heads.read(frames.literal(b"x", b"y"))

    known = heads._known
    assert len(known) <= 64
    assert max(map(len, known)) <= 1024


def test_it_knows_nothing_of_inkling() -> None:
    """The room stands alone: its modules import each other and libraries, no more."""
    import inkling_serving.http2

    [folder] = inkling_serving.http2.__path__
    imports = [
        line
        for path in Path(folder).glob("*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith(("import ", "from "))
    ]
    assert imports
    assert not [
        line
        for line in imports
        if "inkling" in line and "inkling_serving.http2" not in line
    ]
