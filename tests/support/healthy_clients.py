# SPDX-License-Identifier: Apache-2.0
"""Clients that behave, in a process of their own, so that an attack does not slow them.

`python healthy_clients.py HTTP_PORT GRPC_PORT MODEL` reads a picture from the standard
input, says so with a line, asks both ports over and over, and prints what it saw as one
line of JSON when the input ends.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import threading
import time
from typing import Any

import grpc

from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub

_PAUSE_S = 0.02
_TIMEOUT_S = 10.0
_KEPT = 10


class _Seen:
    """The seconds of each answer, and each failure."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.failures: list[str] = []

    def as_json(self) -> dict[str, Any]:
        ordered = sorted(self.times) or [0.0]
        return {
            "count": len(self.times),
            "failures": self.failures[:5],
            "failed": len(self.failures),
            "p50_ms": round(1000 * ordered[len(ordered) // 2], 1),
            "p99_ms": round(1000 * ordered[int(0.99 * (len(ordered) - 1))], 1),
            "worst_ms": round(1000 * ordered[-1], 1),
        }


def _over_http(port: int, model: str, picture: bytes, stop: threading.Event) -> _Seen:
    seen, number = _Seen(), 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    while not stop.wait(_PAUSE_S):
        number += 1
        if number % _KEPT == 0:  # a new connection from time to time
            connection.close()
        started = time.perf_counter()
        try:
            try:
                response = _asked(connection, model, picture)
            except (ConnectionError, http.client.HTTPException):
                # A server may close a kept connection at any time; all clients try
                # again over a new one.
                if number % _KEPT == 0:
                    raise
                connection.close()
                response = _asked(connection, model, picture)
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            seen.failures.append(repr(error))
            connection.close()
            continue
        if response.status == 200:
            seen.times.append(time.perf_counter() - started)
        else:
            seen.failures.append(f"{response.status} {body[:200]!r}")
    return seen


def _asked(
    connection: http.client.HTTPConnection, model: str, picture: bytes
) -> http.client.HTTPResponse:
    connection.request("POST", f"/v1/models/{model}:classify", picture)
    return connection.getresponse()


def _over_grpc(port: int, model: str, picture: bytes, stop: threading.Event) -> _Seen:
    seen, number = _Seen(), 0
    request = pb.ClassifyRequest(model=model, images=[picture])
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    while not stop.is_set():
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
            for number in range(_KEPT):
                if stop.wait(_PAUSE_S):
                    break
                started = time.perf_counter()
                try:
                    stub.Classify(request, timeout=_TIMEOUT_S, wait_for_ready=True)
                except grpc.RpcError as error:
                    seen.failures.append(f"{error.code()} {error.details()}")
                else:
                    # The first answer includes the connection.
                    del number
                    seen.times.append(time.perf_counter() - started)
    return seen


def _main(http_port: int, grpc_port: int, model: str) -> None:
    picture = bytes.fromhex(sys.stdin.readline())
    stop = threading.Event()
    found: dict[str, dict[str, Any]] = {}

    def run(name: str, ask: Any, port: int) -> None:
        found[name] = ask(port, model, picture, stop).as_json()

    threads = [
        threading.Thread(target=run, args=("http", _over_http, http_port)),
        threading.Thread(target=run, args=("grpc", _over_grpc, grpc_port)),
    ]
    for thread in threads:
        thread.start()
    print("asking", flush=True)
    select.select([sys.stdin], [], [], 300)
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
