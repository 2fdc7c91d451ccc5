# SPDX-License-Identifier: Apache-2.0
"""The pool in which pictures are worked on."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

from inkling_serving.runtime.thread_pool import ThreadPool


class _Pictures:
    """Something that takes memory."""


def test_what_was_cancelled_holds_no_pictures() -> None:
    """While all threads are busy, calls that nobody waits for keep nothing alive."""
    pool, free = ThreadPool(1, 10_000), threading.Event()
    held: list[weakref.ref[_Pictures]] = []

    async def ask() -> None:
        pictures = _Pictures()
        held.append(weakref.ref(pictures))
        await pool.run(lambda: id(pictures))

    async def run() -> None:
        busy = asyncio.create_task(pool.run(lambda: free.wait(10)))
        await asyncio.sleep(0.05)
        calls = [asyncio.create_task(ask()) for _ in range(100)]
        await asyncio.sleep(0.05)
        while calls:
            calls.pop().cancel()
        await asyncio.sleep(0.05)
        gc.collect()
        assert 100 == len(held)
        assert not [one for one in held if one() is not None]
        free.set()
        assert await busy

    asyncio.run(run())
    pool.close()
