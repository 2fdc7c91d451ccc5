# SPDX-License-Identifier: Apache-2.0
"""The threads that classify pictures, with a bounded queue."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from inkling.errors import DeadlineExceeded, InklingError, Overloaded
from inkling_serving.runtime.poller import Repeating

__all__ = ["ThreadPool", "Threads", "too_many"]

_T = TypeVar("_T")
# The pause between two looks for calls that have waited too long.
_LOOK_S = 0.1


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
        except (RuntimeError, MemoryError):
            # The call is in the queue already, and one of these threads takes it.
            if not self._threads:
                raise


@dataclass(eq=False)
class _Waiting:
    """A call that waits for a thread.

    Attributes:
        call: The call; removed once nobody waits for its result.
        future: The result of the call; removed once it is known.
        submitted: When the call came, on the monotonic clock.
        patience_s: The seconds after which the call is refused.
        timeout_s: The seconds that the caller allows; None for no limit.
    """

    call: Callable[[], Any] | None
    future: Future[Any] | None
    submitted: float
    patience_s: float
    timeout_s: float | None

    def refusal(self) -> InklingError | None:
        """Return the error for a call that has waited too long."""
        waited_s, allowed_s = time.monotonic() - self.submitted, math.inf
        if self.timeout_s is not None:
            allowed_s = self.timeout_s
        if waited_s < min(self.patience_s, allowed_s):
            return None
        if allowed_s <= self.patience_s:
            return DeadlineExceeded(
                "The deadline passed while the request waited in the queue. Set a "
                "longer deadline, or send fewer requests at once."
            )
        return Overloaded(
            f"The request has waited for more than {self.patience_s:g} s in the queue. "
            "Try again in a second."
        )


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
        self._waiting: dict[_Waiting, None] = {}
        self._reaper = Repeating(
            "refusing calls that wait too long", self._refuse_late, lambda: _LOOK_S
        )

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
        found = [self.submit(call, timeout_s)]

        def cancel() -> None:
            for future in found:
                future.cancel()

        if not when_caller_leaves(cancel):
            cancel()
        try:
            return found[0].result()
        except CancelledError:
            raise DeadlineExceeded("The caller has ended the call.") from None
        finally:
            # The future has the error, whose traceback has this frame. Such a cycle
            # would keep the call's pictures until the garbage collector runs.
            found.clear()

    @property
    def is_busy(self) -> bool:
        """Whether calls wait for a thread."""
        return bool(self._waiting)

    def close(self) -> None:
        """Wait for all calls that were submitted."""
        self._pool.shutdown()
        self._reaper.stop()

    def submit(self, call: Callable[[], _T], timeout_s: float | None) -> Future[_T]:
        """Return the future of `call`; cancel it to remove the call from the queue.

        Raises:
            Overloaded: Too many calls wait.
        """
        with self._lock:
            if self._count >= self._limit:
                raise too_many(self._count)
            self._count += 1
        patience_s = max(self._queue_timeout_s, (timeout_s or 0) / 2)
        future: Future[_T] = Future()
        waiting = _Waiting(call, future, time.monotonic(), patience_s, timeout_s)
        self._waiting[waiting] = None
        future.add_done_callback(lambda _: self._leave(waiting))
        try:
            self._pool.submit(self._begin, waiting)
        except (RuntimeError, MemoryError):
            # The pool is closed, or the system allows it no thread at all.
            future.cancel()
            raise too_many(self._count) from None
        return future

    def _begin(self, waiting: _Waiting) -> None:
        """Run a call, unless its caller has left or it has waited too long."""
        call, future = self._taken(waiting)
        if call is None or future is None:
            return
        refusal = waiting.refusal()
        if refusal is not None:
            future.set_exception(refusal)
            return
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - the caller gets every error
            future.set_exception(error)

    def _taken(
        self, waiting: _Waiting
    ) -> tuple[Callable[[], Any] | None, Future[Any] | None]:
        """Return a call for the one thread that may run or refuse it."""
        with self._lock:
            call, future = waiting.call, waiting.future
            waiting.call = None
            self._waiting.pop(waiting, None)
        if call is None or future is None or not future.set_running_or_notify_cancel():
            return None, None
        return call, future

    def _leave(self, waiting: _Waiting) -> None:
        with self._lock:
            self._count -= 1
            self._waiting.pop(waiting, None)
            # The executor keeps a cancelled call until a thread is free, and a future
            # keeps this callback for ever. Without these objects, the memory of the
            # call's pictures is free at once.
            waiting.call = waiting.future = None

    def _refuse_late(self) -> None:
        """Refuse calls that wait too long; a thread may be busy for much longer."""
        with self._lock:
            late = [one for one in self._waiting if one.refusal() is not None]
        for waiting in late:
            refusal = waiting.refusal()
            _, future = self._taken(waiting)
            if refusal is not None and future is not None:
                future.set_exception(refusal)
