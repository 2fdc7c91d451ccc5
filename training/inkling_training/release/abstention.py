# SPDX-License-Identifier: Apache-2.0
"""Sets the score below which a given model abstains, as training does for its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from inkling_training.fit.batches import varied
from inkling_training.fit.calibration import STRENGTH, abstain_below
from inkling_training.fit.recipes import recipe_for

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling_training.preparation.pictures import Pictures
    from inkling_training.release.parity import Scores

__all__ = ["threshold_on"]

# Few pictures occur in several versions; the score is then less a matter of chance. A
# MobileNetV2 of 224 pixels takes 8 s of CPU time for so many.
_ENOUGH, _BATCH = 128, 32


def threshold_on(
    pictures: Pictures, contract: Contract, scored: Callable[[Scores], Scores]
) -> float:
    """Return the `abstain_below` of a given model, above 0 and below 1.

    It is the 1st percentile of the highest scores of the pictures, which are augmented
    as training augments the pictures of a folder, at three quarters of the strength.

    Args:
        pictures: Pictures that the model knows.
        contract: The contract of the model.
        scored: Returns the model's scores for inputs in the contract's `input_shape`.
    """
    recipe = recipe_for("default", "cnn", "folder", None)
    # The augmentation is one of pixels from 0 to 1.
    unit = replace(contract, scale=(1 / 255,), offset=(0.0,), layout="hwc")
    images = [pictures.images[n % len(pictures.images)] for n in range(_ENOUGH)]
    several = replace(pictures, images=tuple(images), labels=None)
    highest = []
    for seed, inputs in enumerate(several.batches(unit, _BATCH)):
        harder = varied(inputs, contract, recipe, STRENGTH, seed)
        highest.append(scored(_as_input(harder, contract)).max(axis=1))
    return abstain_below(np.concatenate(highest))


def _as_input(pixels: Scores, contract: Contract) -> Scores:
    """Return model inputs of pixels from 0 to 1, (n, height, width, channels)."""
    scale, offset = (np.array(v, np.float32) for v in (contract.scale, contract.offset))
    inputs = (255 * pixels * scale + offset).astype(np.float32)
    return inputs.transpose(0, 3, 1, 2) if contract.layout == "chw" else inputs
