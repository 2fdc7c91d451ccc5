"""When a model had better say nothing: the one rule, for gateway and device alike.

Where it is asked for, a picture has no label

- `empty`: if its model input shows nothing written. Only a contract with a finder says
  what that would be: light ink on dark ground.
- `unsure`: if its highest score is below the contract's `abstain_below`.
- `several`: if it is that, and the input shows two or more large parts besides; this
  only says more of the reason, as many a five is written in two parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from inkling.image.morphology import parts

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.morphology import Values
    from inkling.types import Prediction

__all__ = ["REASONS", "abstaining", "is_empty", "shows_several"]

REASONS = ("empty", "several", "unsure")

# Of the range of an input: the faintest of 11,143 digits has 0.59, and paper with a
# camera's noise, as a sample, 0.16.
_LEAST_CONTRAST = 0.25
# Of the whole input; the thinnest digit there has 0.021, a speck of 2 x 2 pixels 0.005.
_LEAST_INK = 0.01
# Of all ink, that each of several things has.
_LARGE_PART = 0.25


def abstaining(
    found: Sequence[Prediction], inputs: npt.NDArray[np.float32], contract: Contract
) -> list[Prediction]:
    """Return the predictions with the label taken from those that should have none.

    Args:
        found: One per row of `inputs`.
        inputs: Shape (n, height, width, channels), as `inkling.image.preprocess`
            makes them.
        contract: The one that they were prepared under.
    """
    return [
        replace(prediction, abstained=_reason(prediction.probability, row, contract))
        for prediction, row in zip(found, inputs, strict=True)
    ]


def is_empty(ink: Values) -> bool:
    """Whether an input shows nothing; `ink` has shape (height, width), 0 to 1."""
    above = _above_ground(ink)
    return bool(above.max() < _LEAST_CONTRAST or above.mean() < _LEAST_INK)


def shows_several(ink: Values) -> bool:
    """Whether two unconnected parts have a quarter of the ink each, or more."""
    above = _above_ground(ink)
    found = parts(above > above.max() / 2, above)
    return int((found.weight >= _LARGE_PART * found.weight.sum()).sum()) > 1


def _reason(
    score: float, row: npt.NDArray[np.float32], contract: Contract
) -> str | None:
    """Return why there should be no label; None where there should be one."""
    # The inverse of the contract's scaling; ink of every colour counts.
    ink = ((row - contract.offset) / (255 * contract.scale)).max(axis=2)
    if contract.finder != "none" and is_empty(ink):
        return "empty"
    if score >= contract.abstain_below:
        return None
    return "several" if contract.finder != "none" and shows_several(ink) else "unsure"


def _above_ground(ink: Values) -> Values:
    """Return how much lighter each pixel is than most of them, which are ground."""
    above: Values = np.maximum(ink - np.median(ink), 0).astype(np.float32)
    return above
