"""The gate: a version is published only if all its exports give the same answers."""

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
# An int8 model may lose this share of right answers, at most. On a small test set a few
# labels that changed by chance are more: there, two standard errors of their balance.
_MAX_ACCURACY_LOSS = 0.002
_SMALL_TEST_SET = 5000
# Exports with the same arithmetic as Keras must agree on every label.
_EXACT = ("saved_model", "float32")


@dataclass(frozen=True)
class ParityRow:
    """How one export compares with Keras on the golden pictures and the test set.

    Attributes:
        export: `saved_model` or the TFLite format.
        accuracy: Share of right labels on the test set.
        calibration_error: How far off its scores are as probabilities, on average.
        labels_differ: Pictures whose label is not the one that Keras gives.
        worst: Largest difference of any one score.
        passed: Whether the differences are within what the contract states.
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
    """Run Keras and every export over the same inputs; return a row for each export.

    Args:
        model: What was trained.
        version: The directory with the SavedModel and the TFLite files.
        contract: The model's contract, with the tolerances.
        inputs: The test set, shape (n, height, width, channels), float32.
        labels: Shape (n,), the right answers.
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
        # Bound as a default: the signature dies with the loaded object.
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
