# SPDX-License-Identifier: Apache-2.0
"""A small real server in front of a real gateway, with a fault that is wanted."""

from __future__ import annotations

import asyncio
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import (
    ClassifierServicer,
    ClassifierStub,
    add_ClassifierServicer_to_server,
)

_LABEL = re.compile(rb'"label":"[^"]*"|$')
_OVERLOADED = b'{"error": {"code": "overloaded", "message": "", "request_id": ""}}'


@dataclass
class Faulty:
    """Answers as the gateway does, from memory where it has been asked before.

    Attributes:
        gateway: Its URL.
        swap_every: Of so many answers one is swapped with the next that differs.
        drop_every: Of so many requests one gets no answer at all.
        stall_every_s: Nothing is answered for `stall_s` each time so long has passed.
        slots: How many requests are worked on at once; 0 is no limit.
        queue: How many more may wait; the others are refused.
        work_s: How long each takes.
        metrics: Whether it has metrics, of a made-up gateway that takes 2 ms to decode.
    """

    gateway: str
    swap_every: int = 0
    drop_every: int = 0
    stall_every_s: float = 0.0
    stall_s: float = 0.2
    slots: int = 0
    queue: int = 4
    work_s: float = 0.0
    metrics: bool = False
    port: int = 0
    _known: dict[bytes, bytes] = field(default_factory=dict)
    _count: int = 0
    _busy: int = 0
    _free: asyncio.Semaphore | None = None
    _began_s: float = 0.0
    _held: tuple[bytes, asyncio.Future[bytes]] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer the requests of a connection."""
        try:
            while answer := await self._answer(*await _request(reader)):
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: bytes, body: bytes) -> bytes:
        if b"/metrics " in head:
            return _response(*self._metrics())
        if head.startswith(b"GET"):
            return await self._real(head, body)
        self._count += 1
        number = self._count  # others come while this one is answered
        if self.drop_every and number % self.drop_every == 0:
            return b""
        if self.slots and self._busy >= self.slots + self.queue:
            return _response(503, _OVERLOADED)
        await self._work()
        self._stall()
        return await self._swapped(await self._real(head, body), number)

    async def _work(self) -> None:
        self._free = self._free or asyncio.Semaphore(self.slots or 1000)
        self._busy += 1
        try:
            async with self._free:
                await asyncio.sleep(self.work_s)
        finally:
            self._busy -= 1

    def _metrics(self) -> tuple[int, bytes]:
        if not self.metrics:
            return 404, b""
        labels = 'phase="decode",model="mlp",version="1"'
        text = (
            "# TYPE process_cpu_seconds counter\n"
            f"process_cpu_seconds_total {time.monotonic() / 2}\n"
            "# TYPE inkling_phase_seconds histogram\n"
            f'inkling_phase_seconds_bucket{{{labels},le="0.001"}} 0\n'
            f'inkling_phase_seconds_bucket{{{labels},le="0.005"}} {self._count}\n'
            f'inkling_phase_seconds_bucket{{{labels},le="+Inf"}} {self._count}\n'
            f"inkling_phase_seconds_sum{{{labels}}} {self._count * 0.002}\n"
            f"inkling_phase_seconds_count{{{labels}}} {self._count}\n"
        )
        return 200, text.encode()

    def _stall(self) -> None:
        """Hold everybody up, as a collection of garbage does."""
        now_s = time.monotonic()
        self._began_s = self._began_s or now_s
        if self.stall_every_s and now_s - self._began_s > self.stall_every_s:
            time.sleep(self.stall_s)
            self._began_s = now_s

    async def _swapped(self, answer: bytes, number: int) -> bytes:
        if self._held:
            before, waiting = self._held
            if _LABEL.search(before)[0] != _LABEL.search(answer)[0]:
                self._held = None
                waiting.set_result(answer)
                return before
        elif self.swap_every and number % self.swap_every == 0:
            self._held = (answer, asyncio.get_running_loop().create_future())
            return await self._held[1]
        return answer

    async def _real(self, head: bytes, body: bytes) -> bytes:
        line, _, rest = head.partition(b"\r\n")
        key = line + body
        if key not in self._known:
            kind = next(
                (
                    x
                    for x in rest.split(b"\r\n")
                    if x.lower().startswith(b"content-type")
                ),
                b"Content-Type: text/plain",
            )
            path = line.split()[1].decode()
            request = urllib.request.Request(
                self.gateway + path,
                body or None,
                {"Content-Type": kind.partition(b": ")[2].decode()},
            )
            answer = await asyncio.to_thread(_fetch, request)
            if not answer.startswith(b"HTTP/1.1 200"):
                return answer  # the next one may be another
            self._known[key] = answer
        return self._known[key]


@contextmanager
def faulty(gateway: str, **faults: object) -> Iterator[Faulty]:
    """Run such a server on a free port until the block ends."""
    proxy = Faulty(gateway, **faults)  # type: ignore[arg-type]
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def run() -> None:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, backlog=512)
        proxy.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stopped.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    stopped = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(10)
        loop.close()


class _FaultyClassifier(ClassifierServicer):
    """Answers as the gateway does; of so many batches one has its first answer last."""

    def __init__(self, target: str, work_s: float, turn_every: int) -> None:
        self._channel = grpc.insecure_channel(target)
        self._gateway = ClassifierStub(self._channel)  # type: ignore[no-untyped-call]
        self._work_s, self._turn_every = work_s, turn_every
        self._known: dict[bytes, pb.ClassifyResponse] = {}
        self._batches = 0

    def GetModel(self, request: Any, context: Any) -> Any:
        return self._gateway.GetModel(request)

    def Classify(self, request: Any, context: Any) -> Any:
        time.sleep(self._work_s)
        key = request.SerializeToString()
        if key not in self._known:
            self._known[key] = self._gateway.Classify(request)
        answer = pb.ClassifyResponse()
        answer.CopyFrom(self._known[key])
        is_batch = len(request.images) > 1
        self._batches += is_batch
        if is_batch and self._turn_every and self._batches % self._turn_every == 0:
            answer.results.append(answer.results.pop(0))
        return answer

    def close(self) -> None:
        self._channel.close()


@contextmanager
def faulty_grpc(
    target: str, slots: int, queue: int, work_s: float = 0.0, turn_every: int = 0
) -> Iterator[str]:
    """Run a gRPC server in front of a gateway's until the block ends; yield its URL."""
    servicer = _FaultyClassifier(target, work_s, turn_every)
    server = grpc.server(
        ThreadPoolExecutor(slots), maximum_concurrent_rpcs=slots + queue
    )
    add_ClassifierServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
        servicer.close()


async def _request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head, await reader.readexactly(length)


def _fetch(request: urllib.request.Request) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return _response(200, response.read())
    except urllib.error.HTTPError as error:
        return _response(error.code, error.read())


def _response(status: int, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
