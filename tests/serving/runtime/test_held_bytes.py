# SPDX-License-Identifier: Apache-2.0
"""The bytes of all requests of a process: who gets room, and who ends for it."""

from __future__ import annotations

import pytest

from inkling.errors import Overloaded
from inkling_serving.runtime.held_bytes import HeldBytes, Holding

_KIB = 1024


def _arriving(held: HeldBytes, ended: list[str], name: str, count: int) -> Holding:
    holding = held.arriving(lambda: ended.append(name))
    holding.add(count)
    return holding


def test_the_oldest_that_arrives_ends_for_others() -> None:
    """Beyond the limit, requests that have not arrived end in the order of their begin."""
    held, ended = HeldBytes(1000 * _KIB), list[str]()
    first = _arriving(held, ended, "first", 400 * _KIB)
    _arriving(held, ended, "second", 400 * _KIB)
    third = _arriving(held, ended, "third", 700 * _KIB)

    assert ["first", "second"] == ended
    assert 700 * _KIB == held.total
    assert (True, False) == (first.given_up, third.given_up)
    with pytest.raises(Overloaded):
        first.add(1)


def test_what_has_arrived_does_not_end_for_others() -> None:
    """A request that waits for its answer stays; what arrives beside it is refused."""
    held, ended = HeldBytes(1000 * _KIB), list[str]()
    stays = _arriving(held, ended, "stays", 700 * _KIB)
    stays.complete()
    with pytest.raises(Overloaded, match="as many bytes"):
        _arriving(held, ended, "large", 400 * _KIB)

    assert ([], 700 * _KIB) == (ended, held.total)
    stays.release()
    assert 0 == held.total


def test_small_requests_have_room_beside_large_ones() -> None:
    """Three quarters are for what has arrived, and the rest only for small requests."""
    held = HeldBytes(1000 * _KIB)
    large = held.arrived(740 * _KIB)
    with pytest.raises(Overloaded):
        held.arrived(100 * _KIB)
    small = held.arrived(50 * _KIB)

    assert 790 * _KIB == held.total
    small.release()
    large.release()
    large.release()
    assert 0 == held.total


def test_one_large_request_alone_is_let_in() -> None:
    """A request within the limit is not refused for its size while nothing else waits."""
    held = HeldBytes(1000 * _KIB)
    held.arrived(900 * _KIB).release()

    assert 0 == held.total


def test_a_request_that_was_ended_counts_no_more() -> None:
    """Its release and its completion change nothing."""
    held, ended = HeldBytes(1000 * _KIB), list[str]()
    first = _arriving(held, ended, "first", 600 * _KIB)
    second = _arriving(held, ended, "second", 600 * _KIB)
    with pytest.raises(Overloaded):
        first.complete()
    first.release()

    assert (["first"], 600 * _KIB) == (ended, held.total)
    second.release()
    assert 0 == held.total


def test_an_address_has_a_share_of_its_own() -> None:
    """Beyond its share, an address loses its own oldest request, and nobody else does."""
    held, ended = HeldBytes(1000 * _KIB, 300 * _KIB), list[str]()

    def begin(name: str, owner: str) -> Holding:
        return held.arriving(lambda: ended.append(name), owner)

    other, first, second = (
        begin("other", "a"),
        begin("first", "b"),
        begin("second", "b"),
    )
    other.add(200 * _KIB)
    first.add(200 * _KIB)
    second.add(200 * _KIB)
    assert ["first"] == ended
    arrived = held.arrived(200 * _KIB, "b")
    assert ["first", "second"] == ended
    with pytest.raises(Overloaded):
        held.arrived(200 * _KIB, "b")
    arrived.release()
    other.complete()

    assert 200 * _KIB == held.total
