"""The calls of one connection: begun, fed, answered, and ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import grpc

from inkling_serving.http2 import frames, responses
from inkling_serving.http2.calls import Call, Methods, Streaming, Unary
from inkling_serving.http2.frames import (
    Fault,
    StreamFault,
)
from inkling_serving.http2.heads import Head
from inkling_serving.http2.messages import (
    Status,
    prefixed,
    whole,
)
from inkling_serving.http2.sending import Sending

__all__ = ["RECEIVE_WINDOW", "Answering", "Options"]

_log = logging.getLogger(__name__)
# What a client may send on one stream before it is told to go on.
RECEIVE_WINDOW = 1 << 20
# As many messages of the greatest length may be under way on one connection.
_MAX_HELD_MESSAGES = 8
# Letters of what a client sent that are shown to it again.
_MAX_SHOWN = 200
# What has been decided and is not taken in this time never is.
_STUCK_S = 30.0


@dataclass(frozen=True)
class Options:
    """What all connections of a server share.

    Attributes:
        methods: What is answered.
        admit: Says why a call is refused before its request is read; None where it is
            not. It says the same of the same head each time.
        max_message_bytes: What one message may have, unpacked.
        request_timeout_s: What the one request of a unary call may take to arrive.
    """

    methods: Methods
    admit: Callable[[Head], Status | None]
    max_message_bytes: int
    request_timeout_s: float


class Answering:
    """The calls of one connection that have not ended.

    Attributes:
        sending: What sends their answers.
    """

    def __init__(
        self, options: Options, write: Callable[[bytes], None], idle: Callable[[], None]
    ) -> None:
        """Take what answers, where frames go, and what to call after the last call."""
        self._options = options
        self._write = write
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, Call] = {}
        self._begun: list[Call] = []
        self._held = 0
        self.sending = Sending(write, self._close)

    def __len__(self) -> int:
        """Return how many calls have not ended."""
        return len(self._open)

    # What the client sends.

    def begin(self, number: int, head: Head, ended: bool) -> None:
        """Begin a call."""
        method = self._options.methods.get(head.path)
        refusal = head.refusal
        if method is None and refusal is None:
            path = head.path[:_MAX_SHOWN]
            words = f"There is no method {path}; compare the .proto file."
            refusal = Status(grpc.StatusCode.UNIMPLEMENTED, words)
        if method is None or refusal is not None:
            assert refusal is not None
            start = self.sending.start()
            self._write(responses.refusal(number, refusal, ended, start))
            return
        max_bytes = method.max_message_bytes or self._options.max_message_bytes
        windows = (self.sending.initial_window, RECEIVE_WINDOW)
        call = Call(self, number, head, method, max_bytes, windows)
        self._open[number] = call
        self._begun.append(call)
        if isinstance(method, Streaming):
            call.task = self._loop.create_task(self._stream(call, method))
        if ended:
            self._heard_all(call)

    def data(self, number: int, data: bytes, size: int, ended: bool) -> None:
        """Take a piece of the messages of a call.

        Args:
            number: Of its stream.
            data: What came.
            size: What it took, with its padding.
            ended: Whether this is all.

        Raises:
            StreamFault: The client may not send this.
        """
        call = self._open.get(number)
        if call is None or call.last_words is not None:
            return  # it ended; what was on its way may be forgotten
        if call.heard_all:
            raise StreamFault(Fault.STREAM_CLOSED)
        call.receive_window -= size
        if call.receive_window < 0:
            raise StreamFault(Fault.FLOW_CONTROL_ERROR)
        if ended and not call.ungranted and isinstance(call.method, Unary):
            message = whole(data, call.max_bytes)
            if message is not None:
                call.heard_all = True
                self._answer(call, call.method, message)
                return
        call.ungranted += size
        try:
            call.put(data)
            self._hold(call)
        except Status as status:
            self._end(call, status)
            return
        if ended:
            self._heard_all(call)
        else:
            self._grant(call)

    def end_of_messages(self, number: int) -> None:
        """Take note that the client has sent all."""
        call = self._open.get(number)
        if call is not None and not call.heard_all:
            self._heard_all(call)

    def cancel(self, number: int) -> None:
        """Forget a call; nobody waits for its answer."""
        call = self._open.get(number)
        if call is not None:
            self._close(call)

    def cancel_all(self) -> None:
        """Forget all calls; the connection is gone."""
        for call in list(self._open.values()):
            self._close(call)

    def settle(self) -> None:
        """Watch the time of calls that were begun just now and not answered at once."""
        begun, self._begun = self._begun, []
        for call in begun:
            if self._open.get(call.number) is call:
                self._watch(call)

    # What the client takes.

    def widen(self, number: int, size: int) -> None:
        """Let more be sent of one answer.

        Raises:
            StreamFault: More than HTTP/2 can count.
        """
        call = self._open.get(number)
        if call is not None:
            call.widen(size)
            self.sending.pump(call)

    def resize(self, initial: int) -> None:
        """Take the window with which streams begin; it counts for those there are.

        Raises:
            ConnectionFault: It makes one wider than HTTP/2 can count.
        """
        self.sending.resize(initial, self._open.values())

    def pump(self, call: Call) -> None:
        """Send what waits of an answer, as far as the client takes it."""
        self.sending.pump(call)

    # What the client may send.

    def consumed(self, call: Call) -> None:
        """Let the client send as much again as was taken."""
        if self._open.get(call.number) is call:
            self._hold(call)
            self._grant(call)

    def _hold(self, call: Call) -> None:
        """Count what is held of a call.

        Raises:
            Status: All calls of the connection hold too much.
        """
        holds = call.holds
        self._held += holds - call.held
        grew, call.held = holds > call.held, holds
        if grew and self._held > _MAX_HELD_MESSAGES * self._options.max_message_bytes:
            raise Status(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Requests of {self._held:,} bytes wait on this connection. Wait for "
                "answers before you send more.",
            )

    def _grant(self, call: Call) -> None:
        free = call.ungranted - call.waiting
        if free >= RECEIVE_WINDOW // 2 and not call.heard_all:
            call.ungranted -= free
            call.receive_window += free
            self._write(frames.window_update(call.number, free))

    # What is answered.

    def _heard_all(self, call: Call) -> None:
        call.end_of_messages()
        if not isinstance(call.method, Unary):
            return
        message = call.only_message()
        if message is None or call.has_part:
            words = "This method takes exactly one request."
            self._end(call, Status(grpc.StatusCode.UNIMPLEMENTED, words))
        else:
            self._answer(call, call.method, message)

    def _answer(self, call: Call, method: Unary, message: bytes) -> None:
        try:
            answer = method.answer(message, call)
        except Exception as error:  # noqa: BLE001 - the edge: nothing passes it
            self._end(call, _status(error))
            return
        if isinstance(answer, bytes):
            self._reply(call, answer)
        else:
            call.task = self._loop.create_task(answer)
            call.task.add_done_callback(partial(self._answered, call))

    def _answered(self, call: Call, task: asyncio.Task[bytes]) -> None:
        if self._open.get(call.number) is not call:
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self._reply(call, task.result())
        else:
            self._end(call, _status(error))

    async def _stream(self, call: Call, method: Streaming) -> None:
        status = None
        try:
            async with aclosing(method.answer(call.messages(), call)) as answers:
                async for message in answers:
                    await call.send(prefixed(message))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the edge
            status = _status(error)
        call.task = None
        self._end(call, status)

    def _reply(self, call: Call, message: bytes) -> None:
        if not self.sending.whole(call, prefixed(message)):
            call.outbox += prefixed(message)
            self._end(call, None)

    def _end(self, call: Call, status: Status | None, at_once: bool = False) -> None:
        """Send how a call ended, after what waits to be sent unless `at_once`."""
        if self._open.get(call.number) is not call:
            return
        if call.last_words is not None and not at_once:
            return  # it is decided, and only waits for the client
        call.drop()
        if status is None:
            call.last_words = responses.good(call.trailing)
        else:
            call.last_words = status.fields()
        if at_once:
            call.outbox.clear()
        self.sending.pump(call)
        if self._open.get(call.number) is call:
            call.timer = self._loop.call_later(_STUCK_S, self._give_up, call)

    def _give_up(self, call: Call) -> None:
        """Forget an answer that its client does not take."""
        self._write(frames.reset(call.number, Fault.CANCEL))
        self._close(call)

    def _close(self, call: Call) -> None:
        del self._open[call.number]
        self._held -= call.held
        if call.task is not None or call.timer is not None or call.outbox:
            self.sending.forget(call)
            call.drop()
        if not self._open:
            self._idle()

    # What takes too long.

    def _watch(self, call: Call) -> None:
        left_s = call.time_remaining()
        if isinstance(call.method, Unary) and not call.heard_all:
            timeout_s = self._options.request_timeout_s
            left_s = timeout_s if left_s is None else min(left_s, timeout_s)
        if left_s is not None:
            call.timer = self._loop.call_later(left_s, self._late, call)

    def _late(self, call: Call) -> None:
        if call.time_remaining() == 0.0:
            words = "The time that the caller allowed ran out."
        elif isinstance(call.method, Unary) and not call.heard_all:
            timeout_s = self._options.request_timeout_s
            words = f"The request did not arrive within {timeout_s:g} s."
        else:
            self._watch(call)
            return
        self._end(call, Status(grpc.StatusCode.DEADLINE_EXCEEDED, words), at_once=True)


def _status(error: BaseException) -> Status:
    if isinstance(error, Status):
        return error
    if isinstance(error, asyncio.CancelledError):
        return Status(grpc.StatusCode.CANCELLED, "The call was cancelled here.")
    _log.error("a call failed", exc_info=error)
    words = "Something went wrong here, not with your request."
    return Status(grpc.StatusCode.INTERNAL, words)
