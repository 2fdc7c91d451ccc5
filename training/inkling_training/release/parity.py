"""The parity gate: a version is published only if its exports agree with Keras."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import tensorflow as tf

from inkling.model.bundle import read_bundle
from inkling.model.repository import FORMATS
from inkling.model.runner import TFLiteRunner
from inkling_training.figures.reliability import expected_calibration_error

if TYPE_CHECKING:
    import keras
    import numpy.typing as npt

    from inkling.contract import Contract

    Scores: TypeAlias = npt.NDArray[np.float32]
    Predict: TypeAlias = Callable[[npt.NDArray[np.float32]], Scores]

__all__ = ["ParityRow", "compare"]

_BATCH = 250
# The largest loss of accuracy of an int8 model. On a small test set, labels that change
# by chance can lose more; the limit there is two standard errors of their number.
_MAX_ACCURACY_LOSS = 0.002
_SMALL_TEST_SET = 5000
# These exports have the arithmetic of Keras, so every label must be the same.
_EXACT = ("saved_model", "float32")


@dataclass(frozen=True)
class ParityRow:
    """The comparison of one export with Keras on the test set.

    Attributes:
        export: `saved_model` or the TFLite format.
        accuracy: The accuracy on the test set, 0 to 1.
        calibration_error: The expected calibration error, 0 to 1.
        labels_differ: The number of pictures with another label than Keras's.
        worst: The largest difference of any one score.
        passed: True if the differences are within the limits.
    """

    export: str
    accuracy: float
    calibration_error: float
    labels_differ: int
    worst: float
    passed: bool

    def as_json(self) -> dict[str, object]:
        """Return the row as JSON values."""
        return asdict(self)


def compare(
    model: keras.Model,
    version: Path,
    contract: Contract,
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
) -> list[ParityRow]:
    """Run Keras and every export on the same inputs, and return a row for each export.

    Args:
        model: The calibrated Keras model.
        version: The directory with the SavedModel and the TFLite files.
        contract: The contract of the model, with the tolerances.
        inputs: The inputs of the test set, float32, shape (n, height, width, channels).
        labels: The indices of the true labels, shape (n,).
    """
    expected = _scores(lambda batch: model(batch, training=False).numpy(), inputs)
    right = float((expected.argmax(axis=1) == labels).mean())
    rows = []
    for name, predict in _exports(version, contract).items():
        scores = _scores(predict, inputs)
        differ = int((scores.argmax(axis=1) != expected.argmax(axis=1)).sum())
        worst = float(np.abs(scores - expected).max())
        correct = scores.argmax(axis=1) == labels
        accuracy = float(correct.mean())
        within = right - accuracy <= _allowed_loss(differ, len(labels))
        passed = _passes(name, contract.tolerances, differ, worst, within)
        error = expected_calibration_error(scores.max(axis=1), correct)
        rows.append(ParityRow(name, accuracy, error, differ, worst, passed))
    return rows


def _exports(version: Path, contract: Contract) -> Mapping[str, Predict]:
    loaded = tf.saved_model.load(str(version))
    serving_default = loaded.signatures["serving_default"]
    exports: dict[str, Predict] = {
        # The default argument keeps the loaded object alive, which the signature needs.
        "saved_model": lambda batch, _keep=loaded: serving_default(  # type: ignore[misc]
            inputs=tf.constant(batch)
        )["scores"].numpy()
    }
    for name in FORMATS:
        file = version / "tflite" / f"{name}.tflite"
        bundle = read_bundle(file.read_bytes())
        exports[name] = TFLiteRunner(bundle.model, contract, num_threads=2).run
    return exports


def _scores(predict: Predict, inputs: npt.NDArray[np.float32]) -> Scores:
    starts = range(0, len(inputs), _BATCH)
    return np.concatenate([predict(inputs[at : at + _BATCH]) for at in starts])


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
