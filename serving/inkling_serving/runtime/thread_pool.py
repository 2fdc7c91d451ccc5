"""The pool in which pictures are worked on, with a bounded queue in front of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from inkling.errors import DeadlineExceeded, Overloaded

__all__ = ["Work", "too_many"]

_T = TypeVar("_T")


def too_many(count: int) -> Overloaded:
    """Return the refusal of a request that finds so many before it."""
    return Overloaded(
        f"{count} requests are being worked on or waiting already. Try again in a "
        "second."
    )


class Work:
    """Runs calls in a few threads; what cannot be answered in time is refused at once.

    One for all protocols of a process, and for one event loop.
    """

    def __init__(
        self, threads: int, queue: int, queue_timeout_s: float = math.inf
    ) -> None:
        """Start.

        Args:
            threads: Calls that are made at once.
            queue: Calls that may wait for a thread.
            queue_timeout_s: How long one may wait, or half of what its caller allows,
                where that is known and more. Under more load than can be borne, a queue
                without this is full of calls whose callers have given up.
        """
        self._pool = ThreadPoolExecutor(threads, "inkling-work")
        self._limit = threads + queue
        self._queue_timeout_s = queue_timeout_s
        self._count = 0

    async def run(self, call: Callable[[], _T], timeout_s: float | None = None) -> _T:
        """Return what `call` returns.

        A caller that is cancelled gives its place away unless its call has begun.

        Args:
            call: Runs in a thread.
            timeout_s: A call that has not begun by then never does.

        Raises:
            Overloaded: Too many calls are waiting, or this one has waited too long.
            DeadlineExceeded: The time ran out before the call began.
        """
        if self._count >= self._limit:
            raise too_many(self._count)
        submitted = time.monotonic()
        deadline = None if timeout_s is None else submitted + timeout_s
        patience_s = max(self._queue_timeout_s, (timeout_s or 0) / 2)

        wanted = [call]

        def begin() -> _T:
            if time.monotonic() - submitted > patience_s:
                raise Overloaded(
                    f"The request has waited for {patience_s:g} s, and others wait "
                    "still. Try again in a second."
                )
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceeded(
                    "The time ran out while the request waited. Allow more, or send "
                    "less at once."
                )
            return wanted[0]()

        loop = asyncio.get_running_loop()
        self._count += 1
        future = self._pool.submit(begin)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # The pool keeps what was cancelled until a thread is free; the pictures in
            # it need not wait for that.
            if future.cancelled():
                wanted.clear()
            raise

    def close(self) -> None:
        """Wait for the calls that have begun."""
        self._pool.shutdown()

    def _done(self) -> None:
        self._count -= 1
