# SPDX-License-Identifier: Apache-2.0
"""Abstention: decides when a prediction has no label, for gateway and device alike.

If the caller allows abstention, a prediction has no label for one of three reasons.
Before the last two, the finder's doubt gives its own (`inkling.image.finder.doubt`)
below the score that the doubt states:

- `empty`: the model input shows no ink. Only a contract with a finder defines ink,
  which is light on a dark ground.
- `unsure`: the highest score is below the contract's `abstain_below`.
- `several`: the highest score is below `abstain_below`, and the input shows two or more
  large parts. Two parts alone are not a reason, because many people write a five in two
  parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from inkling.errors import InvalidRequest
from inkling.image.morphology import parts

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.finder.doubt import Doubt
    from inkling.image.morphology import Values
    from inkling.types import Prediction

__all__ = [
    "REASONS",
    "abstaining",
    "check_can_abstain",
    "is_empty",
    "shows_several",
]

REASONS = ("empty", "several", "unsure")

# Share of the range of an input. The faintest of 11,143 digits has 0.59; paper with
# camera noise, taken as a sample, has 0.16.
_LEAST_CONTRAST = 0.25
# Mean of the input. The thinnest of those digits has 0.021; a speck of 2 x 2 pixels has
# 0.005.
_LEAST_INK = 0.01
# Share of all ink that makes a part large.
_LARGE_PART = 0.25


def check_can_abstain(contract: Contract) -> None:
    """Check that the model may give no label.

    Raises:
        InvalidRequest: The model was published without pictures, so nothing tells when
            it is unsure.
    """
    is_given, finds_ink = contract.source is not None, contract.finder != "none"
    if is_given and not finds_ink and contract.abstain_below == 0:
        raise InvalidRequest(
            "The model cannot abstain: it was published without pictures, which would "
            "tell the score below which it is unsure. Publish it with --pictures, or "
            "ask without abstain."
        )


def abstaining(
    found: Sequence[Prediction],
    inputs: npt.NDArray[np.float32],
    contract: Contract,
    doubts: Sequence[Doubt | None] = (),
) -> list[Prediction]:
    """Return the predictions, without a label if a reason for abstention applies.

    Args:
        found: One prediction per row of `inputs`.
        inputs: Model inputs of `inkling.image.preprocess`, float32, shape (n, height,
            width, channels).
        contract: The contract under which the inputs were prepared.
        doubts: The finder's doubt about each row; nothing if it was not asked.
    """
    return [
        _judged(prediction, _reason(prediction.probability, row, contract, doubt))
        for prediction, row, doubt in zip(
            found, inputs, doubts or [None] * len(found), strict=True
        )
    ]


def _judged(prediction: Prediction, reason: str | None) -> Prediction:
    """Return the prediction; a reason takes its labels away."""
    if reason is None:
        return prediction
    labels = None if prediction.labels is None else ()
    return replace(prediction, abstained=reason, labels=labels)


def is_empty(ink: Values) -> bool:
    """Return whether an input shows no ink.

    Args:
        ink: Strength of the ink, float32, shape (height, width), 0 to 1.
    """
    above = _above_ground(ink)
    return bool(above.max() < _LEAST_CONTRAST or above.mean() < _LEAST_INK)


def shows_several(ink: Values) -> bool:
    """Return whether two or more unconnected parts have a quarter of the ink each.

    Args:
        ink: Strength of the ink, float32, shape (height, width), 0 to 1.
    """
    above = _above_ground(ink)
    found = parts(above > above.max() / 2, above)
    return int((found.weight >= _LARGE_PART * found.weight.sum()).sum()) > 1


def _reason(
    score: float,
    row: npt.NDArray[np.float32],
    contract: Contract,
    doubt: Doubt | None,
) -> str | None:
    """Return the reason for abstention; None if the prediction keeps its label."""
    ink = None if contract.finder == "none" else _ink(row, contract)
    if ink is not None and is_empty(ink):
        return "empty"
    if doubt is not None and score < doubt.below:
        return doubt.reason
    if score >= contract.abstain_below:
        return None
    return "several" if ink is not None and shows_several(ink) else "unsure"


def _ink(row: npt.NDArray[np.float32], contract: Contract) -> Values:
    """Return the ink in a model input, which inverts the contract's scaling."""
    if contract.layout == "chw":
        row = row.transpose(1, 2, 0)
    scale, offset = (np.array(v, np.float32) for v in (contract.scale, contract.offset))
    # The maximum counts ink of every colour.
    ink: Values = ((row - offset) / (255 * scale)).max(axis=2)
    return ink


def _above_ground(ink: Values) -> Values:
    """Return how much lighter each pixel is than the median, which is the ground."""
    above: Values = np.maximum(ink - np.median(ink), 0).astype(np.float32)
    return above
