# SPDX-License-Identifier: Apache-2.0
"""The bytes of requests that a process holds at once, over all connections.

Each request is limited in size, and so is the number of requests; the product of both
is more memory than a machine has. So all bodies and messages together have a limit. If
bytes come beyond it, the oldest request that has not arrived completely ends: it waits
for its client, and the others do not. The bytes of one address may have a limit, too.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from inkling.errors import Overloaded

__all__ = ["HeldBytes", "Holding"]

# The share of the limit for requests that have arrived. The rest stays free for
# requests that arrive, so that small ones are answered beside a full queue.
_ARRIVED_SHARE = 0.75
# A request with at most so many bytes may use the rest, too.
_SMALL_BYTES = 64 * 1024


class HeldBytes:
    """Counts the bytes of all requests of a process; any thread may use it."""

    def __init__(self, limit: int, limit_of_one: int | None = None) -> None:
        """Create the object.

        Args:
            limit: The number of bytes that may be held.
            limit_of_one: The number of bytes of one owner; None for no such limit.
        """
        self._limit = limit
        self._limit_of_one = limit_of_one
        self._arrived_limit = int(_ARRIVED_SHARE * limit)
        self._lock = threading.Lock()
        self._total = self._arrived = 0
        self._of: Counter[str] = Counter()
        # The requests that have not arrived completely, in the order of their begin.
        self._arriving: dict[Holding, None] = {}

    @property
    def limit(self) -> int:
        """The number of bytes that may be held."""
        return self._limit

    @property
    def has_shares(self) -> bool:
        """Whether the bytes of one owner have a limit."""
        return self._limit_of_one is not None

    @property
    def total(self) -> int:
        """The number of bytes that are held now."""
        return self._total

    def arriving(
        self, end: Callable[[], object] | None = None, owner: str = ""
    ) -> Holding:
        """Return the account of a request whose bytes arrive.

        Args:
            end: Ends the request, to make room for others. Any thread may call it. Set
                the attribute of the account if it is known later.
            owner: The address whose bytes have a limit of their own, or nothing.
        """
        return Holding(self, end, owner if self._limit_of_one is not None else "")

    def arrived(self, count: int, owner: str = "") -> Holding:
        """Return the account of a request that has arrived with `count` bytes.

        Raises:
            Overloaded: The process, or the owner, holds too many bytes.
        """
        found = self.arriving(None, owner)
        found.add(count)
        found.complete()
        return found

    def add(self, holding: Holding, count: int) -> None:
        """Count bytes that came; this may end older requests that have not arrived."""
        ended: list[Holding] = []
        with self._lock:
            if holding.end is not None and not holding.released:
                self._arriving.setdefault(holding)
            holding.count += count
            self._total += count
            self._of[holding.owner] += count
            while self._is_full(holding) and (oldest := self._oldest(holding)):
                self._forget(oldest)
                oldest.given_up = True
                ended.append(oldest)
            full = self._is_full(holding)
            if full:
                self._forget(holding)
        for one in ended:
            if one is not holding and one.end is not None:
                one.end()
        if full or holding.given_up:
            raise self._refusal()

    def _is_full(self, holding: Holding) -> bool:
        return self._total > self._limit or self._has_too_many(holding)

    def _has_too_many(self, holding: Holding) -> bool:
        most = self._limit_of_one
        return bool(holding.owner) and self._of[holding.owner] > (most or 0)

    def _oldest(self, holding: Holding) -> Holding | None:
        """Return the request that ends first, of one owner if it has too many bytes."""
        mine = self._has_too_many(holding)
        found = (
            one for one in self._arriving if not mine or one.owner == holding.owner
        )
        return next(found, None)

    def complete(self, holding: Holding) -> None:
        """Let a request that has arrived hold its bytes until `release`."""
        with self._lock:
            self._arriving.pop(holding, None)
            small = holding.count <= _SMALL_BYTES
            limit = self._limit if small else self._arrived_limit
            full = self._arrived + holding.count > limit
            # One request alone may take more than this share.
            if (full and self._arrived) or holding.given_up:
                self._forget(holding)
                raise self._refusal()
            self._arrived += holding.count
            holding.has_arrived = True

    def release(self, holding: Holding) -> None:
        """Count the bytes of a request no longer."""
        with self._lock:
            self._forget(holding)

    def _forget(self, holding: Holding) -> None:
        self._arriving.pop(holding, None)
        if holding.has_arrived:
            self._arrived -= holding.count
        self._total -= holding.count
        self._of[holding.owner] -= holding.count
        if not self._of[holding.owner]:
            del self._of[holding.owner]
        holding.count, holding.has_arrived, holding.released = 0, False, True

    def _refusal(self) -> Overloaded:
        return Overloaded(
            "The server holds as many bytes of requests as it may, of all or of "
            f"this address ({self._limit:,} in all). Try again in a second, or send "
            "smaller pictures."
        )


class Holding:
    """The bytes that one request holds.

    Attributes:
        count: The number of bytes.
        end: Ends the request; None for a request that has arrived.
        given_up: Whether the request was ended to make room for others.
        owner: The address whose bytes have a limit of their own, or nothing.
        has_arrived: Whether the request has arrived.
        released: Whether its bytes are no longer counted.
    """

    __slots__ = (
        *("_held", "count", "end", "owner"),
        *("given_up", "has_arrived", "released"),
    )

    def __init__(
        self, held: HeldBytes, end: Callable[[], object] | None, owner: str
    ) -> None:
        self._held = held
        self.count = 0
        self.end = end
        self.owner = owner
        self.given_up = self.has_arrived = self.released = False

    def add(self, count: int) -> None:
        """Count bytes that came.

        Raises:
            Overloaded: The process holds too many bytes; the request has to end.
        """
        self._held.add(self, count)

    def complete(self) -> None:
        """Say that the request has arrived; it will not be ended for others.

        Raises:
            Overloaded: Requests that have arrived hold too many bytes.
        """
        self._held.complete(self)

    def release(self) -> None:
        """Say that the bytes are held no longer."""
        self._held.release(self)
