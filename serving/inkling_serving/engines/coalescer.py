"""Joins what is waiting into one call, and never waits for more.

While a call is under way, what arrives is queued; the next call takes all of it, up to
a limit. So a lone request is sent at once; the busier it gets, the larger the calls.
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
    """Inputs that wait for their scores, or for what went wrong."""

    inputs: Array
    deadline: float
    scores: Array | None = None
    error: InklingError | None = None

    @property
    def done(self) -> bool:
        return self.scores is not None or self.error is not None


class Coalescer:
    """Runs a batched function for many threads, one call at a time.

    A thread that finds nobody calling calls for all who wait, itself among them. There
    is no thread that does nothing else, so none can die and leave the others waiting.
    """

    def __init__(
        self, predict: Callable[[Array, float], Array], max_batch: int
    ) -> None:
        """Take the function.

        Args:
            predict: Takes inputs (n, h, w, c) and seconds; returns scores (n, classes).
            max_batch: Largest n; a single job may be larger.
        """
        self._predict = predict
        self._max_batch = max_batch
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._calling = False

    def predict(self, inputs: Array, timeout_s: float) -> Array:
        """Return the scores for the inputs; what `predict` raised is raised here.

        Raises:
            DeadlineExceeded: It took longer than `timeout_s`.
        """
        job = _Job(inputs, time.monotonic() + timeout_s)
        with self._changed:
            self._waiting.append(job)
        while not job.done:
            with self._changed:
                turn = self._changed.wait_for(
                    lambda: job.done or not self._calling,
                    max(0.0, job.deadline - time.monotonic()),
                )
                if job.done:
                    break
                if not turn:
                    self._give_up(job, timeout_s)
                self._calling = True
                jobs = self._taken()
            self._call(jobs, job)
        if job.error is not None:
            raise job.error
        assert job.scores is not None
        return job.scores

    def _give_up(self, job: _Job, timeout_s: float) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        raise DeadlineExceeded(f"The model did not answer within {timeout_s:.3g} s.")

    def _taken(self) -> list[_Job]:
        """Take the next jobs off the queue, as many as fit into a call."""
        jobs: list[_Job] = []
        size = 0
        while self._waiting:
            count = len(self._waiting[0].inputs)
            if jobs and size + count > self._max_batch:
                break
            jobs.append(self._waiting.popleft())
            size += count
        return jobs

    def _call(self, jobs: list[_Job], own: _Job) -> None:
        """Answer the jobs with one call, and let the next caller begin.

        The call takes no longer than the caller itself may; jobs that have more time
        then wait for another.
        """
        try:
            timeout_s = own.deadline - time.monotonic()
            scores = self._predict(
                np.concatenate([job.inputs for job in jobs]), max(0.0, timeout_s)
            )
            start = 0
            for job in jobs:
                job.scores = scores[start : start + len(job.inputs)]
                start += len(job.inputs)
        except DeadlineExceeded as error:
            now = time.monotonic()
            patient = [job for job in jobs if job is not own and job.deadline > now]
            for job in jobs:
                job.error = None if job in patient else error
            jobs = [job for job in jobs if job not in patient]
            with self._changed:
                self._waiting.extendleft(reversed(patient))
        except InklingError as error:
            for job in jobs:
                job.error = error
        finally:
            # What was not foreseen is raised to this caller alone, and logged there.
            for job in jobs:
                if not job.done:
                    job.error = InternalError(
                        "The call that this one was part of failed."
                    )
            with self._changed:
                self._calling = False
                self._changed.notify_all()
