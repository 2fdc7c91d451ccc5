# SPDX-License-Identifier: Apache-2.0
"""What the gateway says of its own work: /metrics, Server-Timing, and gRPC's trailer."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from inkling.v1 import classifier_pb2 as pb
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.runtime.timings import PHASES, Timings
from tests.support.machine import until

_CLASSIFY = "/v1/models/mlp:classify"


def _read(gateway: Any) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and the values of its labels."""
    answer = gateway.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return _samples(answer.body)


def _samples(text: bytes) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): (
            sample.value
        )
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_every_request_is_counted_by_its_outcome(
    published: Path, start_gateway: Callable[..., Any], picture: bytes
) -> None:
    """Good and refused requests of each protocol are counted, probes are not."""
    with start_gateway(published) as gateway:
        for _ in range(3):
            gateway.request("POST", _CLASSIFY, picture)
        gateway.request("POST", _CLASSIFY, b"no picture")
        gateway.request("POST", "/v1/models/nosuch:classify", picture)
        gateway.request("GET", "/nowhere")
        gateway.request("GET", "/livez")
        with grpc.insecure_channel(gateway.grpc_target) as channel:
            call: Any = channel.unary_unary("/inkling.v1.Classifier/Classify")
            body = pb.ClassifyRequest(model="mlp", images=[picture]).SerializeToString()
            call(body, timeout=5)
        found = _read(gateway)

    counted = {
        key[1:]: n for key, n in found.items() if key[0] == "inkling_requests_total"
    }
    # Labels in the order of their names: code, model, protocol.
    assert counted == {
        ("ok", "mlp", "http"): 3,
        ("invalid_image", "mlp", "http"): 1,
        ("model_not_found", "", "http"): 1,
        ("not_found", "", "http"): 1,
        ("ok", "mlp", "grpc"): 1,
    }
    assert found["inkling_request_seconds_count", "mlp", "http", "1"] == 4
    assert found["inkling_phase_seconds_count", "mlp", "engine", "1"] == 5
    assert found["inkling_phase_seconds_sum", "mlp", "engine", "1"] > 0
    assert found["process_cpu_seconds_total",] > 0
    assert found["process_resident_memory_bytes",] > 1e7


def test_workers_add_up_and_nothing_is_forgotten(
    published: Path, start_gateway: Callable[..., Any], picture: bytes
) -> None:
    """Two workers answer for both, whichever is asked, and go on after one has died."""
    with start_gateway(published, "--workers", "2") as gateway:
        for _ in range(40):
            assert gateway.request("POST", _CLASSIFY, picture).status == 200
        until(lambda: _counted(gateway) == 40)
        children = Path(f"/proc/{gateway.process.pid}/task").glob("*/children")
        workers = [int(pid) for path in children for pid in path.read_text().split()]
        victims = [pid for pid in workers if _is_worker(pid)]
        assert len(victims) == 2
        time.sleep(3)  # each has left its figures by then
        os.kill(victims[0], signal.SIGKILL)
        until(lambda: _workers(gateway) == 2)
        assert _counted(gateway) == 40


def _is_worker(pid: int) -> bool:
    return "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()


def _counted(gateway: Any) -> float:
    return _read(gateway).get(("inkling_requests_total", "ok", "mlp", "http"), 0)


def _workers(gateway: Any) -> float:
    return _read(gateway)["inkling_workers",]


def test_phases_are_told_where_they_are_asked_for(gateway: Any, picture: bytes) -> None:
    """`timing=true` is answered with Server-Timing, and gRPC's metadata with a trailer."""
    silent = gateway.request("POST", _CLASSIFY, picture)
    asked = gateway.request("POST", _CLASSIFY + "?timing=true", picture)
    wrong = gateway.request("POST", _CLASSIFY + "?timing=maybe", picture)
    with grpc.insecure_channel(gateway.grpc_target) as channel:
        call: Any = channel.unary_unary("/inkling.v1.Classifier/Classify")
        body = pb.ClassifyRequest(model="mlp", images=[picture]).SerializeToString()
        _, done = call.with_call(body, timeout=5, metadata=[("inkling-timing", "true")])
        trailer = dict(done.trailing_metadata())["server-timing"]

    assert "server-timing" not in silent.headers
    assert (wrong.status, wrong.json["error"]["code"]) == (400, "invalid_request")
    for text in (asked.headers["server-timing"], trailer):
        found = re.fullmatch(r"(\w+;dur=\d+\.\d{3}(, |$))+", text)
        assert found, text
        assert list(PHASES) == re.findall(r"(\w+);dur", text)


@pytest.mark.parametrize("seconds", [0.0, 4e-5, 0.3, 99.0])
def test_histograms_add_up(tmp_path: Path, seconds: float) -> None:
    """Each observation is in one bucket; buckets count upwards to the sum of all."""
    own, other = Metrics(tmp_path), Metrics(tmp_path)
    timings = Timings()
    timings.model, timings.version, timings.engine = "mlp", 3, seconds
    for metrics in (own, other):
        metrics.observe("http", "ok", timings)
    other.save()
    saved = next(tmp_path.glob("*.json"))
    assert json.loads(saved.read_text())["requests"] == [["http", "mlp", "ok", 1]]
    saved.rename(tmp_path / "1.json")
    found = _samples(own.exposition())

    engine = "inkling_phase_seconds"
    assert found[engine + "_count", "mlp", "engine", "3"] == 2
    assert found[engine + "_sum", "mlp", "engine", "3"] == pytest.approx(2 * seconds)
    buckets = {
        key[1]: n
        for key, n in found.items()
        if key[0] == engine + "_bucket" and "engine" in key
    }
    below = [n for bound, n in sorted(buckets.items(), key=lambda item: float(item[0]))]
    assert below == sorted(below)
    assert below[-1] == 2
    assert all((n == 2) == (float(bound) >= seconds) for bound, n in buckets.items())
