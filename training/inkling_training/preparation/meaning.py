# SPDX-License-Identifier: Apache-2.0
"""What a model's outputs mean, and the scores that they become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from inkling.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy.typing as npt

    Values = npt.NDArray[np.float32]

__all__ = [
    "label_count",
    "meaning_of",
    "probabilities",
    "right_answers",
    "traced_probabilities",
]

_SUM_TOLERANCE = 2e-3
_CHOICES = (
    "softmax (probabilities that sum to 1), logits (before softmax), sigmoid (several "
    "labels at once), or binary (one probability, for the second of two labels)"
)


def label_count(meaning: str, outputs: int) -> int:
    """Return the number of labels of a model.

    Args:
        meaning: `softmax`, `logits`, `sigmoid` or `binary`.
        outputs: The number of values for each picture.
    """
    return 2 if outputs == 1 and meaning in ("binary", "logits") else outputs


def meaning_of(
    wished: str | None, activation: str | None, raw: Values, *, rounded: bool = False
) -> tuple[str, str]:
    """Return what a model's outputs mean, and the reason.

    Args:
        wished: The caller's `--outputs`; None to conclude it.
        activation: The function behind the outputs; None if the model does not tell.
        raw: The model's answers to some pictures, shape (n, outputs).
        rounded: True if the outputs are whole numbers, so that sums are rough.

    Raises:
        InvalidRequest: It cannot be known, or the wish contradicts the model.
    """
    if wished is not None:
        _check_wish(wished, raw.shape[1], raw)
        if wished == "softmax" and not rounded:
            _check_sums(raw)
        return wished, "--outputs"
    found = _told(activation, raw.shape[1]) or _measured(raw)
    # An average of softmaxes ends without an activation, and is no logit.
    if found and found[0] == "logits" and raw.shape[1] > 1 and _sum_to_one(raw):
        found = _measured(raw)
    if found is None:
        raise InvalidRequest(
            f"The model does not tell what its outputs are; say --outputs {_CHOICES}."
        )
    return found


def _told(activation: str | None, outputs: int) -> tuple[str, str] | None:
    if activation == "softmax" and outputs > 1:
        return "softmax", "the model ends in softmax"
    if activation == "sigmoid":
        if outputs == 1:
            return "binary", "the model ends in one sigmoid"
        return "sigmoid", "the model ends in a sigmoid for each label"
    if activation == "linear":
        return "logits", "the model ends without an activation"
    return None


def _measured(raw: Values) -> tuple[str, str] | None:
    if raw.shape[1] == 1:
        return None
    if not _are_probabilities(raw):
        return "logits", "its answers to some pictures lie outside 0 to 1"
    if _sum_to_one(raw):
        return "softmax", "the scores of each picture sum to 1"
    return None


def _sum_to_one(raw: Values) -> bool:
    sums = raw.sum(axis=1)
    return _are_probabilities(raw) and bool(np.abs(sums - 1).max() <= _SUM_TOLERANCE)


def _are_probabilities(raw: Values) -> bool:
    return bool(raw.min() >= -_SUM_TOLERANCE and raw.max() <= 1 + _SUM_TOLERANCE)


def _check_wish(wished: str, outputs: int, raw: Values) -> None:
    if wished == "binary" and outputs != 1:
        raise InvalidRequest(
            f"--outputs is binary, and the model has {outputs} outputs; expected one."
        )
    if wished == "softmax" and outputs == 1:
        raise InvalidRequest(
            "--outputs is softmax, and the model has one output, which softmax makes "
            "1 always; expected binary, logits or sigmoid."
        )
    if outputs > 1 and wished == "logits" and _sum_to_one(raw):
        raise InvalidRequest(
            "--outputs is logits, and the scores of each picture sum to 1 already, so "
            "that another softmax would level them; expected softmax."
        )
    if wished != "logits" and not _are_probabilities(raw):
        raise InvalidRequest(
            f"--outputs is {wished}, and the model answers {raw.min():.3g} to "
            f"{raw.max():.3g}, which are no probabilities; expected logits."
        )


def _check_sums(raw: Values) -> None:
    if not _sum_to_one(raw):
        sums = raw.sum(axis=1)
        raise InvalidRequest(
            f"--outputs is softmax, and the scores of a picture sum to {sums.min():.3g}"
            f" to {sums.max():.3g}, not to 1; expected sigmoid or logits."
        )


def probabilities(raw: Values, meaning: str) -> Values:
    """Return the scores of the labels, float32, shape (n, labels).

    Args:
        raw: The model's output, float32, shape (n, outputs).
        meaning: `softmax`, `logits`, `sigmoid` or `binary`.
    """
    values = raw.astype(np.float64)
    if meaning == "logits" and raw.shape[1] == 1:
        # The logit of the first label is 0.
        values = np.concatenate([np.zeros_like(values), values], axis=1)
    if meaning == "logits":
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        values = powers / powers.sum(axis=1, keepdims=True)
    elif meaning == "binary":
        values = np.concatenate([1 - values, values], axis=1)
    return values.astype(np.float32)


def right_answers(scores: Values, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return whether the most probable label of each picture is its own, shape (n,).

    Args:
        scores: Shape (n, classes).
        labels: The places of the true labels, shape (n,); or, if a picture may have
            several, whether it has each of them, shape (n, classes).
    """
    found = scores.argmax(axis=1)
    if labels.ndim == 1:
        return np.asarray(found == labels)
    return np.asarray(labels[np.arange(len(labels)), found], np.bool_)


def traced_probabilities(raw: Any, meaning: str, outputs: int) -> Any:
    """Do as `probabilities` does, on TensorFlow's tensors, for the export."""
    raw = tf.cast(tf.reshape(raw, (-1, outputs)), tf.float32)
    if meaning == "binary":
        return tf.concat([1.0 - raw, raw], axis=1)
    if meaning == "logits" and outputs == 1:
        raw = tf.concat([tf.zeros_like(raw), raw], axis=1)
    return tf.nn.softmax(raw) if meaning == "logits" else raw
