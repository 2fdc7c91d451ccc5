# SPDX-License-Identifier: Apache-2.0
"""Joins the inputs of waiting requests into few calls, without waiting for more inputs.

A request that may start a call takes all inputs that wait, up to a limit. So a single
request is sent at once, and the calls grow with the load.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from inkling.errors import DeadlineExceeded, InklingError, InternalError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[np.float32]

__all__ = ["Coalescer"]


@dataclass(eq=False)
class _Job:
    """The inputs of one request, and later their scores or the error.

    Attributes:
        inputs: Shape (n, h, w, c), float32.
        deadline: The end of the request's time, on the monotonic clock.
        changed: Notified when the job is done, or when its thread may start a call.
        waiting: Whether the job is in the queue; otherwise, the job is part of a call.
        scores: Shape (n, classes), float32, after a successful call.
        error: The error of the call, after a failed call.
    """

    inputs: Array
    deadline: float
    changed: threading.Condition
    waiting: bool = True
    scores: Array | None = None
    error: InklingError | None = None

    @property
    def done(self) -> bool:
        return self.scores is not None or self.error is not None


class Coalescer:
    """Runs a batched function for many threads, in a few calls at once.

    The thread of a request makes the call, for its own inputs and for those of others.
    No thread belongs to the coalescer, so none can die and leave requests waiting.
    """

    def __init__(
        self, predict: Callable[[Array, float], Array], max_batch: int, calls: int
    ) -> None:
        """Create the coalescer.

        Args:
            predict: Takes inputs (n, h, w, c) and a timeout in seconds; returns scores
                (n, classes). Several threads may call the function at once.
            max_batch: The largest n of a call; a single request may have more inputs.
            calls: The number of open calls of any size. The same number of further
                calls may be open if they are full, because no input could join them.
        """
        self._predict = predict
        self._max_batch = max_batch
        self._calls = calls
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._under_way = 0

    def predict(self, inputs: Array, timeout_s: float) -> Array:
        """Return the scores (n, classes) for inputs (n, h, w, c).

        Raises:
            DeadlineExceeded: The scores took longer than `timeout_s`.
            InklingError: The call failed with this error.
        """
        deadline = time.monotonic() + timeout_s
        job = _Job(inputs, deadline, threading.Condition(self._lock))
        with self._lock:
            self._waiting.append(job)
        while jobs := self._jobs_to_call_for(job, timeout_s):
            self._call(jobs, job)
        if job.error is not None:
            raise job.error
        assert job.scores is not None
        return job.scores

    def _jobs_to_call_for(self, job: _Job, timeout_s: float) -> list[_Job]:
        """Wait until a job is done, or is first in the queue and a call may start.

        Returns:
            The jobs for the call, with this job first; an empty list if `job` is done.

        Raises:
            DeadlineExceeded: The job's deadline passed first.
        """
        with self._lock:
            try:
                while not job.done:
                    if self._may_start():
                        if self._waiting[0] is job:
                            return self._taken()
                        self._waiting[0].changed.notify()
                    left_s = job.deadline - time.monotonic()
                    if left_s <= 0:
                        raise DeadlineExceeded(
                            f"The model did not answer within {timeout_s:.3g} s. Set a "
                            "longer deadline."
                        )
                    job.changed.wait(left_s)
                return []
            finally:
                if job.waiting:
                    self._waiting.remove(job)
                self._tell_first()

    def _may_start(self) -> bool:
        """Return whether inputs wait and may start another call."""
        if not self._waiting or self._under_way >= 2 * self._calls:
            return False
        if self._under_way < self._calls:
            return True
        return sum(len(job.inputs) for job in self._waiting) >= self._max_batch

    def _tell_first(self) -> None:
        """Wake the thread that makes the next call, if a call may start."""
        if self._may_start():
            self._waiting[0].changed.notify()

    def _taken(self) -> list[_Job]:
        """Remove from the queue as many jobs as fit into a call, and return them."""
        self._under_way += 1
        jobs: list[_Job] = []
        size = 0
        while self._waiting:
            count = len(self._waiting[0].inputs)
            if jobs and size + count > self._max_batch:
                break
            jobs.append(self._waiting.popleft())
            jobs[-1].waiting = False
            size += count
        return jobs

    def _call(self, jobs: list[_Job], own: _Job) -> None:
        """Answer the jobs with one call, and let the next call begin.

        The call must end before the deadline of this thread's own job; jobs with later
        deadlines then wait for another call.
        """
        # An unexpected error is raised in this thread only, which also logs the error.
        # The other jobs get this one.
        error: InklingError = InternalError(
            "The engine's call for this request failed. Try again."
        )
        scores: Array | None = None
        try:
            timeout_s = own.deadline - time.monotonic()
            inputs = np.concatenate([job.inputs for job in jobs])
            scores = self._predict(inputs, max(0.0, timeout_s))
        except InklingError as raised:
            error = raised
        finally:
            with self._lock:
                self._under_way -= 1
                self._settle(jobs, own, scores, error)
                self._tell_first()

    def _settle(
        self, jobs: list[_Job], own: _Job, scores: Array | None, error: InklingError
    ) -> None:
        """Give each job its scores or the error, or return the job to the queue."""
        now = time.monotonic()
        start = 0
        for job in jobs:
            if scores is not None:
                job.scores = scores[start : start + len(job.inputs)]
                start += len(job.inputs)
            elif (
                job is own
                or job.deadline <= now
                or not isinstance(error, DeadlineExceeded)
            ):
                job.error = error
            job.changed.notify()
        patient = [job for job in jobs if not job.done]
        for job in patient:
            job.waiting = True
        self._waiting.extendleft(reversed(patient))
