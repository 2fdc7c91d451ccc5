# SPDX-License-Identifier: Apache-2.0
"""Tells a client that sends no more from a client that has left.

Over TCP both send the same, a FIN. A client that has left answers the next bytes with a
reset, so an answer that takes long is announced with an interim response. Over TLS a
client that sends no more says so with `close_notify`, and sends a FIN only when it
leaves.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

__all__ = ["watch_half_closed"]

# An answer that takes longer than these seconds may wait in the queue. The second value
# is the pause between two looks for the reset, which may take a while to come.
_LONGER_S, _LOOK_S = 0.05, 0.05
# Every client of HTTP/1.1 ignores it, also if it comes unexpectedly (RFC 9110, section
# 15.2).
_STILL_HERE = b"HTTP/1.1 100 Continue\r\n\r\n"


def watch_half_closed(
    loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, cycle: Any
) -> None:
    """Abort the connection if its client has left before the response begins.

    Over TLS, asyncio finds that out; here it is kept from ending the connection before.

    Args:
        loop: The event loop of the connection.
        transport: The connection, whose client sends no more.
        cycle: uvicorn's object for the request that waits for its response.
    """
    if transport.get_extra_info("sslcontext") is not None:
        _end_when_closed(transport)
        return

    def waits() -> bool:
        return not (cycle.response_started or transport.is_closing())

    def ask() -> None:
        if waits() and cycle.scope["http_version"] == "1.1":
            transport.write(_STILL_HERE)
            loop.call_later(_LOOK_S, look)

    def look() -> None:
        if not waits():
            return
        connection = transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            transport.abort()
        else:
            loop.call_later(_LOOK_S, look)

    loop.call_later(_LONGER_S, ask)


def _end_when_closed(transport: asyncio.Transport) -> None:
    """Let a connection with TLS end when the server closes it, and not before.

    asyncio answers `close_notify` with its own, and drops what the server writes from
    then on. TLS 1.3 lets a server go on (RFC 8446, section 6.1).
    """
    protocol: Any = getattr(transport, "_ssl_protocol", None)
    end = getattr(protocol, "_start_shutdown", None)
    if end is None:
        return

    def end_if_closed() -> None:
        if transport.is_closing():
            vars(protocol).pop("_start_shutdown", None)
            end()

    protocol._start_shutdown = end_if_closed  # there is no public way
