# SPDX-License-Identifier: Apache-2.0
"""The search for capacity, against a server whose capacity is known."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.loadtest.faulty import faulty, faulty_grpc
from tests.support.gateway_process import GatewayProcess
from tests.support.load_run import load


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_capacity_repeats(
    protocol: str, gateway: GatewayProcess, tmp_path: Path
) -> None:
    """Four slots of 50 ms: found within 5 minutes, the same within 10 % when repeated."""
    arguments = ["--shape", "capacity", "--slo", "p99<1s"]
    slow: dict[str, Any] = {"slots": 4, "queue": 60, "work_s": 0.05}
    if protocol == "grpc":
        server: Any = faulty_grpc(gateway.grpc_target, **slow)
        arguments += ["--mix", "unary"]
    else:
        server = faulty(gateway.url, **slow)
        arguments += ["--mix", "image"]
    rates = []
    with server as found:
        target = found if protocol == "grpc" else found.url
        for name in ("first", "second"):
            began_s = time.monotonic()
            run = load(tmp_path / name, target, *arguments).outcome()
            assert time.monotonic() - began_s < 300
            assert run.code == 0, run.text
            assert run.report["capacity"]["confirmed"]
            rates.append(run.report["capacity"]["rate"])

    assert 50 < min(rates) < 90
    assert max(rates) / min(rates) < 1.1
