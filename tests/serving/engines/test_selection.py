# SPDX-License-Identifier: Apache-2.0
"""The selection of a version, which both engines share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from inkling.contract import Contract
from inkling.errors import InklingError, ModelNotFound, NotReady
from inkling.image.budget import DEFAULT_LIMITS
from inkling_serving.engines.label_moves import Labels
from inkling_serving.engines.selection import Wanted, is_drawn, selected
from inkling_serving.runtime.timings import Timings
from inkling_serving.service import Service, Target
from tests.support.held_engine import HeldEngine

_LABELS = {"stable": 2, "canary": 3, "old": 1, "gone": 7}


@pytest.mark.parametrize(
    ("wanted", "labels", "expected"),
    [
        (Wanted("m"), {}, 3),
        (Wanted("m"), _LABELS, 2),
        (Wanted("m", 3), _LABELS, 3),
        (Wanted("m", version_label="canary"), _LABELS, 3),
        (Wanted("m", 1), _LABELS, NotReady),
        (Wanted("m", 7), _LABELS, ModelNotFound),
        (Wanted("m", version_label="old"), _LABELS, NotReady),
        (Wanted("m", version_label="gone"), _LABELS, NotReady),
        (Wanted("m", version_label="nothing"), _LABELS, ModelNotFound),
        (Wanted("m"), {"stable": 1}, NotReady),
        (Wanted("m"), {"stable": 7}, NotReady),
    ],
)
def test_a_label_waits_for_its_version(
    wanted: Wanted, labels: dict[str, int], expected: int | type[InklingError]
) -> None:
    """Versions 2 and 3 answer, 1 is broken, 7 is gone: only a number is `not found`."""
    loaded = {2: 2, 3: 3}
    if isinstance(expected, int):
        assert selected(wanted, loaded, {1}, Labels(labels)) == expected
    else:
        with pytest.raises(expected):
            selected(wanted, loaded, {1}, Labels(labels))


def test_nothing_is_loaded() -> None:
    """A model without a version that can answer is not ready."""
    with pytest.raises(NotReady):
        selected(Wanted("m"), {}, (), Labels())


_SHARED = Labels({"stable": 2, "canary": 3}, {"canary": 10.0})
_CALLERS = [f"caller {number}" for number in range(5000)]


def _versions_of(labels: Labels, callers: list[str]) -> list[int]:
    loaded = {2: 2, 3: 3}
    return [selected(Wanted("m", caller=one), loaded, (), labels) for one in callers]


def test_a_caller_sees_one_version() -> None:
    """A tenth of the callers gets the canary, each caller always the same version."""
    first = _versions_of(_SHARED, _CALLERS)

    assert first == _versions_of(_SHARED, _CALLERS)
    assert 0.08 < first.count(3) / len(first) < 0.12


def test_a_larger_share_keeps_its_callers() -> None:
    """A caller with the canary keeps it while the share grows, up to all callers."""
    before: set[str] = set()
    for share in (1.0, 10.0, 50.0, 100.0):
        drawn = {one for one in _CALLERS if is_drawn(share, "m", one)}
        assert before < drawn
        before = drawn
    assert before == set(_CALLERS)
    of_another = {one for one in _CALLERS if is_drawn(10.0, "n", one)}
    assert of_another != {one for one in _CALLERS if is_drawn(10.0, "m", one)}


def test_without_a_key_requests_are_drawn() -> None:
    """Requests without a key are drawn one by one, with the same share."""
    found = _versions_of(_SHARED, [""] * 5000)

    assert 0.07 < found.count(3) / len(found) < 0.13


def test_the_canary_takes_no_named_request() -> None:
    """A request that names a version or a label, or asks for the default, gets it."""
    all_of_it = Labels({"stable": 2, "canary": 3}, {"canary": 100.0})
    loaded = {2: 2, 3: 3}
    for wanted in (Wanted("m", 2, caller="x"), Wanted("m", None, "stable", "x")):
        assert selected(wanted, loaded, (), all_of_it) == 2
    assert selected(Wanted("m"), loaded, (), all_of_it) == 2
    assert selected(Wanted("m", caller="x"), loaded, (), all_of_it) == 3
    # A canary that is not loaded takes nothing.
    assert selected(Wanted("m", caller="x"), {2: 2}, (3,), all_of_it) == 2


class _Two:
    """An engine whose canary answers each caller, over a default version 1."""

    def __init__(self, default: HeldEngine, canary: HeldEngine) -> None:
        self._default, self._canary = default, canary

    def select(self, *_: Any, caller: str | None = None) -> HeldEngine:
        """Return the canary, or the default version where it is left out."""
        return self._default if caller is None else self._canary


@pytest.mark.parametrize(
    ("change", "version"),
    [({}, 2), ({"temperature": 2.0}, 2), ({"polarity": "light_on_dark"}, 1),
     ({"outputs": "logits"}, 1), ({"labels": tuple("9876543210")}, 1)],
)  # fmt: skip
def test_prepared_inputs_need_the_same_preparation(
    change: dict[str, Any], version: int, digit_contract: Contract
) -> None:
    """Inputs and scores of the default version mean the same to a canary, or it gets none."""
    default, canary = (HeldEngine(digit_contract) for _ in range(2))
    canary.contract = replace(digit_contract, **change)
    canary.version = 2  # type: ignore[misc]
    engine: Any = _Two(default, canary)
    service, timings = Service(engine, DEFAULT_LIMITS, 32), Timings("anna")
    inputs = np.zeros((1, *digit_contract.input_shape), np.float32)

    assert (
        service.predict(Target("mlp"), inputs, timings=timings).origin.version
        == version
    )
    assert timings.version == version
