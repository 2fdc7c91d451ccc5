# SPDX-License-Identifier: Apache-2.0
"""The result of a classification, in the form that every protocol carries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from inkling.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "ClassifyOptions",
    "Origin",
    "Prediction",
    "Score",
    "are_scores",
    "check_abstain",
    "check_threshold",
    "check_top_k",
    "predictions",
]

_MAX_TOP_K = 1_000_000


@dataclass(frozen=True, slots=True)
class Score:
    """One label with its probability.

    Attributes:
        label: The label's name.
        index: Position of the label in the scores, from 0.
        probability: In [0, 1]. The probabilities of all labels sum to 1, unless the
            contract's `outputs` is `sigmoid`.
    """

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Origin:
    """The model that answered, and the place where it ran.

    Attributes:
        model: The model's name.
        version: The model's version; None if the model is a single TFLite file.
        contract: Hash of the contract under which the image was prepared.
        answered_by: `gateway` or `device`.
    """

    model: str
    version: int | None
    contract: str
    answered_by: str = "gateway"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The classification of one image.

    Attributes:
        top: The most probable labels, by falling probability; it has at least one.
        origin: The model that answered.
        abstained: The reason why the prediction has no label, one of
            `inkling.abstention.REASONS`, or `inkling.threshold.BELOW_THRESHOLD`; None
            if the prediction has a label. It is always None if the caller asked neither
            for abstention nor with a threshold.
        labels: All labels at or above the caller's threshold, by falling probability;
            empty if the prediction has no label. None if the caller set no threshold.
    """

    top: tuple[Score, ...]
    origin: Origin
    abstained: str | None = None
    labels: tuple[Score, ...] | None = None

    @property
    def label(self) -> str | None:
        """The most probable label; None if the model abstained."""
        return None if self.abstained else self.top[0].label

    @property
    def index(self) -> int | None:
        """The label's position in the scores, from 0; None if the model abstained."""
        return None if self.abstained else self.top[0].index

    @property
    def probability(self) -> float:
        """The highest probability, in [0, 1], even if the model abstained."""
        return self.top[0].probability


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """What a caller wants of a classification.

    Attributes:
        top_k: How many of the most probable labels a prediction has.
        abstain: Whether a picture that the model is not sure of gets no label.
        threshold: From 0 to 1: the prediction has all labels with this probability or
            a higher one. Only for models whose pictures may have several labels. None
            for no threshold.
    """

    top_k: int = 1
    abstain: bool = False
    threshold: float | None = None

    @classmethod
    def checked(cls, top_k: int, abstain: bool, threshold: float | None) -> Self:
        """Return the options if each of them is valid.

        Raises:
            InvalidRequest: A value is outside its range.
        """
        return cls(
            check_top_k(top_k), check_abstain(abstain), check_threshold(threshold)
        )


def check_top_k(top_k: int) -> int:
    """Return `top_k` if it is a valid number of labels.

    Raises:
        InvalidRequest: `top_k` is not an integer from 1 to 1,000,000.
    """
    if not isinstance(top_k, int) or not 1 <= top_k <= _MAX_TOP_K:
        raise InvalidRequest(
            f"top_k is {top_k!r:.40}; expected an integer from 1 to {_MAX_TOP_K:,}."
        )
    return top_k


def check_abstain(abstain: bool) -> bool:
    """Return `abstain` if it is a truth value.

    Raises:
        InvalidRequest: `abstain` is neither true nor false.
    """
    if not isinstance(abstain, bool):
        raise InvalidRequest(f"abstain is {abstain!r:.40}; expected true or false.")
    return abstain


def check_threshold(threshold: float | None) -> float | None:
    """Return `threshold` as a float if it is valid; None stands for no threshold.

    Raises:
        InvalidRequest: `threshold` is not a number from 0 to 1.
    """
    if threshold is None:
        return None
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not is_number or not math.isfinite(threshold) or not 0 <= threshold <= 1:
        raise InvalidRequest(
            f"threshold is {threshold!r:.40}; expected a number from 0 to 1."
        )
    return float(threshold)


def are_scores(
    scores: npt.NDArray[Any],
    shape: tuple[int, int],
    tolerance: float,
    *,
    sum_to_one: bool = True,
) -> bool:
    """Return whether an array holds the probabilities of the labels for each input.

    Args:
        scores: The output of a model.
        shape: The expected shape: (inputs, labels).
        tolerance: How far a row's sum may differ from 1, and how far a score may lie
            outside [0, 1].
        sum_to_one: False if each label has a probability on its own.
    """
    if scores.shape != shape:
        return False
    low, high = (
        np.minimum.reduce(scores, axis=None),
        np.maximum.reduce(scores, axis=None),
    )
    # NaN fails this comparison, and infinite scores never reach the sum.
    if not (low >= -tolerance and high <= 1 + tolerance):
        return False
    if not sum_to_one:
        return True
    sums = np.add.reduce(scores, axis=1).tolist()
    return all(abs(one - 1) <= tolerance for one in sums)


def predictions(
    scores: npt.NDArray[np.float32],
    labels: Sequence[str],
    top_k: int,
    origin: Origin,
) -> list[Prediction]:
    """Return one prediction per row of `scores`.

    Equal scores keep the order of the labels, so that gateway and device break ties
    in the same way.

    Args:
        scores: Probabilities, shape (n, classes), in [0, 1].
        labels: The name of each class, in the order of the scores.
        top_k: How many labels each prediction has; at most the number of classes.
        origin: The model that answered.
    """
    if top_k == 1:
        return [_likeliest(row, labels, origin) for row in scores.tolist()]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return [
        Prediction(tuple(Score(labels[i], i, row[i]) for i in indices), origin)
        for row, indices in zip(scores.tolist(), order.tolist(), strict=True)
    ]


def _likeliest(row: list[float], labels: Sequence[str], origin: Origin) -> Prediction:
    index = row.index(max(row))
    return Prediction((Score(labels[index], index, row[index]),), origin)
