"""What a model's scores are worth: how right, how sure, and what it abstains from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling_training.data.datasets import Split
from inkling_training.data.outliers import are_digits, held_out
from inkling_training.errors import GateFailed
from inkling_training.figures import curves as drawings
from inkling_training.figures.reliability import expected_calibration_error, reliability
from inkling_training.fit.calibration import tempered
from inkling_training.release.card import confusion

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from inkling.contract import Contract
    from inkling_training.data.datasets import Dataset
    from inkling_training.release.parity import ParityRow

__all__ = ["Judgement", "judged"]

_PREDICT_BATCH = 500
# Any, so long as it stays: versions are compared by what they catch.
_SEED = 2026


@dataclass(frozen=True)
class Judgement:
    """A model on a test set, and on things that are none of its labels.

    Attributes:
        contract: The model's.
        scores: On the test set, shape (n, classes).
        labels: Shape (n,), the right answers.
        caught: What is no digit -> the share of it that the model abstains from.
    """

    contract: Contract
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    caught: Mapping[str, float]

    @property
    def accuracy(self) -> float:
        """The share of right labels."""
        return float(self._right.mean())

    @property
    def _right(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.scores.argmax(axis=1) == self.labels)

    def figures(self, rows: Sequence[ParityRow]) -> dict[str, Any]:
        """Return what the model card says of it and of its exports."""
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
        """Return the pictures of it."""
        names = self.contract.labels
        counts = confusion(self.labels, self.scores.argmax(axis=1), len(names))
        return {
            "confusion": drawings.confusion(counts, names),
            "calibration": reliability(self.scores.max(axis=1), self._right),
        }


def judged(
    model: keras.Model, dataset: Dataset, inputs: npt.NDArray[np.float32]
) -> Judgement:
    """Run a calibrated model over the test set, whose inputs are given, and more.

    Raises:
        GateFailed: Its scores are no numbers.
    """
    contract = dataset.contract
    others = held_out(dataset.validation, _SEED) if are_digits(contract) else {}
    parts = [inputs]
    for pixels in others.values():
        parts.append(Split(pixels, np.zeros(len(pixels), np.int64)).inputs(contract))
    # In one go: Keras traces a model anew for each other number of pictures.
    whole = model.predict(np.concatenate(parts), batch_size=_PREDICT_BATCH, verbose=0)
    if not np.isfinite(whole).all():
        raise GateFailed("The model's scores are no numbers; nothing was published.")
    ends = np.cumsum([len(part) for part in parts])
    scores, *of_others = np.split(whole, ends[:-1])
    caught = {
        kind: _abstained(found, contract)
        for kind, found in zip(others, of_others, strict=True)
    }
    return Judgement(contract, scores, dataset.test.labels, caught)


def _abstained(scores: npt.NDArray[np.float32], contract: Contract) -> float:
    return float((scores.max(axis=1) < contract.abstain_below).mean())
