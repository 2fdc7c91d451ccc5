"""The values that cross every boundary: what a classification says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "Origin",
    "Prediction",
    "Score",
    "are_scores",
    "check_abstain",
    "check_top_k",
    "predictions",
]

_MAX_TOP_K = 1_000_000


@dataclass(frozen=True, slots=True)
class Score:
    """One label with its probability in [0, 1]; `index` is its place in the scores."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Origin:
    """Who answered.

    Attributes:
        model: The model's name.
        version: Its version; None where a lone TFLite file answered.
        contract: Hash of the contract under which the image was prepared.
        answered_by: `gateway` or `device`.
    """

    model: str
    version: int | None
    contract: str
    answered_by: str = "gateway"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        top: The likeliest labels, likeliest first; never empty.
        origin: Who said it.
        abstained: Why there is no label, one of `inkling.abstention.REASONS`; None
            where there is one, as always where abstaining was not asked for.
    """

    top: tuple[Score, ...]
    origin: Origin
    abstained: str | None = None

    @property
    def label(self) -> str | None:
        """The likeliest label; None where the model abstained."""
        return None if self.abstained else self.top[0].label

    @property
    def index(self) -> int | None:
        """Its place in the scores; None where the model abstained."""
        return None if self.abstained else self.top[0].index

    @property
    def probability(self) -> float:
        """The highest probability in [0, 1], with or without a label."""
        return self.top[0].probability


def check_top_k(top_k: int) -> int:
    """Return `top_k` if so many labels can be asked for.

    Raises:
        InvalidRequest: It is no whole number from 1 to a million.
    """
    if not isinstance(top_k, int) or not 1 <= top_k <= _MAX_TOP_K:
        raise InvalidRequest(
            f"top_k is {top_k!r:.40}; expected a whole number, 1 or more."
        )
    return top_k


def check_abstain(abstain: bool) -> bool:
    """Return `abstain` if it says whether the model may abstain.

    Raises:
        InvalidRequest: It is neither true nor false.
    """
    if not isinstance(abstain, bool):
        raise InvalidRequest(f"abstain is {abstain!r:.40}; expected true or false.")
    return abstain


def are_scores(
    scores: npt.NDArray[Any], shape: tuple[int, int], tolerance: float
) -> bool:
    """Whether these are probabilities, a row for each input.

    Args:
        scores: What a model answered.
        shape: What it should have: inputs, and labels.
        tolerance: By how much a row's sum may differ from 1, and a score be below 0 or
            above 1.
    """
    if scores.shape != shape:
        return False
    low, high = (
        np.minimum.reduce(scores, axis=None),
        np.maximum.reduce(scores, axis=None),
    )
    # What is no number fails this comparison, and what is not finite is never added.
    if not (low >= -tolerance and high <= 1 + tolerance):
        return False
    sums = np.add.reduce(scores, axis=1).tolist()
    return all(abs(one - 1) <= tolerance for one in sums)


def predictions(
    scores: npt.NDArray[np.float32],
    labels: Sequence[str],
    top_k: int,
    origin: Origin,
) -> list[Prediction]:
    """Return one prediction per row of `scores`, shape (n, classes), in [0, 1].

    Equal scores keep the order of the labels, so that every path breaks ties alike.
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
