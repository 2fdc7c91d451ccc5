# SPDX-License-Identifier: Apache-2.0
"""The end of one of two gateways, as its gRPC clients see it."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from inkling.gateway.channel import CHANNEL_OPTIONS
from inkling.gateway.retries import grpc_retry_config
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from tests.support.gateway_process import Killable
from tests.support.machine import free_port

_CLIENTS = 8


def _channel(ports: list[int]) -> grpc.Channel:
    """Return a channel that balances over the ports, with the client's retry policy."""
    config = dict(grpc_retry_config("inkling.v1.Classifier"))
    config["loadBalancingConfig"] = [{"round_robin": {}}]
    options = [
        *CHANNEL_OPTIONS,
        ("grpc.service_config", json.dumps(config)),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
    return grpc.insecure_channel(f"ipv4:{addresses}", options)


@contextmanager
def _asking(ports: list[int], picture: bytes) -> Iterator[Counter[str]]:
    """Ask from several threads, each over a channel of its own; count the outcomes."""
    found: Counter[str] = Counter()
    end = threading.Event()
    request = pb.ClassifyRequest(model="mlp", images=[picture])

    def ask() -> None:
        with _channel(ports) as channel:
            stub: Any = ClassifierStub(channel)  # type: ignore[no-untyped-call]
            while not end.is_set():
                try:
                    stub.Classify(request, timeout=10)
                    found["ok"] += 1
                except grpc.RpcError as error:
                    found[f"{error.code().name}: {error.details()}"] += 1

    threads = [threading.Thread(target=ask) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        end.set()
        for thread in threads:
            thread.join(20)


@pytest.mark.parametrize(
    "ends", [1, pytest.param(10, marks=pytest.mark.soak)], ids=lambda n: f"{n} ends"
)
def test_no_call_is_lost_where_another_gateway_serves(
    ends: int, published: Path, tmp_path: Path, picture: bytes
) -> None:
    """SIGTERM ends one of two gateways: the client's retries mend every call."""
    gateways = [
        Killable(published, tmp_path / str(n), free_port(), free_port()) for n in (0, 1)
    ]
    for gateway in gateways:
        gateway.start()
    for gateway in gateways:
        gateway.wait_ready()
    try:
        with _asking([g.grpc_port for g in gateways], picture) as found:
            for number in range(ends):
                # The clients find a gateway that is back within a second.
                time.sleep(2 + 0.05 * number)
                gateway = gateways[number % 2]
                assert 0 == gateway.end(signal.SIGTERM)
                gateway.start().wait_ready()
    finally:
        for gateway in gateways:
            gateway.end(signal.SIGTERM)

    print(f"{ends} ends: {dict(found)}")
    assert {"ok"} == set(found)
    assert found["ok"] > 100
