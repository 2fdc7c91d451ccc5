# SPDX-License-Identifier: Apache-2.0
"""Measures the parts of an answer without a server, in CPU time per call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.models import Picture
from benchmarks.peers.work import model_at, prediction
from inkling.model.repository import Repository
from inkling_serving.engines.embedded import EmbeddedEngine
from inkling_serving.http_api.handlers import Handlers
from inkling_serving.http_api.messages import Request
from inkling_serving.keys import ApiKeys
from inkling_serving.runtime.held_bytes import HeldBytes
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.runtime.timings import Timings
from inkling_serving.service import Service
from inkling_serving.settings import Settings

__all__ = ["cpu_us", "parts"]


def parts(
    models_dir: Path, sample_dir: Path, found: Mapping[str, Picture]
) -> Mapping[str, Callable[[], object]]:
    """Return the measured calls by their names; the pictures are encoded images."""
    model = model_at(Repository(models_dir).newest("mlp").tflite("float32"))
    metrics, timings = Metrics(), Timings()
    timings.model, timings.version = "mlp", 1
    digits, samples = _handler(models_dir), _handler(sample_dir)
    calls: dict[str, Callable[[], object]] = {
        "counting a request": lambda: metrics.observe("http", "ok", timings)
    }
    for name, picture in found.items():
        image = picture.image
        calls[f"{name}: Pillow + LiteRT by hand"] = partial(prediction, model, image)
        calls[f"{name}: our handler, sample contract"] = partial(samples, image)
        calls[f"{name}: our handler, digit contract"] = partial(digits, image)
    return calls


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
    held = HeldBytes(settings.max_held_bytes)
    handlers = Handlers(service, Metrics(), ApiKeys(""), settings, held)
    path = "/v1/models/mlp:classify"

    def answer(image: bytes) -> object:
        request = Request("POST", path, "", {}, image)
        return handlers.answer(Handlers.classify, request, {"model": "mlp"})

    return answer
