"""Answers the messages of one stream, several at once, each as it is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Generic, TypeVar

__all__ = ["Stream"]

_T = TypeVar("_T")
# Messages of one stream that are worked on or whose answers wait to be sent; more wait
# to be read.
_WINDOW = 16


class Stream(Generic[_T]):
    """One stream, for as long as it lasts."""

    def __init__(
        self,
        answer: Callable[[bytes], _T | Coroutine[Any, Any, _T]],
        ending: asyncio.Event,
    ) -> None:
        """Take what answers.

        Args:
            answer: Answers one message, at once or later, and never raises.
            ending: Once it is set, what was read is answered and no more is read.
        """
        self._answer = answer
        self._ending = ending
        self._answers: asyncio.Queue[_T | None] = asyncio.Queue()
        self._places = asyncio.Semaphore(_WINDOW)
        self._tasks: set[asyncio.Task[_T]] = set()

    async def answers(self, bodies: AsyncIterator[bytes]) -> AsyncIterator[_T]:
        """Yield an answer for each message, as soon as it is there."""
        reading = asyncio.create_task(self._read(bodies))
        ending = asyncio.create_task(self._ending.wait())
        finishing = asyncio.create_task(self._finish(reading, ending))
        try:
            while (answer := await self._answers.get()) is not None:
                yield answer
                self._places.release()
        finally:
            for task in (reading, ending, finishing, *self._tasks):
                task.cancel()

    async def _read(self, bodies: AsyncIterator[bytes]) -> None:
        async for body in bodies:
            await self._places.acquire()
            answer = self._answer(body)
            if asyncio.iscoroutine(answer):
                task = asyncio.create_task(answer)
                self._tasks.add(task)
                task.add_done_callback(self._done)
            else:
                self._answers.put_nowait(answer)

    def _done(self, task: asyncio.Task[_T]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._answers.put_nowait(task.result())

    async def _finish(
        self, reading: asyncio.Task[None], ending: asyncio.Task[bool]
    ) -> None:
        """Wait for the end of the stream or the server, and what is under way."""
        await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        await asyncio.wait({reading})
        await asyncio.gather(*self._tasks)
        await self._answers.put(None)
