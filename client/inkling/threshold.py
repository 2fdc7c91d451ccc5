# SPDX-License-Identifier: Apache-2.0
"""The threshold of a model whose pictures may have several labels, or none.

Such a model gives each label a probability of its own (the contract's `outputs` is
`sigmoid`). If the caller sets a threshold, a prediction has all labels whose
probability is at or above it. Gateway and device use the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from inkling.errors import InvalidRequest
from inkling.types import Prediction, Score, check_threshold

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract

__all__ = ["BELOW_THRESHOLD", "check_takes_threshold", "labelled"]

# The reason in `Prediction.abstained` if no label reaches the threshold.
BELOW_THRESHOLD = "below_threshold"


def check_takes_threshold(threshold: float | None, contract: Contract) -> None:
    """Check a threshold, and that the model's pictures may have several labels.

    Raises:
        InvalidRequest: The threshold is no number from 0 to 1, or each picture of the
            model has exactly one label.
    """
    if check_threshold(threshold) is not None and contract.scores_sum_to_one:
        raise InvalidRequest(
            "A threshold came for a model whose labels exclude each other: their "
            "probabilities sum to 1, and the most probable label is the answer. Ask "
            "without a threshold; with abstain, an unsure model gives no label."
        )


def labelled(
    found: Sequence[Prediction],
    scores: npt.NDArray[np.float32],
    names: Sequence[str],
    threshold: float,
) -> list[Prediction]:
    """Return the predictions, each with all labels at or above the threshold.

    Args:
        found: One prediction per row of `scores`.
        scores: Probabilities, shape (n, labels), in [0, 1].
        names: The name of each label, in the order of the scores.
        threshold: From 0 to 1.
    """
    order = np.argsort(-scores, axis=1, kind="stable").tolist()
    return [
        _with_labels(prediction, row, indices, names, threshold)
        for prediction, row, indices in zip(found, scores.tolist(), order, strict=True)
    ]


def _with_labels(
    prediction: Prediction,
    row: Sequence[float],
    order: Sequence[int],
    names: Sequence[str],
    threshold: float,
) -> Prediction:
    labels = tuple(Score(names[i], i, row[i]) for i in order if row[i] >= threshold)
    reason = None if labels else BELOW_THRESHOLD
    return replace(prediction, labels=labels, abstained=reason)
