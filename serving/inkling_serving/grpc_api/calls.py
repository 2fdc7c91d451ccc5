# SPDX-License-Identifier: Apache-2.0
"""Answers a unary call: turns its errors into statuses, and counts its phases."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from inkling.gateway.connection import CALLER_KEY
from inkling_serving.grpc_api.errors import end_with, foreseen
from inkling_serving.runtime.timings import Timings, request_id_of

if TYPE_CHECKING:
    import grpc

    from inkling_serving.runtime.metrics import Metrics
    from inkling_serving.runtime.thread_pool import ThreadPool
    from inkling_serving.service import Service

__all__ = ["Calls", "caller_of", "seconds_left"]

_T = TypeVar("_T")

# A caller that sends this metadata gets the phases of its call as trailing metadata.
_TIMING = ("inkling-timing", "true")
# The caller's id of a request, as in HTTP's header of this name.
_REQUEST_ID = "x-request-id"
# A longer deadline is none: a day is beyond every time limit of ours.
_DAY_S = 86_400.0


class Calls:
    """Answers the unary calls of one servicer."""

    def __init__(
        self, service: Service, pool: ThreadPool, metrics: Metrics, protocol: str
    ) -> None:
        """Create the object; `protocol` is the servicer's name in the metrics."""
        self._quotas = service.quotas
        self._pool = pool
        self._metrics = metrics
        self._protocol = protocol

    def answer(
        self, context: grpc.ServicerContext, answer: Callable[[Timings], _T]
    ) -> _T:
        """Return the response, or end the call with the status of the error.

        Args:
            context: The call.
            answer: Makes the response, and fills in the durations of the phases.
        """
        timings = Timings(caller_of(context))
        timings.request_id = request_id_of(_given(context, _REQUEST_ID))
        try:
            self.begin(context, timings)
            response = answer(timings)
        except Exception as error:  # noqa: BLE001 - every error becomes a status
            refusal = foreseen(error)
        else:
            self.count("ok", timings)
            if _TIMING in context.invocation_metadata():
                timing = timings.server_timing()
                context.set_trailing_metadata((("server-timing", timing),))
            return response
        self.count(refusal.code, timings)
        return end_with(context, refusal)

    def begin(self, context: grpc.ServicerContext, timings: Timings) -> None:
        """Take the caller's trace, and a request from the quota of its key.

        Raises:
            QuotaExceeded: The key has used up its quota.
        """
        metadata = dict(context.invocation_metadata())
        if "traceparent" in metadata:
            timings.follow(str(metadata["traceparent"]))
        if self._quotas.are_set:
            timings.admit(self._quotas.of(str(metadata.get("authorization", ""))))

    def pooled(
        self,
        context: grpc.ServicerContext,
        answer: Callable[[float | None], _T],
        timings: Timings,
    ) -> _T:
        """Return the response of a call that takes long: the pool runs the call.

        Args:
            context: The call.
            answer: Makes the response; its argument is the seconds that are left.
            timings: Gets the seconds for which the call waited for a thread.
        """
        submitted = perf_counter()

        def begin() -> _T:
            timings.queue = perf_counter() - submitted
            return answer(seconds_left(context))

        return self._pool.call(begin, seconds_left(context), context.add_callback)

    def count(self, code: str, timings: Timings) -> None:
        """Count an answer by its error code, or by `ok`."""
        self._metrics.observe(self._protocol, code, timings)


def caller_of(context: grpc.ServicerContext) -> str:
    """Return the key that the caller of a call gave in its metadata; empty without."""
    return _given(context, CALLER_KEY)


def _given(context: grpc.ServicerContext, wanted: str) -> str:
    for name, value in context.invocation_metadata():
        if name == wanted:
            return str(value)
    return ""


def seconds_left(context: grpc.ServicerContext) -> float | None:
    """Return the seconds that the caller of a call allows; None where it sets no limit.

    grpcio says None in its documentation, and 292 billion years in its answer, which no
    call of another server can be given.
    """
    left_s = context.time_remaining()
    return None if left_s is None or left_s > _DAY_S else left_s
