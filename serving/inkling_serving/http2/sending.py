"""What leaves a connection of its answers, and when: the client's windows decide."""

from __future__ import annotations

from collections.abc import Callable, Collection

from inkling_serving.http2 import frames, responses
from inkling_serving.http2.calls import Call
from inkling_serving.http2.frames import (
    DEFAULT_WINDOW,
    MAX_WINDOW,
    ConnectionFault,
    Fault,
    Kind,
    StreamFault,
)

__all__ = ["Sending"]

_DEFAULT_MAX_FRAME = 16_384


class Sending:
    """Sends the answers of one connection.

    Attributes:
        initial_window: What the client takes of each stream to come.
        max_frame: What it takes in one frame.
        first: What the next block of headers begins with.
    """

    def __init__(
        self, write: Callable[[bytes], None], sent: Callable[[Call], None]
    ) -> None:
        """Take where frames go, and what to tell when a call has been answered."""
        self._write = write
        self._sent = sent
        # Calls whose answer waits, by stream; who waited longest comes first.
        self._blocked: dict[int, Call] = {}
        self._window = self.initial_window = DEFAULT_WINDOW
        self.max_frame = _DEFAULT_MAX_FRAME
        self.first = b""
        self._paused = False

    def widen(self, size: int) -> None:
        """Let more be sent of all streams together.

        Raises:
            ConnectionFault: More than HTTP/2 can count.
        """
        was_closed = self._window <= 0
        self._window += size
        if self._window > MAX_WINDOW:
            raise ConnectionFault(Fault.FLOW_CONTROL_ERROR, "window too wide")
        if was_closed:
            self._pump_all()

    def resize(self, initial: int, calls: Collection[Call]) -> None:
        """Take the window with which streams begin; it counts for those there are.

        Raises:
            ConnectionFault: It makes one wider than HTTP/2 can count.
        """
        change = initial - self.initial_window
        self.initial_window = initial
        for call in calls:
            try:
                call.widen(change)
            except StreamFault as error:
                raise ConnectionFault(error.fault, "window too wide") from None
        self._pump_all()

    def pause(self) -> None:
        """Send nothing until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Go on sending."""
        self._paused = False
        self._pump_all()

    def start(self) -> bytes:
        """Return what the next block of headers begins with; then it has."""
        first, self.first = self.first, b""
        return first

    def whole(self, call: Call, message: bytes) -> bool:
        """Send the one answer of a call, if it is plain and the client takes it."""
        size = len(message)
        room = min(call.send_window, self._window, self.max_frame)
        if size > room or self._paused:
            return False
        if call.trailing or self.first or not call.heard_all:
            return False
        self._window -= size
        self._write(responses.plain(call.number, message))
        self._sent(call)
        return True

    def pump(self, call: Call) -> None:
        """Send what waits of an answer, as far as the client takes it."""
        self._blocked.pop(call.number, None)
        if self._paused:
            self._blocked[call.number] = call
            return
        pieces = self._pieces(call)
        ended = not call.outbox and call.last_words is not None
        if ended:
            pieces.append(responses.end(call, self.start()))
        elif call.outbox:
            self._blocked[call.number] = call
        if pieces:
            self._write(b"".join(pieces))
        if ended:
            self._sent(call)

    def forget(self, call: Call) -> None:
        """Send no more of an answer."""
        self._blocked.pop(call.number, None)

    def _pieces(self, call: Call) -> list[bytes]:
        pieces = []
        if call.outbox and not call.head_sent:
            call.head_sent = True
            pieces.append(responses.head(call.number, self.start()))
        while call.outbox:
            room = min(call.send_window, self._window, self.max_frame)
            if room <= 0:
                break
            data = call.take(room)
            self._window -= len(data)
            pieces.append(frames.frame(Kind.DATA, 0, call.number, data))
        return pieces

    def _pump_all(self) -> None:
        for call in list(self._blocked.values()):
            if self._window <= 0 or self._paused:
                break
            if self._blocked.get(call.number) is call:
                self.pump(call)
