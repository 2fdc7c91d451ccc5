# SPDX-License-Identifier: Apache-2.0
"""Slow clients in a process of their own, so that they do not slow the test down.

`python slow_clients.py PORT COUNT` opens COUNT connections of each kind, says so with a
line, sends a byte now and then on each, and prints how they ended as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

_ADDRESS = b"/v1/models/mlp:classify HTTP/1.1\r\nHost: x\r\n"
# What each kind sends at once; what it drips from then on.
_KINDS = {
    "headers": (b"POST " + _ADDRESS, b"X-Padding: " + bytes(1000).replace(b"\0", b"a")),
    "bodies": (b"POST " + _ADDRESS + b"Content-Length: 9999\r\n\r\n", bytes(1000)),
    "stalled": (b"POST " + _ADDRESS + b"Content-Length: 9999\r\n\r\nhello", b""),
    "idle": (b"", b""),
    "kept": (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b""),
}
_SHARES = {"headers": 1.0, "bodies": 0.9, "stalled": 0.1, "idle": 0.5, "kept": 0.5}
_DRIP_S = 0.5
_OPENING_S = 1.0


async def _client(port: int, kind: str) -> tuple[str, str, float]:
    """Return the kind, the last status that was heard, and when the end came."""
    at_once, drip = _KINDS[kind]
    await asyncio.sleep(random.uniform(0, _OPENING_S))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.monotonic()
    writer.write(at_once)
    hearing = asyncio.create_task(reader.read())
    for place in range(120):
        await asyncio.wait({hearing}, timeout=random.uniform(0.5, 1.5) * _DRIP_S)
        if hearing.done():
            break
        writer.write(drip[place : place + 1])
    took = time.monotonic() - started
    writer.close()
    try:
        answer = hearing.result().rpartition(b"HTTP/1.1 ")[2]
    except asyncio.InvalidStateError:
        return kind, "never", took
    except ConnectionError:
        return kind, "reset", took
    return kind, answer[:3].decode(), took


async def _all(port: int, count: int) -> dict[str, Any]:
    clients = [
        asyncio.create_task(_client(port, kind))
        for kind, share in _SHARES.items()
        for _ in range(round(share * count))
    ]
    await asyncio.sleep(_OPENING_S)
    print("open", flush=True)
    ends: dict[str, Any] = {kind: {"statuses": {}, "last_s": 0.0} for kind in _KINDS}
    for kind, status, seconds in await asyncio.gather(*clients):
        statuses = ends[kind]["statuses"]
        statuses[status] = statuses.get(status, 0) + 1
        ends[kind]["last_s"] = max(ends[kind]["last_s"], seconds)
    return ends


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_all(int(sys.argv[1]), int(sys.argv[2])))))
