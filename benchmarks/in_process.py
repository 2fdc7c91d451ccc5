"""What the parts of an answer cost without a server, in CPU time per call.

A process that is told on its input which part to repeat: JSON in, JSON out, by line.

    python -m benchmarks.in_process MODELS_DIR SAMPLE_MODELS_DIR PICTURE LARGE_PICTURE
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.peers.work import model_at, prediction
from inkling.repository import Repository
from inkling_serving.engines.embedded import EmbeddedEngine
from inkling_serving.http_gateway import Gateway, Request
from inkling_serving.metrics import Metrics
from inkling_serving.service import Service
from inkling_serving.settings import Settings
from inkling_serving.trace import Trace


def _handler(models_dir: Path, image: bytes) -> Callable[[], object]:
    """Return a call of the HTTP handler, as the server makes it."""
    settings = Settings()
    engine = EmbeddedEngine(Repository(models_dir), "float32", poll_s=3600)
    service = Service(engine, settings.limits, settings.max_batch)
    gateway = Gateway(service, Metrics(), settings.max_batch)
    path = "/v1/models/mlp:classify"
    return lambda: gateway.handle(Request("POST", path, "", {}, image))


def _observe() -> Callable[[], object]:
    metrics, trace = Metrics(), Trace()
    trace.model, trace.version = "mlp", 1
    return lambda: metrics.observe("http", "ok", trace)


def _parts(
    models_dir: Path, sample_dir: Path, small: bytes, large: bytes
) -> Mapping[str, Callable[[], object]]:
    model = model_at(Repository(models_dir).newest("mlp").tflite("float32"))
    return {
        "by_hand": lambda: prediction(model, small),
        "by_hand_large": lambda: prediction(model, large),
        "handler": _handler(models_dir, small),
        "handler_large": _handler(models_dir, large),
        "handler_large_sample": _handler(sample_dir, large),
        "observe": _observe(),
    }


def _cpu_us(call: Callable[[], object], seconds: float) -> float:
    count, end = 0, time.perf_counter() + seconds
    started = time.thread_time()
    while time.perf_counter() < end:
        # The clock is not looked at after each call: the shortest takes 2 us.
        for _ in range(10):
            call()
        count += 10
    return 1e6 * (time.thread_time() - started) / count


if __name__ == "__main__":
    models_dir, sample_dir, small, large = map(Path, sys.argv[1:])
    parts = _parts(models_dir, sample_dir, small.read_bytes(), large.read_bytes())
    for line in sys.stdin:
        asked = json.loads(line)
        spent = _cpu_us(parts[asked["part"]], asked["seconds"])
        print(json.dumps({"cpu_us": spent}), flush=True)
