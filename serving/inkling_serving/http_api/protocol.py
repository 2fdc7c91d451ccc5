# SPDX-License-Identifier: Apache-2.0
"""uvicorn's HTTP protocol, with limits on everything that a client can hold open.

uvicorn does not limit the size of headers, their number or the time in which they
arrive, the requests that wait behind another one, or the time in which a client takes
an answer, and it reads an upgrade request as a request without a body. This class gives
the parser one whole head at a time, and the next one after the answer. What came early
stays as bytes; beyond a limit, the kernel keeps it. Each override states its reason.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from inkling.errors import Overloaded
from inkling_serving.http_api.connections import LONG_BYTES
from inkling_serving.http_api.flow import Flow
from inkling_serving.http_api.half_closed import watch_half_closed
from inkling_serving.http_api.request_head import (
    END,
    MAX_BYTES,
    cannot_begin,
    chunked_count,
    refusal,
    refusing,
    without_upgrade,
)

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from inkling_serving.http_api.connections import Connections
    from inkling_serving.runtime.held_bytes import Holding

__all__ = ["ENDING", "IS_HERE", "UNDER_WAY", "BoundedProtocol"]

# Keys in the state of a request's scope: the number of requests that have arrived and
# are not answered, and whether the whole body of this request has arrived.
UNDER_WAY = "inkling.under_way"
IS_HERE = "inkling.is_here"
# A key in the state of all scopes: whether the server ends.
ENDING = "inkling.ending"

# The most chunks and trailers of one body. Chunks of one byte would cost more CPU time
# than any picture.
_MAX_PIECES = 100_000
# The most pieces of a body before other connections have a turn.
_PIECES_OF_TURN = 500
# Bytes of later requests that are read while an answer is made. The server reads on up
# to here, because it notices only then that a client has left.
_MAX_EARLY_BYTES = 64 * 1024
_HEAD_TIMEOUT_S = 5.0
_LINGER_S, _DISCARD_S = 0.5, 1.0


class BoundedProtocol(HttpToolsProtocol):
    """Gives the parser one request at a time, within limits in size and time.

    Attributes:
        ending: Whether the next response is the last one of the connection.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        others: Connections,
    ) -> None:
        """Create the protocol; `others` knows all connections of the process."""
        super().__init__(config, server_state, app_state, _loop)
        self._others = others
        self._early: Holding | None = None
        # The bytes that the parser has not got.
        self._received = bytearray()
        # The bytes of the body that are missing; None for a chunked body.
        self._missing: int | None = 0
        self._tail = b""
        self._in_head, self._half_closed, self._refused = True, False, False
        self._resting, self._pieces = False, 0
        self._deadline: asyncio.TimerHandle | None = None
        self.ending = False

    @property
    def idle(self) -> bool:
        """Whether the connection has no request, not even the first byte of one."""
        return not (self._is_busy() or self._received)

    @property
    def in_head(self) -> bool:
        """Whether the head of a request arrives, and no answer is being made."""
        return not self._is_busy() and bool(self._received)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first head; refuse a connection beyond the limit."""
        super().connection_made(transport)
        last = bool(self.app_state.get(ENDING))
        answered = partial(self._others.ready.discard, self)
        self.flow: Flow = Flow(transport, self.loop, last, answered)
        self._others.add(self)
        self._await_head()
        if last:
            self.shutdown()

    def shutdown(self) -> None:
        """Wait half a second for a request before an idle connection is closed.

        uvicorn closes the connection at once. A client that has just sent a request
        could not know then whether the server processed it.
        """
        self.flow.last = True
        if self._is_busy():
            super().shutdown()
        else:
            self.ending = True
            self.loop.call_later(_LINGER_S, self._close_if_idle)
        if self.flow.write_paused:
            self.flow.limit_taking()

    def _close_if_idle(self) -> None:
        if self.idle:
            self.close()

    def close(self) -> None:
        """Close the connection once its client has taken all that was written."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.flow.limit_taking()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and free the bytes that came early."""
        self._stop_waiting()
        self._forget_early()
        self._others.discard(self)
        super().connection_lost(exc)
        self.flow.stop()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer a client that sends no more; to uvicorn, it has left."""
        if not self._is_busy() or not self._in_head:
            return None
        if not self._half_closed:
            self._half_closed = True
            watch_half_closed(self.loop, self.transport, self.cycle)
        return self.scheme != "https"  # asyncio knows no such answer over TLS

    def data_received(self, data: bytes) -> None:
        """Collect a head up to the limits; uvicorn would parse a head of any size."""
        if self._refused:
            return
        if self._missing is None or self._in_head or self._received:
            self._received += data
        elif len(data) <= self._missing:
            # Most bytes of a body come this way, without a copy.
            self._missing -= len(data)
            super().data_received(data)
            return
        else:
            self._received += data
        self._go_on()

    def _go_on(self, rested: bool = False) -> None:
        """Give the parser the bytes of the request whose turn it is."""
        if self._resting and not rested:
            return
        self._resting = False
        self._feed()
        too_many = len(self._received) > _MAX_EARLY_BYTES
        if self.flow.full and not (too_many or self._resting):
            self.flow.full = False
            self.flow.resume_reading()

    def _feed(self) -> None:
        fed, began = 0, self._pieces
        while self._received and not self._refused and not self.transport.is_closing():
            if self._in_head and self._is_busy():
                self._keep_early()
                return
            if max(fed, self._pieces - began) > _PIECES_OF_TURN:
                self._rest()
                return
            if not (self._feed_head() if self._in_head else self._feed_body()):
                return
            fed += 1

    def _rest(self) -> None:
        """Go on in the next turn of the loop; the others have this one."""
        self._resting = self.flow.full = True
        self.flow.pause_reading()
        self.loop.call_soon(self._go_on, True)

    def _feed_head(self) -> bool:
        """Give the parser a whole head; return False if there is none."""
        received = self._received
        # Empty lines before a request (RFC 9112, section 2.2) begin no request, so
        # they leave the timers alone.
        if received[0] in b"\r\n":
            del received[: len(received) - len(received.lstrip(b"\r\n"))]
        if not received:
            return False
        self._unset_keepalive_if_required()
        end = received.find(END)
        if end < 0:
            self._check_start()
            return False
        head = bytes(received[: end + len(END)])
        del received[: len(head)]
        status = refusal(head)
        if status is not None:
            self.refuse(status)
            return False
        super().data_received(without_upgrade(head))
        return True

    def _check_start(self) -> None:
        """Check the first bytes of a head; wait for the others a limited time."""
        if cannot_begin(self._received):
            self.refuse(HTTPStatus.BAD_REQUEST)
        elif len(self._received) > MAX_BYTES:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._deadline is None:
            self._await_head()

    def _feed_body(self) -> bool:
        """Give the parser bytes of the body, and none of the next request."""
        count = self._missing
        if count is None:
            count = chunked_count(self._tail, self._received)
        if not count:
            self.refuse(HTTPStatus.BAD_REQUEST)
            return False
        piece = bytes(self._received[:count])
        del self._received[: len(piece)]
        if self._missing is not None:
            self._missing -= len(piece)
        self._tail = (self._tail + piece[-3:])[-3:]
        super().data_received(piece)
        return True

    def _keep_early(self) -> None:
        """Keep the bytes that came before their turn, up to the limits."""
        if self._early is None:
            end = partial(self.loop.call_soon_threadsafe, self.transport.abort)
            self._early = self._others.held.arriving(end, self._others.owner(self))
        try:
            self._early.add(len(self._received) - self._early.count)
        except Overloaded:
            self.transport.abort()
            return
        if len(self._received) > _MAX_EARLY_BYTES:
            self.flow.full = True
            self.flow.pause_reading()

    def _forget_early(self) -> None:
        if self._early is not None:
            self._early.release()
            self._early = None

    def on_headers_complete(self) -> None:
        """Stop the timer, and keep the trailers apart from the headers.

        uvicorn adds the trailers of a body to the headers of its request.
        """
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError("another version of HTTP")
        self._in_head = False
        self._stop_waiting()
        headers = dict(self.headers)
        # The parser refuses a request with both.
        chunked = b"transfer-encoding" in headers
        self._missing = None if chunked else int(headers.get(b"content-length", 0))
        if self._missing is None or self._missing > LONG_BYTES:
            self._others.long.begin(self)
        self.flow.begin_body(0 if self._missing is None else self._missing)
        self._tail = b""
        self.scope["headers"] = list(self.headers)
        super().on_headers_complete()
        self._others.moved(self)
        if self.ending:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Count the pieces of a body, which uvicorn does not limit."""
        self._count_piece()
        self.flow.body_bytes += len(body)
        if self._missing is not None and not self.cycle.body:
            # Nothing and these bytes are these bytes, without a copy.
            self.cycle.body = b""  # type: ignore[assignment]
        super().on_body(body)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Drop trailers, and count them."""
        if self._in_head:
            super().on_header(name, value)
        else:
            self._count_piece()

    def on_message_begin(self) -> None:
        """Reset the count."""
        self._pieces = 0
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Tell the application that the body is complete, and wait for a head."""
        super().on_message_complete()
        self._others.long.end(self)
        self.flow.end_body()
        self._others.ready.add(self)
        state = self.scope["state"]
        state[IS_HERE], state[UNDER_WAY] = True, len(self._others.ready)
        self._in_head = True

    def on_response_complete(self) -> None:
        """Begin with the next request; limit the time in which the answer is taken."""
        super().on_response_complete()
        self._others.ready.discard(self)
        self._others.moved(self)
        if self.transport.is_closing():
            self.close()
            return
        if self._received:
            self._forget_early()
            self.loop.call_soon(self._go_on)
        if self._half_closed:
            self.loop.call_soon(self._close_if_idle)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also if its client takes no answer."""
        self.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Answer this request, and no more: the parser has dropped what follows it.

        For `CONNECT`, the parser hands the connection over.
        """
        self.refuse(HTTPStatus.BAD_REQUEST)

    def _count_piece(self) -> None:
        self._pieces += 1
        if self._pieces > _MAX_PIECES:
            raise ValueError("too many pieces")

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(_HEAD_TIMEOUT_S, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _head_is_late(self) -> None:
        if self._received:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.close()

    def refuse(self, status: HTTPStatus) -> None:
        """Refuse a request that was not parsed, and close the connection."""
        self._stop_waiting()
        self._refused = True
        self._received.clear()
        if self._is_busy():
            if not self.cycle.more_body:
                # Responses keep the order of the requests, so the response to the
                # earlier request is the last one of the connection.
                self.cycle.keep_alive = False
                return
            self.cycle.disconnected = True  # uvicorn's word for: nothing follows
            self.cycle.message_event.set()
        self.transport.write(refusing(status))
        # If the server closed the connection while the client sends, the client would
        # see a reset and not the response. So the server reads and drops data at first.
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(_DISCARD_S, self.close)
        else:
            self.close()

    def _is_busy(self) -> bool:
        """Return whether a request has no complete response."""
        return not (self.cycle is None or self.cycle.response_complete)

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP with JSON; uvicorn would answer with text."""
        del msg
        self.refuse(HTTPStatus.BAD_REQUEST)
