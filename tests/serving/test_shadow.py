# SPDX-License-Identifier: Apache-2.0
"""A shadow: which requests it gets, what is compared, and what is dropped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inkling.cli.main import main
from inkling.contract import Contract
from inkling.image.budget import DEFAULT_LIMITS
from inkling.model.repository import Repository
from inkling_serving.comparison import Compared
from inkling_serving.engines.base import ModelStatus
from inkling_serving.rollout.mirror import Mirror, compared
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.service import Service, Target
from tests.support.gateway_process import serving
from tests.support.held_engine import HeldEngine
from tests.support.machine import until

_PAIR = ("mlp", "1", "2")


class _Shadowed:
    """An engine with version 1, and version 2 as the shadow."""

    def __init__(self, contract: Contract, other: Contract) -> None:
        self.default, self.shadow = HeldEngine(contract), HeldEngine(other)
        self.shadow.version = 2  # type: ignore[misc]

    def select(
        self, _: str, version: int | None = None, label: str | None = None, **__: Any
    ) -> HeldEngine:
        """Return the version that is asked for."""
        return self.shadow if label == "shadow" or version == 2 else self.default

    def status(self) -> list[ModelStatus]:
        """Return that all requests are mirrored."""
        return [ModelStatus("mlp", (), {"shadow": 2}, {"shadow": 100.0})]


@contextmanager
def _mirrored(
    contract: Contract, other: Contract, *, is_busy: bool = False
) -> Iterator[tuple[Service, _Shadowed, Metrics]]:
    engine, metrics = _Shadowed(contract, other), Metrics()
    fake: Any = engine
    mirror = Mirror(fake, metrics, DEFAULT_LIMITS, lambda: is_busy)
    until(lambda: bool(mirror._shadows))
    try:
        yield Service(fake, DEFAULT_LIMITS, 32, mirror), engine, metrics
    finally:
        engine.shadow.free.set()
        mirror.close()


def _found(metrics: Metrics) -> Compared:
    return metrics.comparisons().get(_PAIR, Compared())


@pytest.mark.parametrize("change", [{}, {"polarity": "light_on_dark"}])
def test_answers_are_compared(
    change: dict[str, Any], digit_contract: Contract, picture: bytes
) -> None:
    """A shadow gets the same inputs, or prepares the pictures by its own contract."""
    other = replace(digit_contract, **change)
    with _mirrored(digit_contract, other) as (service, engine, metrics):
        service.classify(Target("mlp"), [picture, picture])
        inputs = np.zeros((1, *digit_contract.input_shape), np.float32)
        service.predict(Target("mlp"), inputs)
        until(lambda: _found(metrics).pictures + _found(metrics).failed == 3)
        # Requests that name a version are not mirrored.
        service.classify(Target("mlp", 1), [picture])
        found = _found(metrics)

    assert (found.pictures, found.failed) == ((2, 1) if change else (3, 0))
    assert (found.agreed, found.difference) == (found.pictures, 0.0)
    assert found.seconds > 0 < found.shadow_seconds
    assert set(engine.shadow.threads) == {"shadowing requests"}
    text = metrics.exposition().decode()
    labels = 'model="mlp",shadow="2",version="1"'
    assert f"inkling_shadow_pictures_total{{{labels}}} {found.pictures}.0" in text


def test_a_stuck_shadow_holds_nobody_up(
    digit_contract: Contract, picture: bytes
) -> None:
    """While a shadow does not answer, callers get theirs, and the rest is dropped."""
    with _mirrored(digit_contract, digit_contract) as (service, engine, metrics):
        engine.shadow.free.clear()
        for _ in range(100):
            assert service.classify(Target("mlp"), [picture]).origin.version == 1
        dropped = _found(metrics).dropped
        assert 60 <= dropped < 100
        engine.shadow.free.set()
        until(lambda: _found(metrics).pictures + dropped == 100)


def test_a_busy_gateway_drops(digit_contract: Contract, picture: bytes) -> None:
    """While requests wait for a thread, nothing is mirrored."""
    with _mirrored(digit_contract, digit_contract, is_busy=True) as (
        service,
        _,
        metrics,
    ):
        service.classify(Target("mlp"), [picture])
        assert _found(metrics) == Compared(dropped=1)


def test_labels_are_compared_by_their_names(digit_contract: Contract) -> None:
    """Another order of the labels is no difference; a new label is one."""
    ours = np.array([[0.7, 0.3], [0.4, 0.6]], np.float32)
    two = replace(digit_contract, labels=("a", "b"))
    turned = replace(digit_contract, labels=("b", "a"))
    more = replace(digit_contract, labels=("a", "b", "c"))
    others = np.array([[0.1, 0.3, 0.6], [0.4, 0.6, 0.0]], np.float32)

    assert compared(ours, two, ours[:, ::-1], turned) == (2, 0.0)
    agreed, difference = compared(ours, two, others, more)
    assert (agreed, round(difference, 6)) == (1, 0.6)


def test_a_gateway_shows_its_shadow(
    models_dir: Path, picture: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shadow answers nobody; `inkling models --compare` shows how it would have."""
    shutil.copytree(models_dir / "mlp" / "1", models_dir / "mlp" / "2")
    Repository(models_dir).promote("mlp", 1)
    Repository(models_dir).promote("mlp", 2, "shadow", share=100)
    with serving(models_dir, log=tmp_path / "log") as gateway:

        def comparisons() -> Any:
            answer = gateway.request("POST", "/v1/models/mlp:classify", picture)
            assert answer.json["version"] == 1
            told = gateway.request("GET", "/v1/models/mlp/comparisons").json
            return told["comparisons"]

        until(lambda: any(one["pictures"] for one in comparisons()))
        [one] = comparisons()
        assert main(["models", "--compare", "--server", gateway.url]) == 0
    assert (one["version"], one["shadow"], one["agreement"]) == (1, 2, 1.0)
    assert one["largest_difference"] == 0.0
    assert "100.00%" in capsys.readouterr().out
