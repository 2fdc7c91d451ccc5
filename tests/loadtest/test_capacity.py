"""The search for capacity, against a server whose capacity is known."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.conftest import GatewayProcess
from tests.loadtest.faulty import faulty
from tests.loadtest.test_runs import load


@pytest.mark.soak
@pytest.mark.timeout(700)
def test_capacity_repeats(gateway: GatewayProcess, tmp_path: Path) -> None:
    """Four slots of 50 ms: found within 5 minutes, the same within 10 % when repeated."""
    arguments = ["--shape", "capacity", "--slo", "p99<250ms", "--mix", "image"]
    rates = []
    with faulty(gateway.url, slots=4, queue=100, work_s=0.05) as server:
        for name in ("first", "second"):
            began_s = time.monotonic()
            run = load(tmp_path / name, server.url, *arguments).outcome()
            assert time.monotonic() - began_s < 300
            assert run.code == 0, run.text
            assert run.report["capacity"]["confirmed"]
            rates.append(run.report["capacity"]["rate"])

    assert 50 < min(rates) < 90
    assert max(rates) / min(rates) < 1.1
