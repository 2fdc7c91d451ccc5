"""Calls over HTTP/2: every way to make one, to feed it, and to end it."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import h2.config
import h2.connection
import h2.events
import pytest

from inkling_serving.http2 import frames
from inkling_serving.http2.frames import (
    END_HEADERS,
    END_STREAM,
    MAX_WINDOW,
    Fault,
    Kind,
)
from inkling_serving.http2.messages import prefixed
from tests.serving.http2.peer import HEADERS, MAX_MESSAGE, Client, Server
from tests.support.machine import until, within

_ACCEPTS = "identity,deflate,gzip"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of odd methods; at its end nothing must be left over."""
    made = Server()
    yield made
    made.close()


# Unary calls.


@pytest.mark.parametrize("path", ["Echo", "Later"])
@pytest.mark.parametrize("size", [0, 1, 5, 16_000, 65_000, 70_000, MAX_MESSAGE])
def test_a_message_comes_back(path: str, size: int, server: Server) -> None:
    """Of any length, through a method that answers at once and one that does later."""
    message = bytes(range(256)) * (size // 256 + 1)
    with Client(server.port, INITIAL_WINDOW_SIZE=1 << 20) as client:
        client.send(frames.window_update(0, 1 << 20))
        client.send(client.call(1, message[:size], path))
        status, messages, trailers, reset = client.answer(1)

    assert ("200", [message[:size]], None) == (status, messages, reset)
    assert "0" == trailers["grpc-status"]
    assert _ACCEPTS == trailers["grpc-accept-encoding"]
    assert "application/grpc" == trailers["content-type"]
    assert ("left" in trailers) == (path == "Later")


def test_many_calls_at_once(server: Server) -> None:
    """200 calls in one piece; each gets its own answer."""
    with Client(server.port) as client:
        client.send(
            b"".join(
                client.call(2 * n + 1, b"%d" % n, "Later" if n % 3 else "Echo")
                for n in range(200)
            )
        )
        found: dict[int, bytes] = {}
        ended = 0
        while ended < 200:
            frame = client.next()
            if frame.kind == Kind.DATA:
                found[frame.stream // 2] = frame.payload[5:]
            ended += frame.kind == Kind.HEADERS and bool(frame.flags & END_STREAM)

    assert {n: b"%d" % n for n in range(200)} == found


@pytest.mark.parametrize("step", [1, 7, 8, 9, 100])
def test_pieces_of_any_size(step: int, server: Server) -> None:
    """Frames may arrive in any pieces."""
    with Client(server.port) as client:
        data = client.call(1, b"first" * 20) + client.call(3, b"second" * 20, "Later")
        for at in range(0, len(data), step):
            client.send(data[at : at + step])

        assert [b"first" * 20] == client.answer(1).messages
        assert [b"second" * 20] == client.answer(3).messages


def test_padding_priority_and_continuations(server: Server) -> None:
    """What HTTP/2 allows beside the plain form is understood."""
    with Client(server.port) as client:
        block = client.encoder.encode(HEADERS)
        padded = bytes([3]) + bytes(5) + block[:4] + bytes(3)
        flags = frames.PADDED | frames.PRIORITISED
        body = prefixed(b"hello")
        client.send(
            frames.frame(Kind.HEADERS, flags, 1, padded)
            + frames.frame(Kind.CONTINUATION, 0, 1, block[4:9])
            + frames.frame(Kind.CONTINUATION, 0, 1)
            + frames.frame(Kind.CONTINUATION, END_HEADERS, 1, block[9:])
            + frames.frame(Kind.PRIORITY, 0, 1, bytes(5))
            + frames.frame(Kind(4), 1, 0)
            + frames.FRAME_HEAD.pack(0, 3, 77, 255, 1)
            + b"???"
            + frames.frame(Kind.DATA, frames.PADDED, 1, b"\2" + body[:3] + bytes(2))
            + frames.frame(Kind.DATA, 0, 1)
            + frames.frame(Kind.DATA, 0, 1, body[3:])
            # Trailers, which end the request.
            + frames.frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, b"\0\1x\1y")
        )

        assert [b"hello"] == client.answer(1).messages


@pytest.mark.parametrize("path", ["Fail", "Refuse", "Nothing"])
def test_errors_are_the_end_of_a_call(path: str, server: Server) -> None:
    """A refusal has its words; what was not foreseen says nothing; others go on."""
    with Client(server.port) as client:
        client.send(client.call(1, "naïve %\n".encode(), path) + client.call(3, b"x"))
        status, messages, trailers, reset = client.answer(1)
        other = client.answer(3).messages

    assert ("200", [], None, [b"x"]) == (status, messages, reset, other)
    found = trailers["grpc-status"], trailers["grpc-message"], trailers.get("word")
    assert (
        found
        == {
            "Fail": ("13", "Something went wrong here, not with your request.", None),
            "Refuse": ("10", "na%C3%AFve %25%0A", "refused"),
            "Nothing": (
                "12",
                "There is no method /test.Odd/Nothing; compare the .proto file.",
                None,
            ),
        }[path]
    )
    # The failure itself is in the log alone; it is expected here.
    server.complaints.clear()


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        (b"", "12"),
        (prefixed(b"a") + prefixed(b"b"), "12"),
        (prefixed(b"a")[:-1], "12"),
        (prefixed(b"a") + b"\0", "12"),
        (b"\1" + prefixed(b"a")[1:], "13"),
        (b"\2" + prefixed(b"a")[1:], "13"),
        (b"\0\xff\xff\xff\xff", "8"),
        (prefixed(bytes(MAX_MESSAGE + 1))[:5], "8"),
    ],
)
def test_not_one_message(messages: bytes, status: str, server: Server) -> None:
    """None, two, half a one, one too long: each is refused, and others are answered."""
    with Client(server.port) as client:
        client.send(client.head(1) + frames.frame(Kind.DATA, END_STREAM, 1, messages))
        assert status == client.answer(1).trailers["grpc-status"]
        client.send(client.head(3, ended=True) + client.call(5, b"x"))
        assert "12" == client.answer(3).trailers["grpc-status"]
        assert [b"x"] == client.answer(5).messages


def test_what_is_too_long_is_refused_before_it_has_come(server: Server) -> None:
    """The length alone is enough, and the client is told to stop."""
    with Client(server.port) as client:
        start = prefixed(bytes(MAX_MESSAGE + 1))[:100]
        client.send(client.head(1) + frames.frame(Kind.DATA, 0, 1, start))
        assert "8" == client.answer(1).trailers["grpc-status"]
        assert (1, Fault.NO_ERROR) == _reset(client)
        # What is on its way is passed over.
        client.send(frames.frame(Kind.DATA, END_STREAM, 1, bytes(1000)))
        client.send(client.call(3, b"x"))
        assert [b"x"] == client.answer(3).messages


def _reset(client: Client) -> tuple[int, int]:
    frame = client.until(Kind.RST_STREAM)
    return frame.stream, int.from_bytes(frame.payload, "big")


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_compressed_messages(
    encoding: str, pack: Callable[[bytes], bytes], server: Server
) -> None:
    """They are unpacked; bombs, cut ones and garbage are refused; flag 0 is as it is."""
    good = b"words " * 100

    def body(packed: bytes, flag: bytes = b"\1") -> bytes:
        return flag + prefixed(packed)[1:]

    cases = [
        (body(pack(good)), "0"),
        (body(good, b"\0"), "0"),
        (body(pack(b"")), "0"),
        (body(pack(bytes(MAX_MESSAGE))), "0"),
        (body(pack(bytes(MAX_MESSAGE + 1))), "8"),
        (body(pack(bytes(50 << 20))), "8"),
        (body(pack(good)[:-1]), "13"),
        (body(b"garbage"), "13"),
        (body(b""), "13"),
    ]
    with Client(server.port, INITIAL_WINDOW_SIZE=1 << 20) as client:
        client.send(frames.window_update(0, 1 << 20))
        for number, (data, status) in enumerate(cases):
            stream = 2 * number + 1
            client.send(client.head(stream, grpc_encoding=encoding))
            for at in range(0, len(data), 16384):
                flags = END_STREAM if at + 16384 >= len(data) else 0
                piece = data[at : at + 16384]
                client.send(frames.frame(Kind.DATA, flags, stream, piece))
            answer = client.answer(stream)
            assert status == answer.trailers["grpc-status"], number
            if number < 2:
                assert [good] == answer.messages


@pytest.mark.parametrize(
    ("changes", "status", "grpc_status"),
    [
        ({"content-type": "application/grpc+proto"}, "200", "0"),
        ({"content-type": "application/json"}, "415", None),
        ({"content-type": None}, "415", None),
        ({":method": "GET"}, "405", None),
        ({"grpc-timeout": "99999999H"}, "200", "0"),
        ({"grpc-timeout": "5"}, "200", "3"),
        ({"grpc-timeout": "123456789S"}, "200", "3"),
        ({"grpc-timeout": "soon"}, "200", "3"),
        ({"grpc-encoding": "br"}, "200", "12"),
        ({"grpc-encoding": "identity"}, "200", "0"),
        ({"authorization": "wrong"}, "200", "16"),
        ({"x": "y" * 20_000}, "200", "8"),
        ({"x": "y" * 100_000}, "200", "8"),
        ({"x-bin": "AAA="}, "200", "0"),
        ({":path": "/"}, "200", "12"),
        ({":path": "*"}, "200", "12"),
        ({":path": "\N{LATIN SMALL LETTER E WITH ACUTE}"}, "200", "12"),
    ],
)
def test_heads(
    changes: dict[str, str | None],
    status: str,
    grpc_status: str | None,
    server: Server,
) -> None:
    """What a call may begin with, and what it is told otherwise; always twice.

    The second time the same bytes are remembered rather than read.
    """
    fields = {**dict(HEADERS), **changes}
    given = [(name, value) for name, value in fields.items() if value is not None]
    with Client(server.port) as client:
        for stream in (1, 3, 5):
            block = client.encoder.encode(given, huffman=len(str(given)) < 9000)
            for at in range(0, len(block), 16384):
                kind = Kind.CONTINUATION if at else Kind.HEADERS
                flags = 0 if at + 16384 < len(block) else END_HEADERS
                piece = block[at : at + 16384]
                client.send(frames.frame(kind, flags, stream, piece))
            client.send(frames.frame(Kind.DATA, END_STREAM, stream, prefixed(b"x")))
            answer = client.answer(stream)
            assert status == answer.status
            assert grpc_status == answer.trailers.get("grpc-status")
        client.send(client.call(7, b"after"))
        assert [b"after"] == client.answer(7).messages


@pytest.mark.parametrize(
    "fields",
    [
        [(":method", "POST")],
        [*HEADERS, (":path", "/late")],
        [HEADERS[0], *HEADERS],
        [(":status", "200"), *HEADERS],
        [*HEADERS, ("connection", "close")],
        [*HEADERS, ("transfer-encoding", "chunked")],
        [*HEADERS, ("Upper", "case")],
        [*HEADERS, ("a b", "space")],
        [*HEADERS, ("", "empty")],
        [*HEADERS, ("x", "a\nb")],
        [*HEADERS, ("x", "a\0b")],
    ],
)
def test_heads_against_the_rules(fields: list[tuple[str, str]], server: Server) -> None:
    """They end their stream, and no other."""
    with Client(server.port) as client:
        block = client.encoder.encode(fields)
        flags = END_HEADERS | END_STREAM
        client.send(frames.frame(Kind.HEADERS, flags, 1, block))
        assert (1, Fault.PROTOCOL_ERROR) == _reset(client)
        client.send(client.call(3, b"x"))
        assert [b"x"] == client.answer(3).messages


def test_two_messages_in_two_frames(server: Server) -> None:
    """A second request is no request of a unary method, however it comes."""
    with Client(server.port) as client:
        client.send(
            client.head(1)
            + frames.frame(Kind.DATA, 0, 1, prefixed(b"first"))
            + frames.frame(Kind.DATA, END_STREAM, 1, prefixed(b"second"))
        )
        assert "12" == client.answer(1).trailers["grpc-status"]


def test_methods_with_limits_of_their_own(server: Server) -> None:
    """They are refused more than that, and unpack no more."""
    with Client(server.port) as client:
        packed = b"\1" + prefixed(zlib.compress(bytes(100_000)))[1:]
        client.send(
            client.call(1, bytes(10), "Short") + client.call(3, bytes(11), "Short")
        )
        client.send(client.head(5, "Short", grpc_encoding="deflate"))
        client.send(frames.frame(Kind.DATA, END_STREAM, 5, packed))
        found = [client.answer(n).trailers["grpc-status"] for n in (1, 3, 5)]

    assert ["0", "8", "8"] == found


def test_methods_that_cancel_themselves(server: Server) -> None:
    """It is the end of their call, and not the end of nothing."""
    with Client(server.port) as client:
        client.send(client.call(1, b"", "Cancel"))
        assert "1" == client.answer(1).trailers["grpc-status"]
        client.send(client.call(3, b"", "CancelAll"))
        assert "1" == client.answer(3).trailers["grpc-status"]


def test_what_a_client_sent_is_not_sent_back_whole(server: Server) -> None:
    """A status fits into a frame that every client takes, and so does a path in it."""
    with Client(server.port) as client:
        fields = [(n, "/" + "%" * 12_000 if n == ":path" else v) for n, v in HEADERS]
        block = client.encoder.encode(fields)
        client.send(frames.frame(Kind.HEADERS, END_HEADERS | END_STREAM, 1, block))
        client.send(client.call(3, "\N{GRINNING FACE}".encode() * 9000, "Refuse"))
        client.send(client.call(5, b"x", grpc_timeout="99999999H"))
        assert "12" == client.answer(1).trailers["grpc-status"]
        assert "10" == client.answer(3).trailers["grpc-status"]
        assert [b"x"] == client.answer(5).messages
        assert max(len(frame.payload) for frame in client.seen) <= 1 << 14


# Streams.


def test_a_stream_is_a_conversation(server: Server) -> None:
    """Each message is answered while the stream is open; its end is the stream's."""
    with Client(server.port) as client:
        client.send(client.head(1, "EchoAll"))
        for text in (b"one", b"", b"three" * 1000):
            client.send(frames.frame(Kind.DATA, 0, 1, prefixed(text)))
            assert prefixed(text) == client.until(Kind.DATA).payload
        client.send(frames.frame(Kind.DATA, END_STREAM, 1))
        assert "0" == client.answer(1).trailers["grpc-status"]


def test_a_stream_that_its_method_ends(server: Server) -> None:
    """What was answered is there, then the status, then a word that this is all."""
    with Client(server.port) as client:
        client.send(client.head(1, "EchoAll"))
        both = prefixed(b"enough") + prefixed(b"too much")
        client.send(frames.frame(Kind.DATA, 0, 1, both))
        answer = client.answer(1)
        assert ([b"enough"], "10") == (answer.messages, answer.trailers["grpc-status"])
        assert (1, Fault.NO_ERROR) == _reset(client)


def test_what_is_wrong_with_a_message_is_not_forgotten(server: Server) -> None:
    """One that is too long ends the call with its status, whatever waits to be sent."""
    with Client(server.port, INITIAL_WINDOW_SIZE=0) as client:
        client.send(client.head(1, "EchoAll"))
        client.send(frames.frame(Kind.DATA, 0, 1, prefixed(b"first")))
        assert Kind.HEADERS == client.until(Kind.HEADERS).kind
        client.send(frames.frame(Kind.DATA, 0, 1, b"\0\xff\xff\xff\xff"))
        for _ in range(30):
            client.send(frames.frame(Kind.DATA, 0, 1, bytes(16_000)))
        client.send(frames.frame(Kind.DATA, END_STREAM, 1, prefixed(b"last")))
        client.send(frames.frame(Kind.PING, 0, 0, b"received"))
        client.until(Kind.PING)
        [connection] = server.connections
        call = connection._calls._open[1]
        assert call.holds < 1000
        client.send(frames.window_update(1, 1000))
        answer = client.answer(1)
        assert ([b"first"], "8") == (answer.messages, answer.trailers["grpc-status"])


def test_empty_messages_count(server: Server) -> None:
    """A method that does not read is not sent messages without end, though they are empty."""
    with Client(server.port) as client:
        client.send(client.head(1, "Deaf"))
        for _ in range(100):
            client.send(frames.frame(Kind.DATA, 0, 1, prefixed(b"") * 3000))
        assert "8" == client.answer(1).trailers["grpc-status"]


def test_the_method_of_a_stream_gets_no_more_than_it_takes(server: Server) -> None:
    """A client that does not read is not read for ever, and holds up nobody else."""
    with Client(server.port, INITIAL_WINDOW_SIZE=0) as client:
        client.send(client.head(1, "EchoAll"))
        sent, piece = 0, prefixed(bytes(16_000))
        allowed = 1 << 20
        while sent + len(piece) <= allowed:
            client.send(frames.frame(Kind.DATA, 0, 1, piece))
            sent += len(piece)
            allowed += sum(
                int.from_bytes(f.payload, "big")
                for f in _waiting(client)
                if f.kind == Kind.WINDOW_UPDATE and f.stream == 1
            )
            assert sent < 8 << 20, "it takes more and more"
        client.send(client.call(3, b""))
        client.send(frames.window_update(3, 100))
        assert [b""] == client.answer(3).messages


def _waiting(client: Client) -> list[frames.Kind]:
    client.socket.settimeout(0.005)
    found = []
    try:
        while True:
            found.append(client.next())
    except TimeoutError:
        client.socket.settimeout(30)
        return found  # type: ignore[return-value]


def test_what_a_method_sends_waits_for_the_client(server: Server) -> None:
    """An endless answer to a client with a small window stays in the method."""
    with Client(server.port) as client:
        client.send(client.head(1, "Endless", ended=True))
        received = 0
        while received < 65_535:
            received += len(client.until(Kind.DATA).payload)
        assert 65_535 == received
        [connection] = server.connections
        time.sleep(0.1)
        calls = connection._calls._open
        assert len(calls[1].outbox) < 100_000
        client.send(frames.reset(1, Fault.CANCEL))
        until(lambda: not calls)


# What the client takes.


def test_answers_wait_for_the_window(server: Server) -> None:
    """Byte by byte, if that is how the client wants it; then the window is widened."""
    with Client(server.port, INITIAL_WINDOW_SIZE=0) as client:
        client.send(client.call(1, b"some words"))
        assert Kind.HEADERS == client.until(Kind.HEADERS).kind
        for expected in (b"\0", b"\0", b"\0", b"\0", b"\x0a", b"s"):
            client.send(frames.window_update(1, 1))
            assert expected == client.until(Kind.DATA).payload
        client.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 4}))
        assert b"ome " == client.until(Kind.DATA).payload
        client.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 0}))
        client.send(frames.window_update(1, 6))
        assert b"wo" == client.until(Kind.DATA).payload
        client.send(frames.window_update(1, 100))
        assert b"rds" == client.until(Kind.DATA).payload
        assert "0" == client.answer(1).trailers["grpc-status"]


def test_answers_wait_for_the_window_of_the_connection(server: Server) -> None:
    """It is shared; a call that cannot have it waits, and a small one after it, too."""
    with Client(server.port, INITIAL_WINDOW_SIZE=1 << 20) as client:
        client.send(client.call(1, b"100000", "Big") + client.call(3, b"x"))
        received = 0
        while received < 65_535:
            received += len(client.until(Kind.DATA).payload)
        client.send(frames.frame(Kind.PING, 0, 0, b"no more?"))
        assert b"no more?" == client.until(Kind.PING).payload
        assert all(f.stream == 1 for f in client.seen if f.kind == Kind.DATA)
        client.send(frames.window_update(0, 1 << 20))
        while received < 100_005 + 6:
            received += len(client.until(Kind.DATA).payload)


def test_frames_are_as_long_as_the_client_takes_them(server: Server) -> None:
    """16 KiB unless it says more."""
    for size in (1 << 14, 1 << 15):
        settings = {"INITIAL_WINDOW_SIZE": 1 << 20, "MAX_FRAME_SIZE": size}
        with Client(server.port, **settings) as client:
            client.send(frames.window_update(0, 1 << 20))
            client.send(client.call(1, b"60000", "Big"))
            assert [bytes(60_000)] == client.answer(1).messages
            longest = max(len(f.payload) for f in client.seen if f.kind == Kind.DATA)
            assert size == longest


def test_who_waits_longest_is_sent_first(server: Server) -> None:
    """Two endless answers share the window of the connection."""
    with Client(server.port, INITIAL_WINDOW_SIZE=1 << 30) as client:
        client.send(client.head(1, "Endless", ended=True))
        client.send(client.head(3, "Endless", ended=True))
        received = {1: 0, 3: 0}
        allowed = 65_535
        for _ in range(40):
            client.send(frames.window_update(0, 50_000))
            allowed += 50_000
            while sum(received.values()) < allowed:
                frame = client.until(Kind.DATA)
                received[frame.stream] += len(frame.payload)
        assert min(received.values()) > 0.3 * sum(received.values())


def test_nothing_is_made_for_a_client_that_does_not_read(server: Server) -> None:
    """However wide its windows are: what TCP does not take waits in the method."""
    with Client(server.port, INITIAL_WINDOW_SIZE=MAX_WINDOW) as client:
        client.send(frames.window_update(0, MAX_WINDOW - 65_535))
        client.send(client.head(1, "Endless", ended=True))
        until(lambda: server.connections)
        [connection] = server.connections
        until(lambda: connection._paused)
        time.sleep(0.2)
        transport = connection._transport
        assert server.do(transport.get_write_buffer_size) < 1 << 20
        received = 0
        while received < 20 << 20:
            received += len(client.until(Kind.DATA).payload)


@pytest.mark.parametrize("size", [0, 1024])
def test_clients_with_small_tables(size: int, server: Server) -> None:
    """The first block of headers says that our table is as small (RFC 7541, 4.2)."""
    with Client(server.port, HEADER_TABLE_SIZE=size) as client:
        for stream, path in ((1, "Echo"), (3, "Nothing"), (5, "EchoAll")):
            client.send(client.call(stream, b"x", path))
            client.answer(stream)
        blocks = [f.payload for f in client.seen if f.kind == Kind.HEADERS]

    assert [True] + [False] * (len(blocks) - 1) == [b[:1] == b"\x20" for b in blocks]


# Time.


def test_deadlines(server: Server) -> None:
    """What is not done in time is cancelled; what is done at once is not late."""
    with Client(server.port) as client:
        started = time.monotonic()
        cancelled = server.cancelled
        client.send(client.call(1, b"x", "Wait", grpc_timeout="200m"))
        client.send(client.head(3, "EchoAll", grpc_timeout="250000u"))
        client.send(client.head(5, grpc_timeout="300m"))
        client.send(client.call(7, b"x", grpc_timeout="0n"))
        assert [b"x"] == client.answer(7).messages
        for stream in (1, 3, 5):
            assert "4" == client.answer(stream).trailers["grpc-status"]
        took = time.monotonic() - started
        until(lambda: server.cancelled == cancelled + 1)
    assert took > 0.29
    within(took, 1)


def test_requests_that_do_not_arrive() -> None:
    """A unary call whose request stays away is ended, also without a deadline."""
    server = Server(request_timeout_s=0.2)
    with closing(server), Client(server.port) as client:
        client.send(client.head(1) + client.head(3, "EchoAll"))
        client.send(frames.frame(Kind.DATA, 0, 1, prefixed(b"half")[:6]))
        client.send(client.head(5, grpc_timeout="1S"))
        client.send(client.call(7, b"", "Wait"))
        for stream in (1, 5):
            trailers = client.answer(stream).trailers
            assert "4" == trailers["grpc-status"]
            assert (
                "The request did not arrive within 0.2 s." == trailers["grpc-message"]
            )
        # The stream may be silent, and an answer may take its time.
        client.send(frames.frame(Kind.DATA, END_STREAM, 3, prefixed(b"still here")))
        assert [b"still here"] == client.answer(3).messages
        server.do(server.released.set)
        assert [b""] == client.answer(7).messages


def test_cancelled_calls(server: Server) -> None:
    """A reset, and the end of the connection, cancel what is done."""
    cancelled, waited = server.cancelled, server.waited
    with Client(server.port) as client:
        client.send(client.call(1, b"", "Wait") + client.call(3, b"", "Wait"))
        client.send(client.head(5, "EchoAll") + client.head(7))
        until(lambda: server.waited == waited + 2)
        client.send(frames.reset(1, Fault.CANCEL))
        until(lambda: server.cancelled == cancelled + 1)
    until(lambda: server.cancelled == cancelled + 2)
    until(lambda: not server.connections)


# Other clients.


def test_an_independent_client(server: Server) -> None:
    """The library h2, which checks each of our frames, makes 100 calls."""
    client = h2.connection.H2Connection(
        h2.config.H2Configuration(header_encoding="utf-8")
    )
    client.initiate_connection()
    with Client(server.port, greet=False) as wire:
        for number in range(100):
            stream = client.get_next_available_stream_id()
            path = ("Echo", "Later", "Refuse", "EchoAll")[number % 4]
            fields = dict(HEADERS) | {":path": f"/test.Odd/{path}"}
            client.send_headers(stream, list(fields.items()))
            client.send_data(stream, prefixed(b"%d" % number), end_stream=True)
        wire.send(client.data_to_send())
        statuses: dict[int, str] = {}
        ended: set[int] = set()
        while len(ended) < 100:
            for event in client.receive_data(wire.socket.recv(65536)):
                if isinstance(
                    event, h2.events.TrailersReceived | h2.events.ResponseReceived
                ):
                    assert event.headers is not None
                    fields = dict(event.headers)  # type: ignore[arg-type]
                    statuses[event.stream_id or 0] = fields.get("grpc-status", "")
                if isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id or 0)
            wire.send(client.data_to_send())

    expected = [("10" if n % 4 == 2 else "0") for n in range(100)]
    assert expected == [statuses[2 * n + 1] for n in range(100)]


def test_grpcs_own_client(server: Server) -> None:
    """Grpcio calls from 8 threads over one channel, with messages of all sizes."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:

        def call(number: int) -> bool:
            path = "Later" if number % 2 else "Echo"
            message = bytes([number % 256]) * (number * 397 % MAX_MESSAGE)
            compression = (None, grpc.Compression.Gzip)[number % 5 == 0]
            answer = channel.unary_unary(f"/test.Odd/{path}")(
                message, timeout=20, compression=compression
            )
            return bool(message == answer)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(call, range(400)))
        streams = channel.stream_stream("/test.Odd/EchoAll")
        messages = [b"%d" % n * (n % 500) for n in range(1000)]
        assert messages == list(streams(iter(messages), timeout=20))
