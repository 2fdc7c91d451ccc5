"""The short way: a small classification, answered where its bytes are received.

What ASGI costs (a task, an event, a scope and two writes for each request) is half of
what a 28x28 sample costs. So a request that has arrived whole, and that the application
says it can answer at once, is answered from the parser's callback in one write. It is
the same handler with the same value; everything else goes the way of all requests.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from inkling_serving.http_api.protocol import GuardedProtocol

if TYPE_CHECKING:
    from inkling_serving.http_api.asgi_app import Head
    from inkling_serving.http_api.handlers import Response

__all__ = ["DirectProtocol"]

_MAX_BODY_BYTES = 16 * 1024
# Heads that a process remembers, and how long one may be.
_MAX_KNOWN = 1024
_MAX_KNOWN_BYTES = 1024
_END = b"\r\n\r\n"
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    for status in HTTPStatus
}
# A request with one of these is left to uvicorn, which knows what they ask of it.
_LEFT = frozenset({b"expect", b"transfer-encoding", b"upgrade"})


class DirectProtocol(GuardedProtocol):
    """A guarded protocol that answers some requests without ASGI."""

    # What has come of a body that may be answered directly; None in any other request.
    _direct: bytearray | None = None
    # The piece of the connection that is being looked at.
    _piece = b""
    _answered_s = 0.0

    def data_received(self, data: bytes) -> None:
        """Take what came; a request that is not whole now goes the common way."""
        if self._is_known(data):
            return
        self._piece = data
        super().data_received(data)
        self._piece = b""
        if self._direct is not None:
            self._go_the_common_way()

    def timeout_keep_alive_handler(self) -> None:
        """Close, unless there was an answer since this was asked for."""
        left_s = self._answered_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._close_later(left_s)
        else:
            super().timeout_keep_alive_handler()

    def _is_known(self, data: bytes) -> bool:
        """Answer a request whose head was answered before, without reading it anew.

        So it is with nearly all: a client says the same of each picture. What a head
        means depends on nothing but its bytes where no request is under way.
        """
        if self._head or not self._in_head or self._refused or self.ending:
            return False
        end = data.find(_END) + len(_END)
        head = self.app.known_heads.get(data[:end])
        if head is None or not self._is_free():
            return False
        body = data[end:]
        if len(body) != int(head.headers["content-length"]):
            return False
        response = self.app.answer_at_once(head, body)
        if response is None:
            return False
        self._stop_waiting()
        self._answer(response, keep=True)
        return True

    def on_headers_complete(self) -> None:
        """Look at the head; put off what may be answered directly."""
        if self._may_be_direct():
            self._direct = bytearray()
            self._head_is_there()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        if self._direct is None:
            super().on_body(body)
        else:
            self._direct += body

    def on_message_complete(self) -> None:
        """Answer, or let the application do so."""
        if self._direct is not None:
            body = bytes(self._direct)
            head = self.app.head_of(self.url, self.headers)
            response = head and self.app.answer_at_once(head, body)
            if response is not None:
                self._direct = None
                keep = self.parser.should_keep_alive() and not self.ending
                if keep:
                    self._remember(head, body)
                self._answer(response, keep)
                self._message_is_there()
                return
            self._go_the_common_way()
        super().on_message_complete()

    def _may_be_direct(self) -> bool:
        """Whether this is a small POST that has nothing before it to wait for."""
        if self.parser.get_method() != b"POST" or b":classify" not in self.url:
            return False
        if self.parser.get_http_version() != "1.1" or not self._is_free():
            return False
        length = -1
        for name, value in self.headers:
            if name in _LEFT:
                return False
            if name == b"content-length" and value.isdigit():
                length = int(value[:20])
        return 0 < length <= _MAX_BODY_BYTES

    def _is_free(self) -> bool:
        """Whether no request before has to be answered first."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and not self.transport.is_closing()

    def _remember(self, head: Head, body: bytes) -> None:
        """Know the head when it comes again, if it came at once with just its body."""
        size = len(self._piece) - len(body)
        if not 0 < size <= _MAX_KNOWN_BYTES or self._piece.find(_END) + 4 != size:
            return
        known = self.app.known_heads
        if len(known) >= _MAX_KNOWN:
            known.clear()
        known[self._piece[:size]] = head

    def _go_the_common_way(self) -> None:
        collected, self._direct = bytes(self._direct or b""), None
        super().on_headers_complete()
        if collected:
            super().on_body(collected)

    def _answer(self, response: Response, keep: bool) -> None:
        lines = [_STATUS_LINES[response.status]]
        for name, value in self.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        text = "".join(f"{k}: {v}\r\n" for k, v in response.headers.items())
        close = "" if keep else "connection: close\r\n"
        text += f"content-length: {len(response.body)}\r\n{close}\r\n"
        lines += (text.encode("latin-1"), response.body)
        self.transport.write(b"".join(lines))
        self.server_state.total_requests += 1
        if not keep:
            self.transport.close()
            return
        # One timer goes on over many answers: to set one takes as long as to count.
        self._answered_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._close_later(self.timeout_keep_alive)

    def _close_later(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )
