"""uvicorn's HTTP protocol with limits on the head of a request.

uvicorn limits neither the size nor the number of headers nor the time that they take,
and reads a request to upgrade the protocol as one without a body. A test fails where
the methods of uvicorn change that are overridden here.
"""

from __future__ import annotations

import asyncio
import json
import re
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["IS_HERE", "UNDER_WAY", "BoundedProtocol"]

# Keys in the state of a request's scope: the number of requests that this process has
# not answered, and whether the whole body of this one has arrived.
UNDER_WAY = "inkling.under_way"
IS_HERE = "inkling.is_here"

_MAX_HEAD_BYTES = 32 * 1024
_MAX_URL_BYTES = 16 * 1024
_MAX_HEADERS = 100
# Pieces of one body, most of them chunks, and trailers: of a byte each, they would cost
# more than any picture.
_MAX_PIECES = 100_000
_HEAD_TIMEOUT_S = 5.0
_LINGER_S = 0.5
_DISCARD_S = 1.0
_END = b"\r\n\r\n"
# Upgrades are not offered; a server may ignore the wish (RFC 9110, section 7.8).
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)


class BoundedProtocol(HttpToolsProtocol):
    """Collects the head of a request, within bounds, before it is parsed.

    Attributes:
        ending: Whether each answer is the connection's last.
    """

    # Why what follows is refused, where the parser is told to stop.
    _why = HTTPStatus.BAD_REQUEST

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._head = bytearray()
        self._in_head = True
        self.ending = False
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._await_head()
        if getattr(self.server_state, "ending", False):
            self.shutdown()

    def shutdown(self) -> None:
        """Answer what is under way and what a kept connection sends at this moment.

        A client that has just sent a request on it could not tell whether it was
        worked on, had the connection been closed under it.
        """
        if self.cycle is None or self.cycle.response_complete:
            self.ending = True
            self.loop.call_later(_LINGER_S, self._close_if_idle)
        else:
            super().shutdown()

    def _close_if_idle(self) -> None:
        answered = self.cycle is None or self.cycle.response_complete
        if answered and self._in_head and not self._head:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Collect what belongs to a head; hand on everything else."""
        if self._refused:
            return
        if not self._in_head:
            super().data_received(data)
            return
        self._unset_keepalive_if_required()
        self._head += data
        end = self._head.find(_END)
        if end < 0 and not _is_hopeless(self._head):
            if len(self._head) > _MAX_HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            elif self._deadline is None:
                self._await_head()
            return
        received, self._head = bytes(self._head), bytearray()
        head, rest = received[: end + len(_END)], received[end + len(_END) :]
        status = _refusal(head)
        if status is not None:
            self._refuse(status)
            return
        super().data_received(_UPGRADE.sub(b"", head) + rest)

    def on_headers_complete(self) -> None:
        """The body follows, if there is one."""
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError("another version of HTTP")
        self._in_head = False
        self._stop_waiting()
        # A list of its own: trailers, which come after the body, are no headers.
        self.scope["headers"] = list(self.headers)
        super().on_headers_complete()
        self.scope["state"][UNDER_WAY] = len(self.tasks)
        if self.ending:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Hand on a piece of the body."""
        self._count_piece()
        super().on_body(body)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the body is not looked at."""
        if not self._in_head:
            self._count_piece()
            return
        if len(self.headers) == _MAX_HEADERS:
            # Heads that follow another request in one piece come here uncounted.
            self._why = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_message_begin(self) -> None:
        """A request begins, perhaps in the same piece as the end of the one before."""
        self._in_head, self._pieces = True, 0
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Wait for the next head; the application need not wait for this body."""
        super().on_message_complete()
        self.scope["state"][IS_HERE] = True
        self._in_head = True

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
        if self._head:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer without a request, in the form of all errors, and hang up."""
        self._stop_waiting()
        if self._is_answering():
            # Answers keep the order of the requests; that one is the last.
            self._refused = True
            self.cycle.keep_alive = False
            return
        message = f"{status.phrase}. The connection is closed."
        body: dict[str, Any] = {
            "error": {"code": "invalid_request", "message": message, "request_id": ""}
        }
        content = json.dumps(body).encode()
        self.transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(content)}\r\n"
            "connection: close\r\n\r\n".encode()
            + content
        )
        # A client that is still sending would not see the answer, but a reset. So what
        # it sends is thrown away for a while.
        self._refused = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(_DISCARD_S, self.transport.close)
        else:
            self.transport.close()

    def _is_answering(self) -> bool:
        """Whether a request before, which arrived whole, waits for its answer."""
        cycle = self.cycle
        return not (cycle is None or cycle.response_complete or cycle.more_body)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        del msg  # uvicorn's words, in plain text
        self._refuse(self._why)


def _is_hopeless(head: bytearray) -> bool:
    """Whether these bytes can become no request, so that waiting is pointless."""
    return not head[:1].isalpha() or b"\n\n" in head


def _refusal(head: bytes) -> HTTPStatus | None:
    """Return why a whole head is refused; None where it is not."""
    if len(head) > _MAX_HEAD_BYTES:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    if head.find(b"\r\n") > _MAX_URL_BYTES:
        return HTTPStatus.REQUEST_URI_TOO_LONG
    if head.count(b"\r\n") > _MAX_HEADERS + 2:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return None
