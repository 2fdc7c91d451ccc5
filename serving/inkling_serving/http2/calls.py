"""One call: what its handler sees of it, and what is still to be sent of its answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from inkling_serving.http2.frames import MAX_WINDOW, Fault, StreamFault
from inkling_serving.http2.messages import PREFIX_BYTES, Inbox

if TYPE_CHECKING:
    from inkling_serving.http2.heads import Head

__all__ = ["Call", "Method", "Methods", "Streaming", "Transport", "Unary"]

# What may wait to be sent of one answer before its handler has to wait, too.
_MAX_WAITING_BYTES = 64 * 1024
# What a message takes in memory beside its bytes.
_MESSAGE_BYTES = 64


@dataclass(frozen=True)
class Unary:
    """A method with one request and one answer.

    Attributes:
        answer: Takes the request and the call; returns the answer, or what will be it
            once awaited. It may raise `Status`.
        max_message_bytes: What a request may have, where that is less than elsewhere.
    """

    answer: Callable[[bytes, Call], bytes | Coroutine[Any, Any, bytes]]
    max_message_bytes: int | None = None


@dataclass(frozen=True)
class Streaming:
    """A method with many requests, many answers, or both.

    Attributes:
        answer: Takes the requests and the call; yields the answers, in this order. It
            may raise `Status`.
        max_message_bytes: As in `Unary`.
    """

    answer: Callable[[AsyncIterator[bytes], Call], AsyncGenerator[bytes, None]]
    max_message_bytes: int | None = None


Method: TypeAlias = Unary | Streaming
# By path, as /package.Service/Method.
Methods: TypeAlias = Mapping[str, Method]


class Transport(Protocol):
    """What a call needs of its connection."""

    def pump(self, call: Call) -> None:
        """Send what waits of an answer, as far as the client takes it."""

    def consumed(self, call: Call) -> None:
        """Let the client send as much again as was taken."""


class Call:
    """One call, from its head to the end of its answer.

    Attributes:
        trailing: Metadata to send with the end of a good answer, in ASCII.
    """

    # What most calls never change; each begins with less to do.
    task: asyncio.Task[Any] | None = None
    timer: asyncio.TimerHandle | None = None
    # Bytes: received and not granted anew, of whole messages that nobody has taken,
    # and all that is counted as held for this call.
    ungranted = waiting = held = 0
    # Whether the client has sent all, and whether our own head has been sent.
    heard_all = head_sent = False
    # The trailers, once nothing can follow but them.
    last_words: bytes | None = None
    _arrived: asyncio.Event | None = None
    _sent: asyncio.Event | None = None
    _inbox: Inbox | None = None

    def __init__(
        self,
        transport: Transport,
        number: int,
        head: Head,
        method: Method,
        max_bytes: int,
        windows: tuple[int, int],
    ) -> None:
        """Begin.

        Args:
            transport: Its connection.
            number: Of its stream.
            head: What it began with.
            method: What answers it.
            max_bytes: What one message may have, unpacked.
            windows: Bytes that the client takes, and that it may send.
        """
        self._transport = transport
        self.number, self.head, self.method = number, head, method
        self.max_bytes = max_bytes
        self.send_window, self.receive_window = windows
        self.trailing: list[tuple[str, str]] = []
        self._began = monotonic()
        self._messages: deque[bytes] = deque()
        self.outbox = bytearray()

    @property
    def metadata(self) -> Mapping[str, str]:
        """Return what the caller sent beside its messages."""
        return self.head.metadata

    def time_remaining(self) -> float | None:
        """Return the seconds that the caller still allows; None without end."""
        if self.head.timeout_s is None:
            return None
        return max(0.0, self._began + self.head.timeout_s - monotonic())

    # For handlers of streams.

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield what the client sends, until it says that this is all."""
        while True:
            while self._messages:
                message = self._messages.popleft()
                self.waiting -= len(message) + PREFIX_BYTES
                self._transport.consumed(self)
                yield message
            if self.heard_all:
                return
            self._arrived = asyncio.Event()
            await self._arrived.wait()

    async def send(self, data: bytes) -> None:
        """Send a message, and return once not much waits to be sent."""
        self.outbox += data
        self._transport.pump(self)
        while len(self.outbox) > _MAX_WAITING_BYTES:
            self._sent = asyncio.Event()
            await self._sent.wait()

    # For the connection.

    @property
    def holds(self) -> int:
        """Return about how many bytes of memory the messages take."""
        part = len(self._inbox) if self._inbox is not None else 0
        return part + self.waiting + _MESSAGE_BYTES * len(self._messages)

    @property
    def has_part(self) -> bool:
        """Whether a message has begun that is not whole."""
        return bool(self._inbox)

    def put(self, data: bytes) -> None:
        """Take a piece of the messages.

        Raises:
            Status: One is too long, or not what its first byte says.
        """
        if self._inbox is None:
            self._inbox = Inbox(self.head.encoding, self.max_bytes)
        messages = self._inbox.put(data)
        self._messages.extend(messages)
        self.waiting += sum(map(len, messages)) + PREFIX_BYTES * len(messages)
        if self._arrived is not None:
            self._arrived.set()

    def end_of_messages(self) -> None:
        """Note that the client has sent all."""
        self.heard_all = True
        if self._arrived is not None:
            self._arrived.set()

    def only_message(self) -> bytes | None:
        """Return the one message of a unary call; None if there is not just one."""
        return self._messages[0] if len(self._messages) == 1 else None

    def widen(self, size: int) -> None:
        """Let more be sent.

        Raises:
            StreamFault: More than HTTP/2 can count.
        """
        self.send_window += size
        if self.send_window > MAX_WINDOW:
            raise StreamFault(Fault.FLOW_CONTROL_ERROR)

    def take(self, size: int) -> bytes:
        """Return what is sent next, and let the handler go on."""
        taken = bytes(self.outbox[:size])
        del self.outbox[:size]
        self.send_window -= len(taken)
        if self._sent is not None:
            self._sent.set()
        return taken

    def drop(self) -> None:
        """Stop whatever is done for this call."""
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None:
            self.task.cancel()
