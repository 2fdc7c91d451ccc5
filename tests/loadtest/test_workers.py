# SPDX-License-Identifier: Apache-2.0
"""Locust's master and a worker as two commands, as on two machines."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.gateway_process import GatewayProcess
from tests.support.load_run import load
from tests.support.machine import free_port, until

_PICTURES = 3


def _counted(gateway: GatewayProcess) -> float:
    """Return how many requests for the model the gateway has answered over HTTP."""
    text = gateway.request("GET", "/metrics").body.decode()
    rows = re.findall(
        r'^inkling_requests_total\{(?=.*protocol="http")(?=.*model="mlp").*\} (\S+)$',
        text,
        re.MULTILINE,
    )
    return sum(map(float, rows))


def test_a_master_and_a_worker_make_one_report(
    published: Path,
    tmp_path: Path,
    start_gateway: Callable[..., Any],
    clear_digits: list[np.ndarray],
    encode: Callable[..., bytes],
) -> None:
    """The master's report counts the requests that the gateway counts, and no others."""
    for digit in range(_PICTURES):
        folder = tmp_path / "pictures" / str(digit)
        folder.mkdir(parents=True)
        (folder / "one.png").write_bytes(encode(clear_digits[digit]))
    with start_gateway(published) as gateway:
        shared = ["--mix", "image", "--pictures", str(tmp_path / "pictures")]
        shared += ["--rate", "30", "--users", "20", "--duration", "3s"]
        shared += ["--warmup", "0s", "--master-port", str(free_port())]
        master_words = ["--master", "--expect-workers", "1", "--slo", "errors<=0%"]
        master = load(tmp_path / "master", gateway.url, *shared, *master_words)
        worker = load(tmp_path / "worker", gateway.url, *shared, "--worker")
        report, other = master.outcome(), worker.outcome()
        assert report.code == 0, report.text + other.text
        counts = report.report["total"]["counts"]
        # Before the load, the process that sends asks each picture alone, twice.
        expected = counts["offered"] + 2 * _PICTURES
        until(lambda: _counted(gateway) >= expected)
        counted = _counted(gateway)

    assert other.code == 0, other.text
    assert not (tmp_path / "worker" / "report.json").exists()
    assert report.report["generator"]["processes"] == 1
    assert 40 < counts["offered"] == counts["right"]
    assert counted == expected
