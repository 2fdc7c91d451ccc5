"""The threads that classify pictures, with a bounded queue in front of them."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeVar

from inkling.errors import DeadlineExceeded, Overloaded

__all__ = ["ThreadPool", "Threads", "too_many"]

_T = TypeVar("_T")


def too_many(count: int) -> Overloaded:
    """Return the refusal of a request that finds `count` requests before it."""
    return Overloaded(
        f"{count} requests are being answered or waiting already. Try again in a "
        "second."
    )


class Threads(ThreadPoolExecutor):
    """Threads that start when they are needed, or fewer where the system allows fewer.

    Where a container's limit of processes is reached, the executor of the standard
    library raises an error at each call. In grpcio that error ends the thread which
    takes the calls, and the port never answers again.
    """

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            # The call is in the queue already, and one of these threads takes it.
            if not self._threads:
                raise


class ThreadPool:
    """Runs calls in a few threads, and refuses at once a call that would wait too long.

    All protocols of a process share one pool. Any thread may call its methods.
    """

    def __init__(
        self, threads: int, queue: int, queue_timeout_s: float = math.inf
    ) -> None:
        """Make the pool; threads start when they are needed.

        Args:
            threads: The number of calls that run at once.
            queue: The number of calls that may wait for a thread.
            queue_timeout_s: The seconds that a call may wait for a thread; half of the
                time that its caller allows, where that is known and more. Without this
                limit, an overloaded queue is full of calls whose callers have given up.
        """
        self._pool = Threads(threads, "inkling-pool")
        self._limit = threads + queue
        self._queue_timeout_s = queue_timeout_s
        self._lock = threading.Lock()
        self._count = 0

    async def run(self, call: Callable[[], _T], timeout_s: float | None = None) -> _T:
        """Return the result of `call`, for a caller on an event loop.

        A caller that is cancelled takes its call out of the queue.

        Args:
            call: Runs in a thread.
            timeout_s: A call that has not begun after these seconds never runs.

        Raises:
            Overloaded: Too many calls are waiting, or this call has waited too long.
            DeadlineExceeded: The time ran out before the call began.
        """
        return await asyncio.wrap_future(self.submit(call, timeout_s))

    def call(
        self,
        call: Callable[[], _T],
        timeout_s: float | None,
        when_caller_leaves: Callable[[Callable[[], None]], bool],
    ) -> _T:
        """Return the result of `call`, for a caller in a thread of its own.

        Args:
            call: As for `run`.
            timeout_s: As for `run`.
            when_caller_leaves: Registers a function to call when the caller has left;
                returns False where the caller has left already.

        Raises:
            Overloaded: As for `run`.
            DeadlineExceeded: As for `run`, or the caller left before the call began.
        """
        future = self.submit(call, timeout_s)

        def cancel() -> None:
            future.cancel()

        if not when_caller_leaves(cancel):
            cancel()
        try:
            return future.result()
        except CancelledError:
            raise DeadlineExceeded("The caller has left.") from None

    def close(self) -> None:
        """Wait for the calls that have begun."""
        self._pool.shutdown()

    def submit(self, call: Callable[[], _T], timeout_s: float | None) -> Future[_T]:
        """Return the future of `call`; cancelling it takes the call out of the queue.

        Raises:
            Overloaded: Too many calls are waiting.
        """
        with self._lock:
            if self._count >= self._limit:
                raise too_many(self._count)
            self._count += 1
        submitted = time.monotonic()
        patience_s = max(self._queue_timeout_s, (timeout_s or 0) / 2)
        wanted = [call]

        def begin() -> _T:
            waited_s = time.monotonic() - submitted
            if waited_s > patience_s:
                raise Overloaded(
                    f"The request has waited for {patience_s:g} s, and others wait "
                    "still. Try again in a second."
                )
            if timeout_s is not None and waited_s >= timeout_s:
                raise DeadlineExceeded(
                    "The time ran out while the request waited. Allow more, or send "
                    "less at once."
                )
            return wanted[0]()

        def leave(future: Future[_T]) -> None:
            with self._lock:
                self._count -= 1
            if future.cancelled():
                # The executor keeps a cancelled call until a thread is free. The
                # pictures in the call need not stay in memory for so long.
                wanted.clear()

        future = self._pool.submit(begin)
        future.add_done_callback(leave)
        return future
