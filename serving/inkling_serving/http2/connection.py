"""One connection of a gRPC client: its frames, its limits, and its end.

It is bounded in everything that a client decides: the size and the number of headers,
messages and streams, the time for the greeting and for a request, what waits to be
sent, and frames that ask for nothing but an answer. A small unary call whose handler
answers at once is done within the callback that received it, in one write.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, MutableSet

from inkling_serving.http2 import frames
from inkling_serving.http2.answering import RECEIVE_WINDOW, Options
from inkling_serving.http2.frames import (
    ACK,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEAD,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITISED,
    ConnectionFault,
    Fault,
    Kind,
    Setting,
    StreamFault,
)
from inkling_serving.http2.heads import MAX_LIST_BYTES, Heads
from inkling_serving.http2.lifeline import LINGER_S, Lifeline

__all__ = ["Connection"]

_MAX_STREAMS = 1024
_MAX_FRAME = 65_536
_MAX_BLOCK_BYTES = 128 * 1024
_CONNECTION_WINDOW = 16 << 20
# Frames that carry nothing: so many at once, then so many a second, and some for each
# time that we send something of a call. grpc-go pings after each answer.
_MAX_EMPTY_FRAMES = 1000
_EMPTY_FRAMES_PER_S = 100.0
_FORGIVEN_PER_ANSWER = 3.0
_MAX_SETTINGS = 64
_DEFAULT_TABLE_SIZE = 4096
_GOODBYE = b"inkling."
_LEAVING = frames.goaway(MAX_WINDOW, Fault.NO_ERROR) + frames.frame(
    Kind.PING, 0, 0, _GOODBYE
)
_WELCOME = frames.settings(
    {
        Setting.MAX_CONCURRENT_STREAMS: _MAX_STREAMS,
        Setting.INITIAL_WINDOW_SIZE: RECEIVE_WINDOW,
        Setting.MAX_FRAME_SIZE: _MAX_FRAME,
        Setting.MAX_HEADER_LIST_SIZE: MAX_LIST_BYTES,
    }
) + frames.window_update(0, _CONNECTION_WINDOW - DEFAULT_WINDOW)
_HTTP_1 = (b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"DELETE ", b"PATCH ")
_NO_GRPC = b"This port speaks gRPC, which is HTTP/2; HTTP/1 is on the other port.\n"
_PAIR = struct.Struct(">HI")


class Connection(Lifeline):
    """One connection, from its greeting to its end."""

    def __init__(self, options: Options, connections: MutableSet[Connection]) -> None:
        """Take what is answered, and the set to be in while there is a connection."""
        super().__init__(options, connections)
        self._heads = Heads(options.admit)
        # What has come of a frame, and how much must have come to look at it again.
        self._rest, self._needed = bytearray(), len(PREFACE)
        self._greeted = self._agreed = self._ending = False
        # The last stream that was begun, and after the end the last that may be.
        self._last, self._limit = 0, MAX_WINDOW
        # The block of headers that is not whole yet, its stream, and END_STREAM.
        self._block: bytearray | None = None
        self._block_of, self._block_flags = 0, 0
        self._receive_window = _CONNECTION_WINDOW
        self._empty, self._empty_at = 0.0, 0.0

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._over or self._transport.is_closing():
            return
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
        try:
            read = self._read(data)
        except ConnectionFault as fault:
            self._fail(fault)
            return
        self._rest = bytearray(data[read:]) if read < len(data) else bytearray()
        self._calls.settle()

    # The end.

    def end(self) -> None:
        """Answer what is under way and take no more.

        The client is told first that this is the end, and which calls are too late only
        after it has acknowledged: so none is lost that was sent in between.
        """
        if self._ending or self._over:
            return
        self._ending = True
        if self._greeted:
            self._transport.write(_LEAVING)
        self._loop.call_later(LINGER_S, self._end_for_good)

    def _end_for_good(self) -> None:
        if self._limit < MAX_WINDOW or self._over:
            return
        self._limit = self._last
        if self._greeted:
            self._transport.write(frames.goaway(self._last, Fault.NO_ERROR))
        self._after_last()

    def _after_last(self) -> None:
        if self._limit < MAX_WINDOW and not len(self._calls) and not self._over:
            self._hang_up()

    def _fail(self, fault: ConnectionFault) -> None:
        self._over = True
        self._calls.cancel_all()
        if not self._greeted:
            self._drop()
            return
        last = min(self._last, self._limit)
        self._transport.write(frames.goaway(last, fault.fault, fault.words))
        self._hang_up()

    # Frames.

    def _read(self, data: bytes) -> int:
        """Take all frames that are whole; return how many bytes they are.

        Raises:
            ConnectionFault: There is one that no client may send.
        """
        at = 0 if self._greeted else self._greeting(data)
        if not self._greeted:
            return 0
        end, overhead = len(data), FRAME_HEAD.size
        self._needed = overhead
        # Answers that nobody takes are not made, either.
        while not (self._paused or self._over) and end - at >= overhead:
            high, low, kind, flags, stream = FRAME_HEAD.unpack_from(data, at)
            size = high << 16 | low
            if size > _MAX_FRAME:
                raise ConnectionFault(Fault.FRAME_SIZE_ERROR, "frame too long")
            after = at + overhead + size
            if after > end:
                self._needed = overhead + size
                break
            payload = data[at + overhead : after]
            at, stream = after, stream & MAX_WINDOW
            if self._block is not None or not self._agreed:
                self._check_order(kind, flags, stream)
            try:
                _HANDLERS.get(kind, Connection._nothing)(self, flags, stream, payload)
            except StreamFault as error:
                self._calls.cancel(stream)
                self._transport.write(frames.reset(stream, error.fault))
        return at

    def _greeting(self, data: bytes) -> int:
        if data.startswith(PREFACE):
            self._greeted = True
            self._transport.write(_WELCOME + (_LEAVING if self._ending else b""))
            return len(PREFACE)
        if not PREFACE.startswith(data):
            if data.startswith(_HTTP_1):
                self._transport.write(
                    b"HTTP/1.1 505 HTTP Version Not Supported\r\n"
                    b"content-type: text/plain\r\nconnection: close\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(_NO_GRPC), _NO_GRPC)
                )
            raise ConnectionFault(Fault.PROTOCOL_ERROR, "no HTTP/2")
        return 0

    def _check_order(self, kind: int, flags: int, stream: int) -> None:
        """Check that a frame may come now, where not all may.

        Raises:
            ConnectionFault: It may not.
        """
        if not self._agreed:
            if kind != Kind.SETTINGS or flags & ACK:
                raise ConnectionFault(Fault.PROTOCOL_ERROR, "settings come first")
            self._agreed = True
            self._stop_waiting()
        if self._block is not None and (
            kind != Kind.CONTINUATION or stream != self._block_of
        ):
            raise ConnectionFault(Fault.PROTOCOL_ERROR, "headers interrupted")

    def _headers(self, flags: int, stream: int, payload: bytes) -> None:
        if stream % 2 == 0:
            raise ConnectionFault(Fault.PROTOCOL_ERROR, "not a client's stream")
        block = frames.unpadded(payload, flags) if flags & PADDED else payload
        if flags & PRIORITISED:
            if len(block) < 5:
                raise ConnectionFault(Fault.FRAME_SIZE_ERROR, "headers too short")
            block = block[5:]
        if flags & END_HEADERS:
            self._block_is_whole(stream, block, bool(flags & END_STREAM))
        else:
            self._block = bytearray(block)
            self._block_of, self._block_flags = stream, flags

    def _continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(Fault.PROTOCOL_ERROR, "nothing to continue")
        self._count_empty()
        self._block += payload
        if len(self._block) > _MAX_BLOCK_BYTES:
            raise ConnectionFault(Fault.ENHANCE_YOUR_CALM, "too many headers")
        if flags & END_HEADERS:
            block, self._block = bytes(self._block), None
            self._block_is_whole(stream, block, bool(self._block_flags & END_STREAM))

    def _block_is_whole(self, stream: int, block: bytes, ended: bool) -> None:
        if stream <= self._last:
            # Trailers, which gRPC's clients do not send; or a call that has ended.
            self._heads.fields(block)
            if not ended:
                raise StreamFault(Fault.PROTOCOL_ERROR)
            self._calls.end_of_messages(stream)
            return
        self._last = stream
        head = self._heads.read(block)
        if stream > self._limit:
            return  # the client knows that it is not looked at
        if len(self._calls) >= _MAX_STREAMS:
            raise StreamFault(Fault.REFUSED_STREAM)
        self._calls.begin(stream, head, ended)

    def _data(self, flags: int, stream: int, payload: bytes) -> None:
        if stream == 0 or stream > self._last:
            self._check_known(stream)
        size, ended = len(payload), bool(flags & END_STREAM)
        self._receive_window -= size
        if self._receive_window < 0:
            raise ConnectionFault(Fault.FLOW_CONTROL_ERROR, "more than was allowed")
        if self._receive_window < _CONNECTION_WINDOW // 2:
            grant = _CONNECTION_WINDOW - self._receive_window
            self._receive_window = _CONNECTION_WINDOW
            self._transport.write(frames.window_update(0, grant))
        data = frames.unpadded(payload, flags) if flags & PADDED else payload
        if not data and not ended:
            self._count_empty()
        self._calls.data(stream, data, size, ended)

    def _reset(self, _: int, stream: int, payload: bytes) -> None:
        self._check_known(stream)
        _check_size(payload, 4)
        self._calls.cancel(stream)

    def _window_update(self, _: int, stream: int, payload: bytes) -> None:
        _check_size(payload, 4)
        size = int.from_bytes(payload, "big") & MAX_WINDOW
        if stream == 0:
            if size == 0:
                raise ConnectionFault(Fault.PROTOCOL_ERROR, "empty window update")
            self._calls.sending.widen(size)
            return
        self._check_known(stream)
        if size == 0:
            raise StreamFault(Fault.PROTOCOL_ERROR)
        self._calls.widen(stream, size)

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or (flags & ACK and payload):
            raise ConnectionFault(Fault.PROTOCOL_ERROR, "no such settings")
        if len(payload) % _PAIR.size:
            raise ConnectionFault(Fault.FRAME_SIZE_ERROR, "settings cut off")
        self._count_empty()
        if flags & ACK:
            return
        if len(payload) > _MAX_SETTINGS * _PAIR.size:
            raise ConnectionFault(Fault.ENHANCE_YOUR_CALM, "too many settings")
        for name, value in dict(_PAIR.iter_unpack(payload)).items():
            self._set(name, value)
        self._transport.write(frames.frame(Kind.SETTINGS, ACK, 0))

    def _set(self, name: int, value: int) -> None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise ConnectionFault(Fault.FLOW_CONTROL_ERROR, "window too wide")
            self._calls.resize(value)
        elif name == Setting.MAX_FRAME_SIZE:
            if not 1 << 14 <= value < 1 << 24:
                raise ConnectionFault(Fault.PROTOCOL_ERROR, "no such frame size")
            self._calls.sending.max_frame = value
        elif name == Setting.HEADER_TABLE_SIZE:
            if value < _DEFAULT_TABLE_SIZE:
                # That our table, which is empty, is small, too (RFC 7541, section 4.2).
                self._calls.sending.first = b"\x20"
        elif name == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFault(Fault.PROTOCOL_ERROR, "no such setting")

    def _ping(self, flags: int, stream: int, payload: bytes) -> None:
        _check_size(payload, 8)
        if stream:
            raise ConnectionFault(Fault.PROTOCOL_ERROR, "a ping is nobody's")
        self._count_empty()
        if not flags & ACK:
            self._transport.write(frames.frame(Kind.PING, ACK, 0, payload))
        elif payload == _GOODBYE and self._ending:
            self._end_for_good()

    def _priority(self, _: int, stream: int, payload: bytes) -> None:
        _check_size(payload, 5)
        self._nothing(0, stream, payload)

    def _push_promise(self, *_: object) -> None:
        raise ConnectionFault(Fault.PROTOCOL_ERROR, "clients promise nothing")

    def _nothing(self, *_: object) -> None:
        """Pass over what need not be known, a client's own end among it."""
        self._count_empty()

    def _answer(self, data: bytes) -> None:
        """Send frames of a call; clients ping as often as they are answered."""
        if self._empty:
            self._empty = max(0.0, self._empty - _FORGIVEN_PER_ANSWER)
        self._transport.write(data)

    def _check_known(self, stream: int) -> None:
        if stream == 0 or stream > self._last:
            raise ConnectionFault(Fault.PROTOCOL_ERROR, "no such stream")

    def _count_empty(self) -> None:
        """Count a frame that carries nothing; too many of them are an attack."""
        now = self._loop.time()
        forgiven = (now - self._empty_at) * _EMPTY_FRAMES_PER_S
        self._empty, self._empty_at = max(0.0, self._empty - forgiven) + 1, now
        if self._empty > _MAX_EMPTY_FRAMES:
            raise ConnectionFault(Fault.ENHANCE_YOUR_CALM, "too many empty frames")


_HANDLERS: dict[int, Callable[[Connection, int, int, bytes], None]] = {
    Kind.DATA: Connection._data,
    Kind.HEADERS: Connection._headers,
    Kind.PRIORITY: Connection._priority,
    Kind.RST_STREAM: Connection._reset,
    Kind.SETTINGS: Connection._settings,
    Kind.PUSH_PROMISE: Connection._push_promise,
    Kind.PING: Connection._ping,
    Kind.WINDOW_UPDATE: Connection._window_update,
    Kind.CONTINUATION: Connection._continuation,
}


def _check_size(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise ConnectionFault(Fault.FRAME_SIZE_ERROR, "a frame of another size")
