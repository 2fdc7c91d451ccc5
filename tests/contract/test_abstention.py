# SPDX-License-Identifier: Apache-2.0
"""The rule by which a picture gets no label, from inputs and scores alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inkling.abstention import REASONS, abstaining, is_empty, shows_several
from inkling.contract import Contract
from inkling.image.finder.doubt import Doubt
from inkling.types import Origin, Prediction, Score


def _ink(*strokes: tuple[int, int, int, int], ink: float = 1.0) -> np.ndarray:
    """An input of 28x28 with full rectangles: top, left, bottom, right."""
    drawn = np.zeros((28, 28), np.float32)
    for top, left, bottom, right in strokes:
        drawn[top:bottom, left:right] = ink
    return drawn


_ONE = (4, 12, 24, 15)
_OTHER = (4, 20, 24, 23)
_NOISE = np.random.default_rng(0).normal(0.3, 0.02, (28, 28)).astype(np.float32)
_CASES = {
    "one stroke, sure": (_ink(_ONE), 0.8, None),
    "one stroke, at the threshold": (_ink(_ONE), 0.5, None),
    "one stroke, under it": (_ink(_ONE), 0.4999, "unsure"),
    "two strokes, sure": (_ink(_ONE, _OTHER), 0.8, None),
    "two strokes, unsure": (_ink(_ONE, _OTHER), 0.3, "several"),
    "a stroke and a dot": (_ink(_ONE, (2, 20, 5, 23)), 0.3, "unsure"),
    "three strokes": (_ink(_ONE, _OTHER, (4, 4, 24, 7)), 0.3, "several"),
    "two that touch by a corner": (_ink((4, 4, 12, 9), (12, 9, 20, 14)), 0.3, "unsure"),
    "a fifth and four fifths": (_ink((4, 4, 24, 8), (4, 20, 9, 24)), 0.3, "unsure"),
    "nothing, however sure": (_ink(), 0.99, "empty"),
    "everything": (_ink((0, 0, 28, 28)), 0.99, "empty"),
    "noise on grey": (_NOISE, 0.99, "empty"),
    "a speck": (_ink((4, 4, 6, 6)), 0.99, "empty"),
    "a thin stroke": (_ink((4, 12, 24, 13)), 0.99, None),
    "a pale stroke": (_ink(_ONE, ink=0.3), 0.99, None),
    "a stroke like a stain": (_ink(_ONE, ink=0.2), 0.99, "empty"),
}


def _reason(ink: np.ndarray, score: float, contract: Contract) -> str | None:
    prediction = Prediction((Score("7", 7, score),), Origin("cnn", 1, contract.hash))
    inputs = (ink * 255 * contract.scale[0] + contract.offset[0])[
        np.newaxis, :, :, None
    ]
    [found] = abstaining([prediction], inputs.astype(np.float32), contract)
    assert (found.label is None) == (found.index is None) == bool(found.abstained)
    assert found.top == prediction.top
    return found.abstained


@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize(("scale", "offset"), [(1 / 255, 0.0), (-2 / 255, 1.0)])
def test_the_rule(
    case: str, scale: float, offset: float, digit_contract: Contract
) -> None:
    """Empty comes first, then the score decides; the scaling of the input does not."""
    ink, score, expected = _CASES[case]
    contract = replace(
        digit_contract, abstain_below=0.5, scale=(scale,), offset=(offset,)
    )

    assert expected == _reason(ink, score, contract)
    assert expected is None or expected in REASONS


@pytest.mark.parametrize("reason", ["several", "unsure"])
def test_a_doubt_withholds_a_sure_answer(reason: str, digit_contract: Contract) -> None:
    """A doubt gives its reason below its score; without ink the reason is `empty`."""
    prediction = Prediction((Score("7", 7, 0.999),), Origin("cnn", 1, "sha256:0"))
    inputs = np.stack([_ink(_ONE), _ink(_ONE), _ink()])[..., np.newaxis]
    inputs = np.concatenate([inputs, inputs[:2]])
    doubts = [
        Doubt(reason, "half of it"),
        None,
        Doubt(reason, "half of it"),
        Doubt(reason, "faint", 0.9991),
        Doubt(reason, "faint", 0.999),
    ]

    found = abstaining([prediction] * 5, inputs, digit_contract, doubts)

    assert [one.abstained for one in found] == [reason, None, "empty", reason, None]


@pytest.mark.parametrize("case", _CASES)
def test_a_sample_is_judged_by_its_score_alone(
    case: str, digit_contract: Contract
) -> None:
    """Without a finder a sample is judged by its score alone; it is never `empty` or `several`."""
    ink, score, _ = _CASES[case]
    contract = replace(digit_contract, abstain_below=0.5, kind="sample", finder="none")

    assert ("unsure" if score < 0.5 else None) == _reason(ink, score, contract)


def test_real_digits_are_never_empty(data_dir: Path) -> None:
    """No digit of MNIST's test set counts as empty, and at most 1 % as several."""
    with np.load(data_dir / "mnist.npz", allow_pickle=False) as arrays:
        inks = arrays["x_test"] / np.float32(255)

    assert not any(is_empty(ink) for ink in inks)
    assert sum(shows_several(ink) for ink in inks[:2000]) <= 20
