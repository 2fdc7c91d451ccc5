"""uvicorn's HTTP protocol with limits on the head of a request.

uvicorn does not limit the size of headers, their number or the time in which they
arrive, and it reads an upgrade request as a request without a body. Each method below
that overrides a method of uvicorn states the reason. A test fails if uvicorn changes
the methods.
"""

from __future__ import annotations

import asyncio
import json
import re
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["ENDING", "IS_HERE", "UNDER_WAY", "BoundedProtocol"]

# Keys in the state of a request's scope: the number of requests that this process has
# not answered, and whether the whole body of this request has arrived.
UNDER_WAY = "inkling.under_way"
IS_HERE = "inkling.is_here"
# A key in the state of all scopes: whether the server ends.
ENDING = "inkling.ending"

_MAX_HEAD_BYTES = 32 * 1024
_MAX_URL_BYTES = 16 * 1024
_MAX_HEADERS = 100
# The most chunks and trailers of one body. Chunks of one byte would cost more CPU time
# than any picture.
_MAX_PIECES = 100_000
# Requests of a connection that may wait for their turn. uvicorn reads on with each
# answer, and 8 MB of pipelined requests came to 600 MB of memory.
_MAX_PIPELINED = 256
_HEAD_TIMEOUT_S = 5.0
_LINGER_S = 0.5
_DISCARD_S = 1.0
_END = b"\r\n\r\n"
# This server does not upgrade; it may ignore the header (RFC 9110, section 7.8).
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n)", re.IGNORECASE)


class BoundedProtocol(HttpToolsProtocol):
    """Collects the head of a request, within limits, before the parser gets the head.

    Attributes:
        ending: Whether the next response is the last one of the connection.
    """

    # The status of the refusal, once a callback has stopped the parser.
    _why = HTTPStatus.BAD_REQUEST

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer for the first head, which uvicorn does not limit."""
        super().connection_made(transport)
        self._head = bytearray()
        self._in_head = True
        self.ending = False
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._await_head()
        if self.app_state.get(ENDING):
            self.shutdown()

    def shutdown(self) -> None:
        """Wait half a second for a request before an idle connection is closed.

        uvicorn closes the connection at once. A client that has just sent a request
        could not know then whether the server processed it.
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
        """Stop the timer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Collect a head up to the limits; uvicorn would parse a head of any size."""
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
        """Stop the timer, and keep the trailers apart from the headers.

        uvicorn adds the trailers of a body to the headers of its request.
        """
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise ValueError("another version of HTTP")
        if len(self.pipeline) == _MAX_PIPELINED:
            raise ValueError("too many requests at once")
        self._in_head = False
        self._stop_waiting()
        self.scope["headers"] = list(self.headers)
        super().on_headers_complete()
        self.scope["state"][UNDER_WAY] = len(self.tasks)
        if self.ending:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Count the pieces of a body, which uvicorn does not limit."""
        self._count_piece()
        super().on_body(body)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the headers, which uvicorn does not limit, and drop trailers."""
        if not self._in_head:
            self._count_piece()
            return
        if len(self.headers) == _MAX_HEADERS:
            # `data_received` sees only the first head in a piece of data.
            self._why = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_message_begin(self) -> None:
        """Reset the count; one piece of data may end a request and begin the next."""
        self._in_head, self._pieces = True, 0
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Tell the application that the body is complete, and wait for a head."""
        super().on_message_complete()
        self.scope["state"][IS_HERE] = True
        self._in_head = True

    def _unsupported_upgrade_warning(self) -> None:
        """Answer this request, and no more: the parser has dropped what follows it.

        A head that comes in one piece with another request may still ask for an
        upgrade. Its body would be taken for the next request.
        """
        self._refuse(HTTPStatus.BAD_REQUEST)

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
        """Refuse a request that was not parsed, and close the connection."""
        self._stop_waiting()
        if self._is_answering():
            # Responses keep the order of the requests, so the response to the earlier
            # request is the last one of the connection.
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
        # If the server closed the connection while the client sends, the client would
        # see a reset and not the response. So the server reads and drops data at first.
        self._refused = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(_DISCARD_S, self.transport.close)
        else:
            self.transport.close()

    def _is_answering(self) -> bool:
        """Return whether an earlier, complete request waits for its response."""
        cycle = self.cycle
        return not (cycle is None or cycle.response_complete or cycle.more_body)

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP with JSON; uvicorn would answer with text."""
        del msg
        self._refuse(self._why)


def _is_hopeless(head: bytearray) -> bool:
    """Return whether these bytes cannot become a request, whatever bytes follow."""
    return not head[:1].isalpha() or b"\n\n" in head


def _refusal(head: bytes) -> HTTPStatus | None:
    """Return the status that refuses a whole head, or None for an accepted head."""
    if len(head) > _MAX_HEAD_BYTES:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    if head.find(b"\r\n") > _MAX_URL_BYTES:
        return HTTPStatus.REQUEST_URI_TOO_LONG
    if head.count(b"\r\n") > _MAX_HEADERS + 2:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    return None
