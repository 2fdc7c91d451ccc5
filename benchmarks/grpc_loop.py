# SPDX-License-Identifier: Apache-2.0
"""A closed-loop generator with grpc.aio's client; it prints its result as JSON.

    python -m benchmarks.grpc_loop PORT MESSAGE_FILE CONNECTIONS SECONDS

It runs in its own process, because it needs an event loop and threads.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc

from benchmarks.closed_loop import Result

METHOD = "/inkling.v1.Classifier/Classify"
# Channels of one process share a connection otherwise.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


async def _run(port: int, message: bytes, connections: int, seconds: float) -> Result:
    """Keep `connections` connections busy with one request for `seconds` seconds.

    Raises:
        grpc.RpcError: The server refused a call.
    """
    result, started = Result(), time.perf_counter()

    async def keep_busy() -> None:
        address = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(address, _OPTIONS) as channel:
            call: Any = channel.unary_unary(METHOD)
            while (sent := time.perf_counter()) < started + seconds:
                answer = await call(message)
                result.latencies_s.append(time.perf_counter() - sent)
                result.failures += not answer

    await asyncio.gather(*(keep_busy() for _ in range(connections)))
    result.seconds = time.perf_counter() - started
    return result


if __name__ == "__main__":
    port, path, connections, seconds = sys.argv[1:]
    message = Path(path).read_bytes()
    seen = asyncio.run(_run(int(port), message, int(connections), float(seconds)))
    print(json.dumps(asdict(seen)))
