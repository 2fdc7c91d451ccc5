# SPDX-License-Identifier: Apache-2.0
"""Drift: the baseline of a version, and how far recent pictures are from it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inkling.contract import Contract
from inkling.errors import InvalidImage
from inkling.image.budget import DEFAULT_LIMITS
from inkling.model.drift import FIGURE, LEAST_PICTURES, Baseline, stability_index
from inkling.model.repository import METRICS_FILE, Repository
from inkling_serving.service import Options, Service, Target
from inkling_serving.telemetry import drift as module
from inkling_serving.telemetry.drift import Drift, Drifted
from tests.support.held_engine import HeldEngine

_CLASSES = 12
_STATISTICS = {"labels", "confidence", "abstention", "brightness", "contrast"}


def _some(
    count: int, seed: int, light: float = 0.0, classes: int = _CLASSES
) -> tuple[Any, Any]:
    """Return random inputs and scores; only the first `classes` labels win."""
    chance = np.random.default_rng(seed)
    inputs = chance.random((count, 4, 4, 1), np.float32) + light
    scores = np.full((count, _CLASSES), 0.01, np.float32)
    winners = chance.integers(0, classes, count)
    scores[np.arange(count), winners] = chance.uniform(0.2, 1.0, count)
    return inputs, scores


@pytest.fixture
def baseline() -> Baseline:
    """The baseline of random pictures, which abstains below 0.4."""
    return Baseline.of([_some(500, 1), _some(500, 2)], 0.4)


def _index(baseline: Baseline, inputs: Any, scores: Any) -> dict[str, float]:
    found = baseline.count(inputs, scores)
    return {k: stability_index(v, found[k]) for k, v in baseline.counts.items()}


def test_the_index_is_that_of_its_definition() -> None:
    """Equal shares give 0; moved ones the sum of (q - p) ln(q / p), also without a bin."""
    assert stability_index([100, 300], [200, 600]) == pytest.approx(0, abs=1e-4)
    wanted = 0.25 * np.log(0.5 / 0.25) + -0.25 * np.log(0.5 / 0.75)
    found = stability_index([25_000, 75_000], [50_000, 50_000])
    assert found == pytest.approx(wanted, abs=1e-3)
    assert 1 < stability_index([100, 0], [50, 50]) < 10


def test_each_statistic_tells_its_own_change(baseline: Baseline) -> None:
    """Pictures of the same kind are near 0, and each change shows in its statistic."""
    assert set(baseline.counts) == _STATISTICS
    assert all(sum(bins) == 1000 for bins in baseline.counts.values())
    assert len(baseline.counts["labels"]) == 10  # nine labels, and the other three
    assert max(_index(baseline, *_some(1000, 3)).values()) < 0.1

    light = _index(baseline, *_some(1000, 3, light=0.5))
    few = _index(baseline, *_some(1000, 3, classes=3))
    inputs, scores = _some(1000, 3)
    unsure = _index(baseline, inputs, np.minimum(scores, 0.3))
    flat = _index(baseline, inputs * 0 + inputs.mean(), scores)

    assert light["brightness"] > 0.25 > max(light["labels"], light["contrast"])
    assert few["labels"] > 0.25 > few["brightness"]
    assert min(unsure["confidence"], unsure["abstention"]) > 0.25
    assert flat["contrast"] > 0.25


def test_a_baseline_in_json(baseline: Baseline) -> None:
    """The card's figure gives the same baseline; another figure gives none."""
    read = Baseline.of_json(json.loads(json.dumps(baseline.to_json())))
    inputs, scores = _some(100, 4)

    assert read is not None
    assert read.count(inputs, scores) == baseline.count(inputs, scores)
    assert read.count(None, scores).keys() == {"labels", "confidence", "abstention"}
    others: list[Any] = [None, {}, [], "text", {"edges": 1, "counts": {}}]
    for other in others:
        assert Baseline.of_json(other) is None


@pytest.fixture
def drift(tmp_path: Path, baseline: Baseline) -> Drift:
    """The drift of a model `m`: version 1 has a baseline, and version 2 has none."""
    repository = Repository(tmp_path)
    for figures in ({FIGURE: baseline.to_json()}, {}):
        with repository.publishing("m") as publication:
            (publication.path / "card").mkdir()
            (publication.path / METRICS_FILE).write_text(json.dumps(figures))
            publication.commit()
    made = Drift(repository)
    made.close()  # the tests look by themselves
    return made


def _offer(drift: Drift, version: int, count: int, **options: Any) -> None:
    servable: Any = SimpleNamespace(model="m", version=version)
    drift.offer(servable, *_some(count, 5, **options))
    drift.look()


def test_recent_pictures_are_compared(drift: Drift) -> None:
    """All processes count together; too few pictures, and no baseline, give no index."""
    for _ in range(3):
        _offer(drift, 1, 50, light=1.0)
        _offer(drift, 2, 50)
    few = drift.found([drift.counts()])
    many = drift.found([drift.counts(), drift.counts()])

    assert few["m", "1"] == Drifted(150, {}, True)
    assert many["m", "2"] == Drifted(300, {}, False)
    assert many["m", "1"].pictures == 300 >= LEAST_PICTURES
    assert many["m", "1"].index["brightness"] > 1 > many["m", "1"].index["labels"]
    [family] = drift.families([drift.counts(), drift.counts()])
    shown = {one.labels["statistic"]: one.labels["version"] for one in family.samples}
    assert shown == dict.fromkeys(_STATISTICS, "1")


def test_a_version_without_files_has_no_baseline(drift: Drift) -> None:
    """TensorFlow Serving's versions may be in no repository; their pictures count."""
    _offer(drift, 9, 10)

    assert drift.found([drift.counts()])["m", "9"] == Drifted(10, {}, False)


def test_a_second_counts_a_bounded_number(drift: Drift) -> None:
    """What has no room until the next look is passed over, also within one request."""
    servable: Any = SimpleNamespace(model="m", version=1)
    for _ in range(10):
        drift.offer(servable, *_some(20, 6))
    large = np.zeros((1, 2000, 2000, 3), np.float32)
    drift.offer(servable, large, _some(1, 7)[1])
    drift.look()
    drift.offer(servable, large, _some(1, 7)[1])
    drift.look()

    assert drift.found([drift.counts()])["m", "1"].pictures == 64


def test_old_pictures_are_forgotten(
    drift: Drift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a window is full and over, the counts are those of it and of the next."""
    monkeypatch.setattr(module, "_WINDOW_S", 0.0)
    for _ in range(40):
        _offer(drift, 1, 60)
    found = drift.found([drift.counts()])["m", "1"].pictures

    assert 1000 <= found < 2100


def test_every_answer_is_counted(
    drift: Drift, digit_contract: Contract, picture: bytes
) -> None:
    """Pictures and prepared inputs are counted, and refused pictures are not."""
    engine: Any = HeldEngine(digit_contract)
    service = Service(engine, DEFAULT_LIMITS, 32, drift=drift)
    service.classify(Target("mlp"), [picture, picture])
    given = [picture, b"no picture"]
    service.classify(Target("mlp"), given, Options(partial=True))
    service.predict(Target("mlp"), np.zeros((3, 28, 28, 1), np.float32))
    with pytest.raises(InvalidImage):
        service.classify(Target("mlp"), [b"no picture"])
    drift.look()

    assert drift.found([drift.counts()])["mlp", "1"] == Drifted(6, {}, False)
