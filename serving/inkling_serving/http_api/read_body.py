# SPDX-License-Identifier: Apache-2.0
"""Reads the body of a request, within limits in size and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from inkling.errors import DeadlineExceeded, Overloaded, TooLarge

if TYPE_CHECKING:
    from inkling_serving.runtime.held_bytes import Holding

__all__ = ["ClientGone", "client_left", "read_body", "too_long"]

# The server reads and drops a body over the limit, for 2 s and up to 4 times the limit.
# A client that still sends does not read the response, and a connection that is closed
# with unread data may lose the response.
_DISCARD_TIMEOUT_S = 2.0
_DISCARD_LIMITS = 4
# Pieces of so many bytes are kept as they are, and joined once.
_PART_BYTES = 4096


def _slowest() -> Overloaded:
    return Overloaded(
        "The server has no room for more bodies, and this one had been arriving for "
        "the longest time. Try again in a second, or send a smaller picture."
    )


class ClientGone(Exception):
    """The client closed the connection before the end of the body."""


def too_long(max_bytes: int) -> TooLarge:
    """Return the error for a body over the limit."""
    return TooLarge(
        f"The body has more than {max_bytes:,} bytes. Send a smaller picture, or fewer."
    )


async def read_body(
    receive: Callable[[], Any],
    headers: Mapping[str, str],
    max_bytes: int,
    timeout_s: float,
    holding: Holding,
    is_here: bool = False,
) -> bytes:
    """Return the whole body.

    Args:
        receive: The function of ASGI that returns the next message.
        headers: The headers by their names in lower case.
        max_bytes: The most bytes of a body, independent of its Content-Length.
        timeout_s: The seconds in which the body must arrive.
        holding: Counts the bytes of a body that arrives in pieces. The caller releases
            it once it does not hold the body any longer.
        is_here: Whether the whole body has arrived, so that no timer is needed.

    Raises:
        TooLarge: The body has more bytes.
        DeadlineExceeded: The body took longer.
        Overloaded: The process holds too many bytes of bodies.
        ClientGone: The connection ended before the body.
    """
    if is_here:
        body = (await _message(receive)).get("body", b"")
        if len(body) > max_bytes:
            raise too_long(max_bytes)
        return bytes(body)
    announced = headers.get("content-length", "0")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        # A client that sent `Expect` sends its body only after an interim response.
        if "expect" not in headers:
            await _discard(_pieces(receive), max_bytes)
        raise too_long(max_bytes)
    return await _read(_pieces(receive), max_bytes, timeout_s, holding)


async def client_left(receive: Callable[[], Any]) -> None:
    """Return once the connection of a request, whose body was read, has ended."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(
    pieces: AsyncIterator[bytes], max_bytes: int, timeout_s: float, holding: Holding
) -> bytes:
    parts: list[bytes | bytearray] = []
    count = 0
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            holding.end = _ending(deadline)
            async for piece in pieces:
                holding.add(len(piece))
                _keep(parts, piece)
                count += len(piece)
                if count > max_bytes:
                    break
            else:
                holding.complete()
    except TimeoutError:
        if holding.given_up:
            raise _slowest() from None
        raise DeadlineExceeded(
            f"The body did not arrive within {timeout_s:g} s. Send it faster, or send "
            "fewer pictures in a request."
        ) from None
    if count > max_bytes:
        parts.clear()
        holding.release()
        await _discard(pieces, max_bytes)
        raise too_long(max_bytes)
    return b"".join(parts)


def _keep(parts: list[bytes | bytearray], piece: bytes) -> None:
    """Add a piece of a body: small ones to the last part, so that parts are few."""
    if len(piece) >= _PART_BYTES:
        parts.append(piece)
    elif parts and isinstance(parts[-1], bytearray):
        parts[-1] += piece
    else:
        parts.append(bytearray(piece))


def _ending(deadline: asyncio.Timeout) -> Callable[[], object]:
    """Return a function that ends the time of a body, for any thread."""
    loop = asyncio.get_running_loop()

    def end() -> None:
        if not deadline.expired():
            deadline.reschedule(loop.time())

    def end_on_loop() -> None:
        # The body may be complete when the loop comes to this.
        with suppress(RuntimeError):
            end()

    return lambda: loop.call_soon_threadsafe(end_on_loop)


async def _discard(pieces: AsyncIterator[bytes], max_bytes: int) -> None:
    left = _DISCARD_LIMITS * max_bytes
    try:
        async with asyncio.timeout(_DISCARD_TIMEOUT_S):
            async for piece in pieces:
                left -= len(piece)
                if left < 0:
                    return
    except TimeoutError:
        return


async def _pieces(receive: Callable[[], Any]) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await _message(receive)
        more = message.get("more_body", False)
        yield message.get("body", b"")


async def _message(receive: Callable[[], Any]) -> MutableMapping[str, Any]:
    message: MutableMapping[str, Any] = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    return message
