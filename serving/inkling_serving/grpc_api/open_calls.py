# SPDX-License-Identifier: Apache-2.0
"""The open calls of the gRPC port: which call gets a place, and whose time is over.

grpcio gives each call a thread before the message of the call has arrived, and holds
what has arrived of a message where Python cannot count it. So the calls that wait for
their client are ended, the oldest first, where another call needs the place, or where
the memory of the process has grown too far.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from inkling_serving.grpc_api.receiving import Receiving
from inkling_serving.runtime.memory import resident_bytes, trim
from inkling_serving.runtime.poller import Repeating
from inkling_serving.runtime.thread_pool import Threads

if TYPE_CHECKING:
    import grpc

    from inkling_serving.runtime.held_bytes import HeldBytes

__all__ = ["CallThreads", "OpenCalls", "Places"]

_LOOK_S = 0.02
# A call that has waited for less time is not ended for another one: its message is on
# the way.
_FRESH_S = 0.1
# The time for a message while other calls wait for a thread.
_CROWDED_S = 0.25
# A client that does not take the answer of a call for so long loses the call.
_TAKE_TIMEOUT_S = 30.0
# The most calls of a process whose answers are not taken.
_MAX_ANSWERED = 512
# Memory may grow by this much beyond the bytes of requests: pictures are decoded in it.
_SPARE_BYTES = 48 * 1024 * 1024
# Memory beyond the usual that is given back to the system, and the pause until the next
# time; the last is for times when memory is short.
_USUAL_S = 10.0
_KEPT_BYTES, _TRIM_PAUSE_S, _SHORT_TRIM_PAUSE_S = 8 * 1024 * 1024, 1.0, 0.1


class CallThreads(Threads):
    """The threads of some calls.

    Attributes:
        open: The number of calls that have a thread or wait for one.
    """

    def __init__(self, count: int, prefix: str) -> None:
        super().__init__(count, prefix)
        self.open = 0
        self._counting = threading.Lock()

    def submit(self, *call: Any, **arguments: Any) -> Future[Any]:
        """Run a call."""
        with self._counting:
            self.open += 1
        try:
            future = super().submit(*call, **arguments)
        except BaseException:
            self._done(None)
            raise
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object) -> None:
        with self._counting:
            self.open -= 1


class Places:
    """The calls that may be open at once, of one kind.

    Attributes:
        threads: The threads of these calls.
    """

    def __init__(self, name: str, threads: int, most: int, timeout_s: float) -> None:
        """Create the object.

        Args:
            name: The name of the threads.
            threads: The number of calls that have a thread at once.
            most: The most open calls; the others wait for a thread.
            timeout_s: The seconds in which the only message of a call must arrive.
        """
        self.threads = CallThreads(threads, name)
        self.threads.submit(int)  # one is there, however many the system allows later
        # Messages of short calls come with the head of the call.
        self._fresh_s = min(_FRESH_S, timeout_s / 100)
        self._at_once = threads
        self._most = most
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        # The calls that wait for their message, and since when; the oldest first.
        self._waiting: dict[grpc.ServicerContext, float] = {}
        # The calls that were ended and still have a thread.
        self._leaving: set[grpc.ServicerContext] = set()

    def take(self) -> bool:
        """Return whether another call may begin; this may end a call that waits."""
        return self._beyond(self._most - 1) <= 0 or self._end_of_many(1, self._fresh_s)

    def wait(self, context: grpc.ServicerContext) -> None:
        """Note that a call waits for its message."""
        with self._lock:
            self._waiting[context] = time.monotonic()

    def wait_no_more(self, context: grpc.ServicerContext) -> None:
        """Note that the message of a call has come."""
        with self._lock:
            self._waiting.pop(context, None)

    def leave(self, context: grpc.ServicerContext) -> None:
        """Note that a call gives its thread back."""
        with self._lock:
            self._leaving.discard(context)

    def end_late(self) -> None:
        """End the calls whose message has not come in time.

        Where calls wait for a thread, the time is short.
        """
        late = time.monotonic() - self._timeout_s
        with self._lock:
            waiting = dict(self._waiting)
        self._end([context for context, since in waiting.items() if since < late])
        beyond = self._beyond(self._at_once)
        if beyond > 0:
            self._end_of_many(beyond, _CROWDED_S)

    def _beyond(self, most: int) -> int:
        """Return by how much the calls that stay are more than so many."""
        return self.threads.open - len(self._leaving) - most

    def _end_of_many(self, most: int, older_than_s: float) -> bool:
        """End calls that wait, first those of the connections with most of them.

        So a client with one call does not pay for a client with many.
        """
        limit = time.monotonic() - older_than_s
        with self._lock:
            waiting = dict(self._waiting)
        peers = {context: context.peer() for context in waiting}
        calls = Counter(peers.values())
        # The sort is stable: of one connection, the oldest comes first.
        late = sorted(
            (context for context, since in waiting.items() if since < limit),
            key=lambda context: -calls[peers[context]],
        )
        return self._end(late[:most])

    def _end(self, contexts: list[grpc.ServicerContext]) -> bool:
        """End calls that still wait; return whether there was one."""
        with self._lock:
            ended = [one for one in contexts if self._waiting.pop(one, None)]
            self._leaving.update(ended)
        for context in ended:
            context.cancel()
        return bool(ended)


class OpenCalls:
    """Ends the calls that hold too much, or for too long, because of their client.

    Attributes:
        receiving: The calls that receive their only message.
    """

    def __init__(self, places: list[Places], held: HeldBytes, call_bytes: int) -> None:
        """Start the thread that looks after the calls.

        Args:
            places: The places of all calls.
            held: Counts the bytes of requests that the process holds.
            call_bytes: The most bytes of one message.
        """
        self._places = places
        self._most_bytes = held.limit + _SPARE_BYTES
        self._call_bytes = call_bytes
        self._held = held
        self.receiving = Receiving(held.limit // call_bytes)
        self._usual_bytes = resident_bytes()
        self._least_bytes = self._usual_bytes
        self._trimmed_at = self._noted_at = 0.0
        self._lock = threading.Lock()
        # The calls that have not ended, and since when the client takes the answer;
        # None where no answer was given.
        self._open: dict[grpc.ServicerContext, None] = {}
        self._taking: dict[grpc.ServicerContext, float] = {}
        # The streams that wait for their next message.
        self._streams: dict[grpc.ServicerContext, None] = {}
        self._watcher = Repeating(
            "ending calls that hold too much", self._look, lambda: _LOOK_S
        )

    @property
    def idle(self) -> bool:
        """Whether all calls have ended."""
        return not self._open

    def begin(self, context: grpc.ServicerContext) -> None:
        """Note that a call is open, until it has ended on the wire."""
        self._open[context] = None
        if not context.add_callback(lambda: self._end(context)):
            self._end(context)

    def taking(self, context: grpc.ServicerContext) -> None:
        """Note that the client of a call has to take an answer."""
        with self._lock:
            if context in self._open:
                self._taking[context] = time.monotonic()

    def taken(self, context: grpc.ServicerContext) -> None:
        """Note that the client has taken it."""
        with self._lock:
            self._taking.pop(context, None)

    def next_message(
        self, context: grpc.ServicerContext, receive: Callable[[], bytes]
    ) -> bytes:
        """Return the next message of a stream, which may end meanwhile."""
        self._streams[context] = None
        try:
            return receive()
        finally:
            self._streams.pop(context, None)

    def stop(self) -> None:
        """Stop the thread."""
        self._watcher.stop()

    def _end(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._open.pop(context, None)
            self._taking.pop(context, None)

    def _look(self) -> None:
        self.receiving.look()
        for places in self._places:
            places.end_late()
        self._end_not_taken()
        self._bound_memory()

    def _end_not_taken(self) -> None:
        late = time.monotonic() - _TAKE_TIMEOUT_S
        with self._lock:
            beyond = len(self._taking) - _MAX_ANSWERED
            ended = [
                context
                for place, (context, since) in enumerate(self._taking.items())
                if since < late or place < beyond
            ]
            for context in ended:
                del self._taking[context]
        for context in ended:
            context.cancel()

    def _bound_memory(self) -> None:
        """Let few calls receive where memory is short; then end streams, the oldest.

        A stream may receive a message at any time, so it has no turn.
        """
        resident = resident_bytes()
        if not self._held.total and not any(p.threads.open for p in self._places):
            self._note_usual(resident)
            return
        grown = resident - self._usual_bytes
        self.receiving.short_of_memory = grown > self._held.limit // 4
        if self.receiving.short_of_memory:
            self._trim(_SHORT_TRIM_PAUSE_S)
        excess = grown - self._most_bytes
        if excess <= 0:
            return
        most = max(1, excess // self._call_bytes, len(self._streams) // 8)
        for context in list(self._streams)[:most]:
            context.cancel()

    def _note_usual(self, resident: int) -> None:
        """Note the memory of the process without requests: models take it, for one.

        It is the least memory of some seconds, because calls that were ended hold
        theirs a little longer.
        """
        if resident > self._usual_bytes + _KEPT_BYTES and self._trim(_TRIM_PAUSE_S):
            resident = resident_bytes()
        now = time.monotonic()
        self._least_bytes = min(self._least_bytes, resident)
        self._usual_bytes = min(self._usual_bytes, resident)
        if now > self._noted_at + _USUAL_S:
            self._usual_bytes, self._noted_at = self._least_bytes, now
            self._least_bytes = resident

    def _trim(self, pause_s: float) -> bool:
        """Give free memory back to the system, unless that was done just now.

        The memory of messages that are gone lies between used pieces, and goes back
        only if the system is told so.
        """
        now = time.monotonic()
        if now < self._trimmed_at + pause_s:
            return False
        self._trimmed_at = now
        trim()
        return True
