# SPDX-License-Identifier: Apache-2.0
"""Judges a model on the test set: accuracy, calibration and abstention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling.model.drift import FIGURE, LEAST_PICTURES, Baseline
from inkling_training.data.outliers import are_digits, as_served, held_out
from inkling_training.errors import GateFailed
from inkling_training.figures import plots
from inkling_training.figures.reliability import expected_calibration_error, reliability
from inkling_training.fit.calibration import tempered
from inkling_training.fit.models import scores_of
from inkling_training.release.card import confusion

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from inkling.contract import Contract
    from inkling_training.data.datasets import Dataset
    from inkling_training.data.stored import Inputs
    from inkling_training.release.parity import ParityRow

__all__ = ["Judgement", "drift_baseline", "judged"]

# The seed must not change, so that all versions are compared on the same outliers.
_SEED = 2026
# The pictures whose inputs are in memory at once.
_PART = 256


@dataclass(frozen=True)
class Judgement:
    """The results of a model on the test set and on outliers.

    Attributes:
        contract: The contract of the model.
        scores: The scores on the test set, float32, shape (n, classes).
        labels: The indices of the true labels, shape (n,).
        caught: The share of outliers of each kind from which the model abstains, 0 to
            1; empty if the labels are not digits.
    """

    contract: Contract
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    caught: Mapping[str, float]

    @property
    def accuracy(self) -> float:
        """The accuracy on the test set, 0 to 1."""
        return float(self._right.mean())

    @property
    def _right(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.scores.argmax(axis=1) == self.labels)

    def figures(self, rows: Sequence[ParityRow]) -> dict[str, Any]:
        """Return the figures of the model and of its exports for the model card."""
        before = tempered(self.scores, 1 / self.contract.temperature)
        errors = {
            "before": expected_calibration_error(before.max(axis=1), self._right),
            "keras": expected_calibration_error(self.scores.max(axis=1), self._right),
        }
        return {
            "accuracy": {"keras": self.accuracy}
            | {row.export: row.accuracy for row in rows},
            "calibration_error": errors
            | {row.export: row.calibration_error for row in rows},
            "parity": [row.as_json() for row in rows],
            "temperature": self.contract.temperature,
            "abstain_below": self.contract.abstain_below,
            "abstained": _abstained(self.scores, self.contract),
            "caught": dict(self.caught),
        }

    def drawn(self) -> dict[str, Figure]:
        """Return the plots for the model card, by the names of their files."""
        names = self.contract.labels
        counts = confusion(self.labels, self.scores.argmax(axis=1), len(names))
        return {
            "confusion": plots.confusion(counts, names),
            "calibration": reliability(self.scores.max(axis=1), self._right),
        }


def judged(model: keras.Model, dataset: Dataset, inputs: Inputs) -> Judgement:
    """Run a calibrated model on the test set and on outliers, and return the results.

    Args:
        model: The calibrated Keras model.
        dataset: The dataset with the test labels and the contract.
        inputs: The inputs of the test set, float32, shape (n, height, width, channels).

    Raises:
        GateFailed: A score is NaN or infinite.
    """
    contract = dataset.contract

    def scored(inputs: Inputs) -> npt.NDArray[np.float32]:
        scores = scores_of(model, inputs)
        if not np.isfinite(scores).all():
            raise GateFailed(
                "The model has NaN or infinite scores; nothing was published. Train it "
                "with a lower learning rate."
            )
        return scores

    caught = {}
    if are_digits(contract):
        for kind, pixels in held_out(dataset.validation, _SEED).items():
            caught[kind] = _abstained(scored(as_served(pixels, contract)), contract)
    return Judgement(contract, scored(inputs), dataset.test.labels, caught)


def drift_baseline(
    inputs: Inputs, scores: npt.NDArray[np.float32], contract: Contract
) -> dict[str, Any]:
    """Return the figure of the card from which a gateway tells a drift.

    Args:
        inputs: The inputs of the pictures, float32, shape (n, *input_shape).
        scores: Their scores, float32, shape (n, classes).
        contract: The contract of the model.

    Returns:
        The figure by its name; empty if the pictures are too few for one.
    """
    if len(scores) < LEAST_PICTURES:
        return {}
    parts = (
        (inputs[at : at + _PART], scores[at : at + _PART])
        for at in range(0, len(scores), _PART)
    )
    return {FIGURE: Baseline.of(parts, contract.abstain_below).to_json()}


def _abstained(scores: npt.NDArray[np.float32], contract: Contract) -> float:
    return float((scores.max(axis=1) < contract.abstain_below).mean())
