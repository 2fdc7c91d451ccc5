# SPDX-License-Identifier: Apache-2.0
"""F5: offered more than it can do, the gateway goes on doing what it can."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.machine import TooSlow, free_port, until, within

# A gateway whose engine sleeps, so that its capacity is known and the cores are idle:
# 4 threads and 100 ms a call are 40 a second.
_SERVER = """
import socket, sys, time
from inkling_serving.engines.loaded_version import LoadedVersion
from inkling_serving.settings import Settings
from inkling_serving.launch.gateway import serve

predict = LoadedVersion.predict

def slowly(self, inputs, timeout_s=None):
    time.sleep(0.1)
    return predict(self, inputs, timeout_s)

LoadedVersion.predict = slowly
LoadedVersion.quick = property(lambda self: False, lambda self, value: None)
sys.exit(serve(Settings(
    models_dir=sys.argv[1], http_port=int(sys.argv[2]), grpc_port=0, workers=1, threads=4,
    queue_timeout_s=0.5,
)))
"""
_CAPACITY = 40.0
_DEADLINE_S = 1.0
_SECONDS = 5.0


@pytest.fixture(scope="module")
def port(published: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The HTTP port of that gateway."""
    log, chosen = tmp_path_factory.mktemp("overload") / "log", free_port()
    command = [sys.executable, "-c", _SERVER, str(published), str(chosen)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output)
    until(lambda: b"startup complete" in log.read_bytes())
    yield chosen
    process.terminate()
    assert process.wait(30) == 0


async def _asked(port: int, head: str, body: bytes = b"") -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{head}\r\nHost: x\r\nConnection: close\r\n".encode())
        writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read()
        return int(answer.split(b" ", 2)[1]), answer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _offered(port: int, picture: bytes, rate: float) -> list[tuple[int, float]]:
    """Offer requests as a Poisson process; return statuses and seconds."""
    seen: list[tuple[int, float]] = []
    draw = random.Random(0)

    async def one(head: str, body: bytes = b"", probe: int = 0) -> None:
        started = time.perf_counter()
        status, answer = await _asked(port, head, body)
        took = time.perf_counter() - started
        seen.append((probe + status, took))
        if status == 503:
            assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["code"] == (
                "overloaded"
            )
            assert b"retry-after: 1" in answer.lower()

    tasks = []
    began = due = time.perf_counter()
    number = 0
    while due < began + _SECONDS:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        head = "POST /v1/models/mlp:classify HTTP/1.1"
        tasks.append(asyncio.create_task(one(head, picture)))
        if number % 20 == 0:
            tasks.append(asyncio.create_task(one("GET /livez HTTP/1.1", probe=1000)))
        number += 1
        due += draw.expovariate(rate)
    await asyncio.gather(*tasks)
    return seen


async def _capacity(port: int, picture: bytes) -> float:
    """Return how many requests a second are answered for as many as can wait, no more."""
    head, answered = "POST /v1/models/mlp:classify HTTP/1.1", 0
    end = time.perf_counter() + _SECONDS / 2

    async def ask() -> None:
        nonlocal answered
        while time.perf_counter() < end:
            status, _ = await _asked(port, head, picture)
            if status == 503:
                raise TooSlow("what could be answered at once was not")
            assert status == 200
            answered += 1

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(8)))
    return answered / (time.perf_counter() - started)


@pytest.mark.parametrize(("times", "least"), [(3, 0.95), (10, 0.90)])
def test_goodput_stays_at_capacity(
    port: int, picture: bytes, times: int, least: float
) -> None:
    """At 3x and 10x capacity: answers in time as ever, quick refusals, live probes."""
    capacity = asyncio.run(_capacity(port, picture))
    seen = asyncio.run(_offered(port, picture, times * _CAPACITY))
    good = [took for status, took in seen if status == 200 and took <= _DEADLINE_S]
    late = [took for status, took in seen if status == 200 and took > _DEADLINE_S]
    refused = sorted(took for status, took in seen if status == 503)
    at_once = [took for took in refused if took < 0.4]
    probes = [took for status, took in seen if status == 1200]

    # What waits when the arrivals end is answered after them.
    share = len(good) / (capacity * (_SECONDS + 0.5))
    worst = at_once[int(0.99 * len(at_once))] if at_once else 0.0
    print(
        f"\n{times}x: goodput {share:.0%} of {capacity:.1f}/s, {len(late)} late, "
        f"{len(refused)} refused, those at once p99 {1000 * worst:.0f} ms; "
        f"{len(probes)} probes, worst {1000 * max(probes):.0f} ms"
    )
    assert {status for status, _ in seen} == {200, 503, 1200}
    within(max(late, default=0.0), _DEADLINE_S)
    within(worst, 0.25)
    within(max(probes), 0.5)
    if share < least - 0.05:  # the ends of a run of 5 s
        raise TooSlow(f"goodput is {share:.0%} of capacity")
