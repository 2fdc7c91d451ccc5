"""The same generator over gRPC: a process that is told on its input what to send.

A line of JSON in, a line out; in a process of its own, since grpc.aio's client costs
about as much as a server.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from dataclasses import asdict
from typing import Any

import grpc

from benchmarks.closed_loop import Result

_METHOD = "/inkling.v1.Classifier/Classify"


async def _run(
    port: int, request: bytes, expected: bytes, connections: int, seconds: float
) -> Result:
    """Keep `connections` busy with one request for some seconds."""
    result = Result()
    started = time.perf_counter()

    async def keep_busy(number: int) -> None:
        # Channels with the same arguments would share a connection.
        options = [("bench.number", number), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            call: Any = channel.unary_unary(_METHOD)
            while (sent := time.perf_counter()) < started + seconds:
                answer = await call(request)
                result.latencies_s.append(time.perf_counter() - sent)
                result.failures += expected not in answer

    await asyncio.gather(*(keep_busy(number) for number in range(connections)))
    result.seconds = time.perf_counter() - started
    return result


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        for name in ("request", "expected"):
            asked[name] = base64.b64decode(asked[name])
        print(json.dumps(asdict(asyncio.run(_run(**asked)))), flush=True)
