# SPDX-License-Identifier: Apache-2.0
"""Bounds the messages that arrive at once, and with them the memory that they take.

Until a message is asked for, HTTP/2's flow control keeps all but its first 64 KiB at
the client. So a few calls at a time may receive; a small message is there at once. A
call whose message takes longer receives on beside the others. Where memory is short,
few may, and the others end. Connections take turns, and the one with the most calls
loses a call first, so that nobody waits for many calls of one client.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

__all__ = ["Receiving"]

# A message that takes longer leaves its turn to the next one; one that takes much
# longer may end for others.
_TURN_S, _PATIENCE_S = 0.03, 0.25
# The calls that may have a turn at once while memory is not short.
_MANY = 8


class Receiving:
    """The calls that receive their message, and those that wait to.

    Attributes:
        short_of_memory: Whether the process has little memory left for messages.
    """

    def __init__(self, most: int) -> None:
        """Create the object.

        Args:
            most: The messages for which the process has memory. A third of them may
                be received at once, and where memory is short, as many slow ones
                beside them; calls that were ended hold theirs a little longer.
        """
        self.short_of_memory = False
        self._few = max(1, most // 6)
        self._lock = threading.Lock()
        # The calls that receive, and since when; the oldest first.
        self._now: dict[grpc.ServicerContext, float] = {}
        # The calls that receive slowly, with their connection and since when they
        # receive; the oldest first.
        self._slow: dict[grpc.ServicerContext, tuple[str, float]] = {}
        # The calls that were ended and still hold their memory.
        self._ended: set[grpc.ServicerContext] = set()
        # The turns of each connection; the next connection first.
        self._waiting: dict[str, deque[threading.Event]] = {}
        # The turns that were given, and have not begun.
        self._promised = 0

    def begin(self, context: grpc.ServicerContext) -> None:
        """Wait for the turn of a call; a call that has ended gets one, too."""
        turn = threading.Event()
        with self._lock:
            if not self._waiting and self._has_room():
                self._now[context] = time.monotonic()
                return
        peer = context.peer()
        with self._lock:
            if peer in self._waiting:
                self._waiting[peer].append(turn)
            else:
                # A connection with one call at a time goes before those with many.
                self._waiting = {peer: deque([turn]), **self._waiting}
        if not context.add_callback(turn.set):
            turn.set()
        self.look()
        turn.wait()
        with self._lock:
            if self._withdrawn(peer, turn):
                return
            self._now[context] = time.monotonic()
            self._promised -= 1

    def end(self, context: grpc.ServicerContext) -> None:
        """End the turn of a call whose message was read, or which has ended."""
        with self._lock:
            self._ended.discard(context)
            self._now.pop(context, None)
            self._slow.pop(context, None)
        if self._waiting:
            self.look()

    def look(self) -> None:
        """Give turns to calls that wait, in place of those that take long."""
        ended: list[grpc.ServicerContext] = []
        now = time.monotonic()
        with self._lock:
            while self._waiting:
                if not self._has_room():
                    oldest = next(iter(self._now), None)
                    if oldest is None or self._now[oldest] > now - _TURN_S:
                        break
                    self._slow[oldest] = oldest.peer(), self._now.pop(oldest)
                    if not self._has_room():
                        break
                self._give_turn()
            for _ in range(self._too_many_slow()):
                slowest = self._slowest(now - _PATIENCE_S)
                if slowest is None:
                    break
                del self._slow[slowest]
                self._ended.add(slowest)
                ended.append(slowest)
        for context in ended:
            context.cancel()

    def _slowest(self, before: float) -> grpc.ServicerContext | None:
        """Return the oldest slow call of the connection with the most calls, if any."""
        calls = Counter(peer for peer, _ in self._slow.values())
        calls.update(context.peer() for context in self._now)
        calls.update({peer: len(turns) for peer, turns in self._waiting.items()})
        late = {
            context: calls[peer]
            for context, (peer, since) in self._slow.items()
            if since < before
        }
        return max(late, key=late.__getitem__, default=None)

    def _too_many_slow(self) -> int:
        return max(0, len(self._slow) - self._few) if self.short_of_memory else 0

    def _has_room(self) -> bool:
        at_once = self._few if self.short_of_memory else _MANY
        taken = len(self._now) + len(self._ended) + self._promised
        return taken + self._too_many_slow() < at_once

    def _give_turn(self) -> None:
        peer = next(iter(self._waiting))
        turns = self._waiting.pop(peer)
        turns.popleft().set()
        self._promised += 1
        if turns:
            self._waiting[peer] = turns  # behind the other connections

    def _withdrawn(self, peer: str, turn: threading.Event) -> bool:
        """Take a call that has ended out of the queue; False if it has its turn."""
        turns = self._waiting.get(peer)
        if not turns or turn not in turns:
            return False
        turns.remove(turn)
        if not turns:
            del self._waiting[peer]
        return True
