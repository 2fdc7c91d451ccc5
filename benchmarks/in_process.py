"""Measures the parts of an answer without a server, in CPU time per call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.peers.work import model_at, prediction
from inkling.model.repository import Repository
from inkling_serving.engines.embedded import EmbeddedEngine
from inkling_serving.http_api.handlers import Gateway, Request
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.runtime.timings import Trace
from inkling_serving.service import Service
from inkling_serving.settings import Settings

__all__ = ["cpu_us", "parts"]


def parts(
    models_dir: Path, sample_dir: Path, small: bytes, large: bytes
) -> Mapping[str, Callable[[], object]]:
    """Return the measured calls by their names; the pictures are encoded images."""
    model = model_at(Repository(models_dir).newest("mlp").tflite("float32"))
    metrics, trace = Metrics(), Trace()
    trace.model, trace.version = "mlp", 1
    digits, samples = _handler(models_dir), _handler(sample_dir)
    return {
        "28 px: Pillow + LiteRT by hand": lambda: prediction(model, small),
        "28 px: our handler": lambda: digits(small),
        "280 px: Pillow + LiteRT by hand": lambda: prediction(model, large),
        "280 px: our handler, sample contract": lambda: samples(large),
        "280 px: our handler, digit contract": lambda: digits(large),
        "counting a request": lambda: metrics.observe("http", "ok", trace),
    }


def cpu_us(call: Callable[[], object], seconds: float) -> float:
    """Repeat a call for `seconds`; return the CPU microseconds of one call."""
    count, end = 0, time.perf_counter() + seconds
    started = time.thread_time()
    while time.perf_counter() < end:
        # The loop reads the clock after ten calls, because the shortest takes 2 us.
        for _ in range(10):
            call()
        count += 10
    return 1e6 * (time.thread_time() - started) / count


def _handler(models_dir: Path) -> Callable[[bytes], object]:
    """Return a call that does the server's work for a received picture."""
    settings = Settings()
    engine = EmbeddedEngine(Repository(models_dir), "float32", poll_s=3600)
    service = Service(engine, settings.limits, settings.max_batch)
    gateway = Gateway(service, Metrics(), settings.max_batch)
    path = "/v1/models/mlp:classify"
    return lambda image: gateway.handle(Request("POST", path, "", {}, image))
