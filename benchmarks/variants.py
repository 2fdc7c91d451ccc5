# SPDX-License-Identifier: Apache-2.0
"""Runs `inkling serve` without one of its layers, to measure the layer's cost.

    python -m benchmarks.variants metrics serve --models-dir models --workers 1

The module replaces functions in this process only, so the gateway must have one worker.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from inkling.cli.main import main
from inkling_serving.engines.tensorflow_serving import RemoteVersion
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.service import Service

__all__ = ["VARIANTS"]


def _without_metrics() -> None:
    """Count nothing."""
    _put(Metrics, "observe", lambda *_: None)


def _without_coalescing() -> None:
    """Send each request to TensorFlow Serving at once, with up to 16 open calls."""
    _put(RemoteVersion, "predict", lambda self, inputs, _=None: self._call(inputs, 10))


def _without_work() -> None:
    """Classify the first picture, and repeat its answer for all others."""
    classify = Service.classify
    known: list[Any] = []

    def remember(*arguments: Any, **named: Any) -> Any:
        if not known:
            known.append(classify(*arguments, **named))
        return known[0]

    _put(Service, "classify", remember)


def _put(owner: type, name: str, value: Callable[..., Any]) -> None:
    assert hasattr(owner, name), f"{owner.__name__} has no {name} any more"
    setattr(owner, name, value)


VARIANTS: Mapping[str, Callable[[], None]] = {
    "metrics": _without_metrics,
    "coalescing": _without_coalescing,
    "work": _without_work,
}

if __name__ == "__main__":
    VARIANTS[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
