# SPDX-License-Identifier: Apache-2.0
"""Turns scores into the predictions that a caller wants, for gateway and device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inkling.abstention import abstaining, check_can_abstain
from inkling.threshold import check_takes_threshold, labelled
from inkling.types import (
    ClassifyOptions,
    Origin,
    Prediction,
    check_top_k,
    predictions,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.finder.doubt import Doubt

__all__ = ["answers", "check_options"]


def check_options(options: ClassifyOptions, contract: Contract) -> None:
    """Check that a model can answer as the caller wants, before it is asked.

    Raises:
        InvalidRequest: `top_k` is invalid, the model takes no threshold, or it cannot
            abstain.
    """
    check_top_k(options.top_k)
    check_takes_threshold(options.threshold, contract)
    if options.abstain:
        check_can_abstain(contract)


def answers(
    scores: npt.NDArray[np.float32],
    inputs: npt.NDArray[np.float32],
    contract: Contract,
    options: ClassifyOptions,
    origin: Origin,
    doubts: Sequence[Doubt | None] = (),
) -> list[Prediction]:
    """Return one prediction per row of `scores`.

    Args:
        scores: Probabilities, shape (n, labels), in [0, 1].
        inputs: The model inputs, float32, n times the contract's `input_shape`.
        contract: The contract of the model.
        options: What the caller wants; `check_options` has accepted it.
        origin: The model that answered.
        doubts: The finder's doubt about each input; nothing if it was not asked.
    """
    found = predictions(scores, contract.labels, options.top_k, origin)
    if options.threshold is not None:
        found = labelled(found, scores, contract.labels, options.threshold)
    if not options.abstain:
        return found
    return abstaining(found, inputs, contract, doubts)
