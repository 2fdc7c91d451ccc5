# SPDX-License-Identifier: Apache-2.0
"""The parity gate: a version is published only if its exports agree with the model.

The model is the trained Keras model, or a model that was given, asked by its library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import tensorflow as tf

from inkling.errors import BrokenVersion
from inkling.model.bundle import read_bundle
from inkling.model.runner import TFLiteRunner
from inkling_training.data.stored import batch_size
from inkling_training.figures.reliability import expected_calibration_error
from inkling_training.preparation.meaning import right_answers

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract

    Scores: TypeAlias = npt.NDArray[np.float32]
    Predict: TypeAlias = Callable[[npt.NDArray[np.float32]], Scores]

    from inkling_training.data.stored import Inputs

__all__ = ["ParityRow", "compare", "scores_of"]

# The largest loss of accuracy of an int8 model. On a small test set, labels that change
# by chance can lose more; the limit there is two standard errors of their number.
_MAX_ACCURACY_LOSS = 0.002
_SMALL_TEST_SET = 5000
# These exports have the arithmetic of Keras, so every label must be the same.
_EXACT = ("saved_model", "float32")


@dataclass(frozen=True)
class ParityRow:
    """The comparison of one export with the model on the test set.

    Attributes:
        export: `saved_model` or the TFLite format.
        accuracy: The accuracy on the test set, 0 to 1; None without true labels.
        calibration_error: The expected calibration error, 0 to 1; None without true
            labels.
        labels_differ: The number of pictures with another label than the model's.
        worst: The largest difference of any one score; NaN if its answers are no
            probabilities.
        passed: True if the differences are within the limits.
    """

    export: str
    accuracy: float | None
    calibration_error: float | None
    labels_differ: int
    worst: float
    passed: bool

    def as_json(self) -> dict[str, object]:
        """Return the row as JSON values."""
        return asdict(self)


def compare(
    expected: Scores,
    version: Path,
    contract: Contract,
    inputs: Inputs,
    labels: npt.NDArray[Any] | None,
    formats: Sequence[str],
) -> list[ParityRow]:
    """Run every export on the same inputs, and return a row for each.

    Args:
        expected: The model's own scores for the inputs, shape (n, classes).
        version: The directory with the SavedModel, if it has one, and the TFLite files.
        contract: The contract of the model, with the tolerances.
        inputs: Inputs, float32, shape (n, height, width, channels).
        labels: As `meaning.right_answers` takes them; None if they are not known.
        formats: The TFLite formats that the version has.
    """
    rows = []
    for name, predict in _exports(version, contract, formats).items():
        try:
            scores = scores_of(predict, inputs)
        except BrokenVersion:
            rows.append(ParityRow(name, None, None, len(inputs), math.nan, False))
        else:
            rows.append(_row(name, scores, expected, labels, contract.tolerances))
    return rows


def _row(
    name: str,
    scores: Scores,
    expected: Scores,
    labels: npt.NDArray[Any] | None,
    tolerances: Mapping[str, float],
) -> ParityRow:
    differ = int(_differing(scores, expected, tolerances["float32"]).sum())
    worst = float(np.abs(scores - expected).max())
    if labels is None:
        passed = _passes(name, tolerances, differ, worst, accurate=True)
        return ParityRow(name, None, None, differ, worst, passed)
    right = float(right_answers(expected, labels).mean())
    correct = right_answers(scores, labels)
    accuracy = float(correct.mean())
    within = right - accuracy <= _allowed_loss(differ, len(labels))
    passed = _passes(name, tolerances, differ, worst, within)
    error = expected_calibration_error(scores.max(axis=1), correct)
    return ParityRow(name, accuracy, error, differ, worst, passed)


def _differing(
    scores: Scores, expected: Scores, tolerance: float
) -> npt.NDArray[np.bool_]:
    """Return which rows have another label; labels that tie count as the same."""
    rows = np.arange(len(expected))
    lead = expected.max(axis=1) - expected[rows, scores.argmax(axis=1)]
    return np.asarray(lead > 2 * tolerance)


def _exports(
    version: Path, contract: Contract, formats: Sequence[str]
) -> Mapping[str, Predict]:
    exports: dict[str, Predict] = {}
    if (version / "saved_model.pb").exists():
        loaded = tf.saved_model.load(str(version))
        serving_default = loaded.signatures["serving_default"]
        # The default argument keeps the loaded object alive, which the signature needs.
        exports["saved_model"] = lambda batch, _keep=loaded: serving_default(  # type: ignore[misc]
            inputs=tf.constant(batch)
        )["scores"].numpy()
    for name in formats:
        file = version / "tflite" / f"{name}.tflite"
        bundle = read_bundle(file.read_bytes())
        exports[name] = TFLiteRunner(bundle.model, contract, num_threads=2).run
    return exports


def scores_of(predict: Predict, inputs: Inputs) -> Scores:
    """Return the scores of all inputs, of which a part is held in memory at a time."""
    size = batch_size(inputs.shape[1:])
    starts = range(0, len(inputs), size)
    return np.concatenate([predict(inputs[at : at + size]) for at in starts])


def _allowed_loss(differ: int, count: int) -> float:
    chance = 2 * math.sqrt(differ) / count if count < _SMALL_TEST_SET else 0.0
    return max(_MAX_ACCURACY_LOSS, chance)


def _passes(
    name: str,
    tolerances: Mapping[str, float],
    differ: int,
    worst: float,
    accurate: bool,
) -> bool:
    if name in _EXACT:
        return differ == 0 and worst <= tolerances["float32"]
    if name == "int8":
        return accurate and worst <= tolerances[name]
    return worst <= tolerances[name]
