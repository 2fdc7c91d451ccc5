# SPDX-License-Identifier: Apache-2.0
"""What a second engine behind one gateway process adds: it should double the rate.

    python -m benchmarks.replicas [--rounds 3] [--seconds 3] [--call-ms 20] [--batch 4]

The engines take a fixed time for a call, one call after the other, and next to no CPU
time: so they are the limit, and not this machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
from PIL import Image

from benchmarks.closed_loop import http_request, run
from benchmarks.peers.timed_engine import COUNTS_METHOD, Counts
from benchmarks.processes import Server

__all__ = ["Load", "Round", "measure"]

_WARM_UP_S = 0.5
_EXPECTED = b'"label":"0"'


@dataclass(frozen=True)
class Load:
    """What is asked of the gateways, and what the engines make of it.

    Attributes:
        rounds: Each asks one engine, then two.
        seconds: Length of a round's half.
        connections: Requests under way.
        threads: Of the gateway's process.
        call_s: How long an engine takes for a call.
        batch: Most pictures in a call.
    """

    rounds: int = 3
    seconds: float = 3.0
    connections: int = 32
    threads: int = 32
    call_s: float = 0.02
    batch: int = 4


@dataclass(frozen=True)
class Round:
    """One load on a gateway.

    Attributes:
        rate: Answers per second.
        shares: Of the calls, by engine.
        busy: Share of the time in which a call was under way, by engine.
        pictures: Mean number in a call.
    """

    rate: float
    shares: tuple[float, ...]
    busy: tuple[float, ...]
    pictures: float


def measure(load: Load) -> tuple[list[Round], list[Round]]:
    """Return what one engine made of the load, and what two did.

    Raises:
        RuntimeError: An answer was wrong.
    """
    found: tuple[list[Round], list[Round]] = ([], [])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        timed = ("benchmarks.peers.timed_engine", "127.0.0.1:{grpc}", str(load.call_s))
        engines = [_started(stack, folder, timed) for _ in range(2)]
        for engine in engines:
            engine.wait()
        groups = (engines[:1], engines)
        gateways = [_gateway(stack, folder, load, group) for group in groups]
        for _ in range(load.rounds):
            for gateway, group, rounds in zip(gateways, groups, found, strict=True):
                _asked(gateway, group, load, _WARM_UP_S)
                rounds.append(_asked(gateway, group, load, load.seconds))
    return found


def _started(stack: ExitStack, folder: Path, command: Sequence[str]) -> Server:
    log = Path(tempfile.mkstemp(dir=folder, suffix=".log")[1])
    server = Server(command, os.sched_getaffinity(0), log, {})
    stack.callback(server.stop)
    return server


def _gateway(
    stack: ExitStack, folder: Path, load: Load, engines: Sequence[Server]
) -> Server:
    addresses = ",".join(f"127.0.0.1:{engine.grpc_port}" for engine in engines)
    command = ["inkling", "serve", "--workers", "1", "--log-level", "warning"]
    command += ["--http-port", "{http}", "--grpc-port", "{grpc}"]
    command += ["--engine", "tensorflow_serving", "--served-models", "mlp"]
    command += ["--tensorflow-serving", addresses, "--threads", str(load.threads)]
    command += ["--engine-batch", str(load.batch), "--queue", "1000"]
    server = _started(stack, folder, command)
    server.wait(_request(), _EXPECTED)
    return server


def _request() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(file, "PNG")
    return http_request("/v1/models/mlp:classify", file.getvalue())


def _asked(
    gateway: Server, engines: Sequence[Server], load: Load, seconds: float
) -> Round:
    before = [_counts(engine) for engine in engines]
    request = (_request(), _EXPECTED, load.connections, seconds)
    result = run(gateway.http_port, *request)
    after = [_counts(engine) for engine in engines]
    if result.failures:
        raise RuntimeError(f"{result.failures} answers were wrong")
    calls = [b.calls - a.calls for a, b in zip(before, after, strict=True)]
    pictures = sum(b.pictures - a.pictures for a, b in zip(before, after, strict=True))
    busy = [
        (b.busy_s - a.busy_s) / result.seconds
        for a, b in zip(before, after, strict=True)
    ]
    shares = tuple(count / sum(calls) for count in calls)
    return Round(result.rate, shares, tuple(busy), pictures / sum(calls))


def _counts(engine: Server) -> Counts:
    with grpc.insecure_channel(f"127.0.0.1:{engine.grpc_port}") as channel:
        call: Any = channel.unary_unary(COUNTS_METHOD)
        return Counts(**json.loads(call(b"", timeout=5)))


def _line(name: str, found: Round) -> str:
    shares = ", ".join(f"{share:.0%}" for share in found.shares)
    busy = ", ".join(f"{share:.0%}" for share in found.busy)
    return (
        f"{name:12} {found.rate:6.0f} req/s, {found.pictures:4.1f} pictures a call, "
        f"calls {shares}, busy {busy}"
    )


def _parsed() -> Load:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=Load.rounds)
    parser.add_argument("--seconds", type=float, default=Load.seconds)
    parser.add_argument("--connections", type=int, default=Load.connections)
    parser.add_argument("--threads", type=int, default=Load.threads)
    parser.add_argument("--call-ms", type=float, default=1000 * Load.call_s)
    parser.add_argument("--batch", type=int, default=Load.batch)
    options = vars(parser.parse_args())
    return Load(call_s=options.pop("call_ms") / 1000, **options)


def main() -> int:
    """Measure, and print every round."""
    load = _parsed()
    print(load)
    one, two = measure(load)
    for alone, both in zip(one, two, strict=True):
        print(_line("one engine", alone))
        print(_line("two engines", both), f"-> {both.rate / alone.rate:.2f} times")
    ratio = median(b.rate / a.rate for a, b in zip(one, two, strict=True))
    print(f"median: {ratio:.2f} times the rate of one engine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
