# SPDX-License-Identifier: Apache-2.0
"""Bodies within limits of size and time, whatever they announce."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from inkling.errors import DeadlineExceeded, TooLarge
from inkling_serving.http_api.read_body import ClientGone, client_left, read_body
from inkling_serving.runtime.held_bytes import HeldBytes
from tests.support.machine import within

_LIMIT = 100
_GONE: dict[str, Any] = {"type": "http.disconnect"}


def _piece(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


class _Receiving:
    """ASGI's `receive`: hands over messages, with pauses, and then waits forever."""

    def __init__(self, *messages: dict[str, Any], pause_s: float = 0.0) -> None:
        self.left = list(messages)
        self._pause_s = pause_s

    async def __call__(self) -> dict[str, Any]:
        await asyncio.sleep(self._pause_s)
        if not self.left:
            await asyncio.sleep(60)
        return self.left.pop(0)


def _read(
    receive: Callable[[], Any],
    timeout_s: float = 5.0,
    limit: int = _LIMIT,
    is_here: bool = False,
    **headers: str,
) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    holding = HeldBytes(10 * limit).arriving()
    return asyncio.run(read_body(receive, named, limit, timeout_s, holding, is_here))


def _pieces(*sizes: int) -> Iterable[dict[str, Any]]:
    for place, size in enumerate(sizes, 1):
        yield _piece(b"x" * size, more=place < len(sizes))


@pytest.mark.parametrize("sizes", [(100,), (50, 50), (1,) * 100, (99, 0, 1), (0,)])
def test_pieces_are_put_together(sizes: tuple[int, ...]) -> None:
    """A body of the limit is read, in however many pieces it comes."""
    assert sum(sizes) == len(_read(_Receiving(*_pieces(*sizes))))


def test_large_pieces_are_not_copied_and_small_ones_keep_their_place() -> None:
    """One large piece is the body itself; between large ones, small ones are in order."""
    large = [bytes([byte]) * 5000 for byte in b"abc"]
    pieces = [b"1", b"2", large[0], b"3", b"", b"4", large[1], large[2], b"5"]
    messages = [_piece(piece) for piece in pieces]

    assert b"".join(pieces) == _read(
        _Receiving(*messages, _piece(b"", False)), 5, 20_000
    )
    assert _read(_Receiving(_piece(large[0], False)), 5, 20_000) is large[0]


@pytest.mark.parametrize("sizes", [(101,), (50, 51), (100, 1), (1,) * 101])
@pytest.mark.parametrize("announced", [{}, {"content_length": "5"}])
def test_one_byte_more_is_too_large(
    sizes: tuple[int, ...], announced: dict[str, str]
) -> None:
    """Whatever the length says; all of it is read, so that the answer is seen."""
    receive = _Receiving(*_pieces(*sizes))

    with pytest.raises(TooLarge, match="100 bytes"):
        _read(receive, **announced)
    assert not receive.left


def test_a_body_that_is_here_is_taken_at_once() -> None:
    """One message holds all of it; the limit holds as well."""
    assert b"hello" == _read(_Receiving(_piece(b"hello", more=False)), is_here=True)
    with pytest.raises(TooLarge):
        _read(_Receiving(_piece(b"x" * 101, more=False)), is_here=True)
    with pytest.raises(ClientGone):
        _read(_Receiving(_GONE), is_here=True)


@pytest.mark.parametrize("length", ["101", "9" * 400, "0" * 19 + "9" * 20])
def test_a_length_over_the_limit_is_refused_unread(length: str) -> None:
    """What comes is thrown away, and nothing is kept."""
    receive = _Receiving(*_pieces(100, 100, 100))

    with pytest.raises(TooLarge):
        _read(receive, content_length=length)
    assert not receive.left


def test_who_asks_first_is_told_at_once() -> None:
    """A client that waits for 100 Continue sends nothing, so nothing is waited for."""
    receive = _Receiving(*_pieces(100, 100))
    started = time.monotonic()
    with pytest.raises(TooLarge):
        _read(receive, content_length="101", expect="100-continue")

    assert 2 == len(receive.left)
    within(time.monotonic() - started, 0.5)


@pytest.mark.parametrize("length", ["-5", "five", "", "1e3", "0x10"])
def test_a_length_that_is_no_number_says_nothing(length: str) -> None:
    """The server has refused such heads; here the bytes themselves count."""
    assert b"xx" == _read(_Receiving(*_pieces(1, 1)), content_length=length)


def test_drips_do_not_prolong_the_time() -> None:
    """The time is for the whole body, not for each piece."""
    receive = _Receiving(*(_piece(b"x") for _ in range(90)), pause_s=0.05)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"0\.3 s"):
        _read(receive, timeout_s=0.3)

    assert time.monotonic() - started >= 0.3
    within(time.monotonic() - started, 1)


def test_what_is_thrown_away_is_bounded() -> None:
    """Of an endless body at most four times the limit is read, for at most two seconds."""
    quick = _Receiving(*(_piece(b"x" * 50) for _ in range(1000)))
    with pytest.raises(TooLarge):
        _read(quick)
    silent = _Receiving(_piece(b"x" * 101))
    started = time.monotonic()
    with pytest.raises(TooLarge):
        _read(silent)

    read = 1000 - len(quick.left)
    assert read * 50 <= 6 * _LIMIT
    assert time.monotonic() - started >= 1.9
    within(time.monotonic() - started, 3)


@pytest.mark.parametrize("before", [0, 2])
def test_a_client_that_leaves_is_not_answered(before: int) -> None:
    """Before the body or in the middle of it."""
    with pytest.raises(ClientGone):
        _read(_Receiving(*[_piece(b"x")] * before, _GONE))


def test_leaving_later_is_noticed() -> None:
    """Only the end of the connection counts, not an empty message before it."""
    asyncio.run(client_left(_Receiving(_piece(b"", more=False), _GONE)))
