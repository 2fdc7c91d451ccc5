# SPDX-License-Identifier: Apache-2.0
"""The open streams of a process, of all services: their number, and their end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from inkling.errors import InklingError, NotReady, Overloaded
from inkling.image.budget import TakesLonger
from inkling_serving.client_address import client_of_peer
from inkling_serving.grpc_api.calls import seconds_left
from inkling_serving.grpc_api.errors import end_with, foreseen
from inkling_serving.runtime.thread_pool import too_many
from inkling_serving.runtime.timings import Timings

if TYPE_CHECKING:
    import grpc

    from inkling_serving.grpc_api.calls import Calls
    from inkling_serving.grpc_api.stream import Stream
    from inkling_serving.runtime.held_bytes import HeldBytes
    from inkling_serving.runtime.thread_pool import ThreadPool

__all__ = ["OpenStreams", "StreamedRequest"]

# A stream that waits for its next request for longer may lose its place to another one.
_IDLE_S = 1.0

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


@dataclass(frozen=True)
class StreamedRequest(Generic[_Response]):
    """A request of a stream.

    Attributes:
        answer: Makes the response from the seconds that are left, or None, and from
            whether `TakesLonger` ends an answer that would keep its thread for longer.
        refuse: Makes the response for an error.
        size: The request's bytes.
        is_quick: Whether the answer may be quicker than a hand-over to a thread.
        timings: The durations of the phases.
    """

    answer: Callable[[float | None, bool], _Response]
    refuse: Callable[[InklingError], _Response]
    size: int
    is_quick: bool
    timings: Timings = field(default_factory=Timings)


class OpenStreams:
    """The open streams of a process."""

    def __init__(self, pool: ThreadPool, held: HeldBytes, max_streams: int) -> None:
        """Create the object; `max_streams` streams may be open at once."""
        self._pool = pool
        self._held = held
        self._max_streams = max_streams
        self._lock = threading.Lock()
        self._streams: set[Stream[Any, Any]] = set()
        self._ending = False

    def answers(
        self,
        stream: Stream[_Request, _Response],
        requests: Iterator[_Request],
        context: grpc.ServicerContext,
    ) -> Iterator[_Response]:
        """Yield the responses of a stream, which has a place meanwhile."""
        try:
            self._open(stream)
        except InklingError as error:
            end_with(context, error)
        try:
            yield from stream.answers(requests)
        finally:
            with self._lock:
                self._streams.discard(stream)
        if stream.error is not None:
            end_with(context, stream.error)
        if self._ending:
            end_with(context, NotReady("This server stops; send the rest again."))

    def begin(
        self,
        request: StreamedRequest[_Response],
        context: grpc.ServicerContext,
        calls: Calls,
    ) -> _Response | Future[_Response]:
        """Return the response to a request; its future if it takes longer.

        Raises:
            InklingError: The pool has no place for the request, or the key of the
                caller has used up its quota.
        """
        timings, left_s = request.timings, seconds_left(context)
        calls.begin(context, timings)

        def answer(quickly: bool) -> _Response:
            try:
                response = request.answer(seconds_left(context), quickly)
            except TakesLonger:
                raise
            except Exception as error:  # noqa: BLE001 - the edge of the gRPC door
                return request.refuse(foreseen(error))
            calls.count("ok", timings)
            return response

        def pooled() -> _Response:
            timings.queue = perf_counter() - submitted
            return answer(quickly=False)

        if request.is_quick:
            with suppress(TakesLonger):
                return answer(quickly=True)
        submitted = perf_counter()
        shares = self._held.has_shares
        owner = client_of_peer(context.peer()) if shares else ""
        holding = self._held.arrived(request.size, owner)
        try:
            future = self._pool.submit(pooled, left_s)
        except InklingError:
            holding.release()
            raise
        future.add_done_callback(lambda _: holding.release())
        return future

    def end(self) -> None:
        """Stop reading from open streams; requests that were read are answered."""
        with self._lock:
            self._ending = True
            streams = list(self._streams)
        for stream in streams:
            stream.end()

    def _open(self, stream: Stream[_Request, _Response]) -> None:
        with self._lock:
            if self._ending:
                raise NotReady("This server stops; send the call again.")
            count = len(self._streams)
            idle = [] if count < self._max_streams else self._idle()
            if count >= self._max_streams and not idle:
                raise too_many(count)
            for one in idle:
                self._streams.discard(one)
            self._streams.add(stream)
        for one in idle:
            one.end(_idle_for_longest())

    def _idle(self) -> list[Stream[Any, Any]]:
        """Return the stream that has waited longest for a request, if any has."""
        idle = [(one.idle_s, place) for place, one in enumerate(self._streams)]
        longest_s, place = max(idle, default=(0.0, 0))
        return [list(self._streams)[place]] if longest_s > _IDLE_S else []


def _idle_for_longest() -> Overloaded:
    return Overloaded(
        "The server has no room for more streams, and this one was idle for the "
        "longest time. Open a stream again when there is something to send."
    )
