"""The threads that classify pictures, with a bounded queue."""

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
    """Return the error for a request that comes after `count` open requests."""
    return Overloaded(
        f"The server already answers or queues {count} requests. Try again in a second."
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
    """Runs calls in a few threads, and refuses a call at once if the queue is full.

    All protocols of a process share one pool. Any thread may call its methods.
    """

    def __init__(
        self, threads: int, queue: int, queue_timeout_s: float = math.inf
    ) -> None:
        """Create the pool; threads start when they are needed.

        Args:
            threads: The number of calls that run at once.
            queue: The number of calls that may wait for a thread.
            queue_timeout_s: The seconds that a call may wait for a thread. A call may
                also wait for half of its caller's timeout, if that is longer. Without
                this limit, calls whose callers have given up would fill the queue.
        """
        self._pool = Threads(threads, "inkling-pool")
        self._limit = threads + queue
        self._queue_timeout_s = queue_timeout_s
        self._lock = threading.Lock()
        self._count = 0

    async def run(self, call: Callable[[], _T], timeout_s: float | None = None) -> _T:
        """Return the result of `call`, for a caller on an event loop.

        The cancellation of the caller removes the call from the queue.

        Args:
            call: The function to run in a thread.
            timeout_s: A call that has not begun after these seconds never runs.

        Raises:
            Overloaded: Too many calls wait, or this call has waited too long.
            DeadlineExceeded: The call had not begun after `timeout_s`.
        """
        return await asyncio.wrap_future(self.submit(call, timeout_s))

    def call(
        self,
        call: Callable[[], _T],
        timeout_s: float | None,
        when_caller_leaves: Callable[[Callable[[], None]], bool],
    ) -> _T:
        """Return the result of `call`, for a caller that may block its thread.

        Args:
            call: As for `run`.
            timeout_s: As for `run`.
            when_caller_leaves: Registers a function that is called when the caller
                leaves; returns False if the caller has already left.

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
            raise DeadlineExceeded("The caller has ended the call.") from None

    def close(self) -> None:
        """Wait for all calls that were submitted."""
        self._pool.shutdown()

    def submit(self, call: Callable[[], _T], timeout_s: float | None) -> Future[_T]:
        """Return the future of `call`; cancel it to remove the call from the queue.

        Raises:
            Overloaded: Too many calls wait.
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
                    f"The request has waited for more than {patience_s:g} s in the "
                    "queue. Try again in a second."
                )
            if timeout_s is not None and waited_s >= timeout_s:
                raise DeadlineExceeded(
                    "The deadline passed while the request waited in the queue. Set a "
                    "longer deadline, or send fewer requests at once."
                )
            return wanted[0]()

        def leave(future: Future[_T]) -> None:
            with self._lock:
                self._count -= 1
            if future.cancelled():
                # The executor keeps a cancelled call until a thread is free. This
                # frees the memory of the call's pictures at once.
                wanted.clear()

        future = self._pool.submit(begin)
        future.add_done_callback(leave)
        return future
