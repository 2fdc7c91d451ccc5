"""A server of a few odd methods, and a client that can send it anything at all."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple

import grpc
import hpack

from inkling_serving.http2 import frames
from inkling_serving.http2.answering import Options
from inkling_serving.http2.calls import Call, Method, Streaming, Unary
from inkling_serving.http2.connection import Connection
from inkling_serving.http2.frames import END_HEADERS, END_STREAM, PREFACE, Kind, Setting
from inkling_serving.http2.heads import Head
from inkling_serving.http2.messages import Status, prefixed

MAX_MESSAGE = 300_000
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Odd/Echo"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


class Server:
    """A live server on a free port, in a thread with a loop of its own.

    Attributes:
        connections: Those there are now.
        complaints: What reached the loop's last resort; there is to be nothing.
        released: What the method `Wait` waits for.
        waited: Calls of `Wait` that began.
        cancelled: Those of them that were.
    """

    def __init__(self, request_timeout_s: float = 5.0) -> None:
        self.connections: set[Connection] = set()
        self.complaints: list[Any] = []
        self.waited = self.cancelled = 0
        self._options = Options(
            self._methods(), self._admit, MAX_MESSAGE, request_timeout_s
        )
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, it: self.complaints.append(it))
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.port: int = self.call(self._start())

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the server's loop, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def do(self, work: Callable[[], Any]) -> Any:
        """The same with a function."""

        async def doing() -> Any:
            return work()

        return self.call(doing())

    def close(self) -> None:
        """End, and find nothing left over."""

        async def ending() -> None:
            self._server.close()
            for connection in set(self.connections):
                connection.abort()
            await asyncio.sleep(0.02)

        self.call(ending())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        assert not self.connections
        assert not self.complaints, self.complaints

    async def _start(self) -> int:
        self.released = asyncio.Event()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._options, self.connections), "127.0.0.1", 0
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def _admit(self, head: Head) -> Status | None:
        if head.metadata.get("authorization") == "wrong":
            return Status(grpc.StatusCode.UNAUTHENTICATED, "Wrong.", [("word", "no")])
        return None

    def _methods(self) -> dict[str, Method]:
        return {
            "/test.Odd/Echo": Unary(lambda body, _: body),
            "/test.Odd/Big": Unary(lambda body, _: bytes(int(body))),
            "/test.Odd/Later": Unary(_later),
            "/test.Odd/Wait": Unary(self._wait),
            "/test.Odd/Fail": Unary(_fail),
            "/test.Odd/Refuse": Unary(_refuse),
            "/test.Odd/EchoAll": Streaming(_echo_all),
            "/test.Odd/Endless": Streaming(_endless),
            "/test.Odd/Deaf": Streaming(self._deaf),
            "/test.Odd/Cancel": Unary(_cancel),
            "/test.Odd/CancelAll": Streaming(_cancel_all),
            "/test.Odd/Short": Unary(lambda body, _: body, 10),
        }

    async def _deaf(
        self, _: AsyncIterator[bytes], __: Call
    ) -> AsyncGenerator[bytes, None]:
        await self.released.wait()
        yield b"at last"

    async def _wait(self, body: bytes, _: Call) -> bytes:
        self.waited += 1
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return body


async def _later(body: bytes, call: Call) -> bytes:
    await asyncio.sleep(0)
    call.trailing.append(("left", str(call.time_remaining())))
    return body


def _fail(body: bytes, _: Call) -> bytes:
    raise RuntimeError(f"a secret: {body!r}")


def _refuse(body: bytes, _: Call) -> bytes:
    raise Status(
        grpc.StatusCode.ABORTED, body.decode("utf-8", "replace"), [("word", "refused")]
    )


async def _echo_all(
    bodies: AsyncIterator[bytes], _: Call
) -> AsyncGenerator[bytes, None]:
    async for body in bodies:
        yield body
        if body == b"enough":
            raise Status(grpc.StatusCode.ABORTED, "That was enough.")


async def _cancel(_: bytes, __: Call) -> bytes:
    raise asyncio.CancelledError


async def _cancel_all(_: AsyncIterator[bytes], __: Call) -> AsyncGenerator[bytes, None]:
    yield b"one"
    raise asyncio.CancelledError


async def _endless(_: AsyncIterator[bytes], __: Call) -> AsyncGenerator[bytes, None]:
    while True:
        yield bytes(10_000)


class Frame(NamedTuple):
    """One that came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Answer(NamedTuple):
    """A call's whole answer: HTTP's status, messages, trailers; or why it was reset."""

    status: str | None
    messages: list[bytes]
    trailers: dict[str, str]
    reset: int | None


class Client:
    """One connection, over which anything can be sent."""

    def __init__(self, port: int, greet: bool = True, **settings: int) -> None:
        """Connect, and exchange greetings unless told otherwise."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.encoder = hpack.Encoder()
        self._decoder = hpack.Decoder()
        self._received = b""
        self.seen: list[Frame] = []
        if greet:
            values = {Setting[name]: value for name, value in settings.items()}
            self.send(PREFACE + frames.settings(values))
            assert Kind.SETTINGS == self.next().kind

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def head(
        self, stream: int, path: str = "Echo", ended: bool = False, **more: str
    ) -> bytes:
        """Return the frame that begins a call."""
        fields = [(n, f"/test.Odd/{path}" if n == ":path" else v) for n, v in HEADERS]
        fields += [(name.replace("_", "-"), value) for name, value in more.items()]
        block = self.encoder.encode(fields)
        flags = END_HEADERS | (END_STREAM if ended else 0)
        return frames.frame(Kind.HEADERS, flags, stream, block)

    def call(
        self, stream: int, message: bytes, path: str = "Echo", **more: str
    ) -> bytes:
        """Return the frames of a unary call."""
        body = prefixed(message)
        rest = [body[at : at + 16384] for at in range(0, len(body), 16384)]
        last = len(rest) - 1
        return self.head(stream, path, **more) + b"".join(
            frames.frame(Kind.DATA, END_STREAM if n == last else 0, stream, piece)
            for n, piece in enumerate(rest)
        )

    def next(self) -> Frame:
        """Return the next frame; EOFError after the last."""
        while True:
            size = int.from_bytes(self._received[:3], "big")
            if len(self._received) >= 9 + size:
                break
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._received += data
        _, _, kind, flags, stream = frames.FRAME_HEAD.unpack_from(self._received)
        frame = Frame(kind, flags, stream, self._received[9 : 9 + size])
        self._received = self._received[9 + size :]
        self.seen.append(frame)
        return frame

    def until(self, kind: Kind) -> Frame:
        """Return the next frame of a kind; others are passed over."""
        while (frame := self.next()).kind != kind:
            pass
        return frame

    def answer(self, stream: int) -> Answer:
        """Return the answer of a call, which is the next to be answered."""
        status, body, trailers, reset = None, b"", {}, None
        while True:
            frame = self.next()
            if frame.stream != stream:
                continue
            if frame.kind == Kind.RST_STREAM:
                reset = int.from_bytes(frame.payload, "big")
                break
            if frame.kind == Kind.DATA:
                body += frame.payload
            if frame.kind == Kind.HEADERS:
                fields = dict(self._decoder.decode(frame.payload))
                status = fields.pop(":status", status)
                trailers.update(fields)
            if frame.flags & END_STREAM:
                break
        messages = []
        while body:
            end = 5 + int.from_bytes(body[1:5], "big")
            messages.append(body[5:end])
            body = body[end:]
        return Answer(status, messages, trailers, reset)

    def fate(self) -> tuple[str, int] | str:
        """Return how the connection ends: with which GOAWAY, or just so."""
        try:
            frame = self.until(Kind.GOAWAY)
        except (EOFError, ConnectionError):
            return "closed"
        return "goaway", int.from_bytes(frame.payload[4:8], "big")
