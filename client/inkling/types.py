"""The values that cross every boundary: what a classification says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = ["Prediction", "Score", "predictions"]


@dataclass(frozen=True, slots=True)
class Score:
    """One label with its probability in [0, 1]; `index` is its place in the scores."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image; `top` is sorted, likeliest first."""

    label: str
    index: int
    probability: float
    top: tuple[Score, ...]


def predictions(
    scores: npt.NDArray[np.float32], labels: Sequence[str], top_k: int
) -> list[Prediction]:
    """Return one prediction per row of `scores`, shape (n, classes), in [0, 1].

    Equal scores keep the order of the labels, so that every path breaks ties alike.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return [
        _prediction(row, indices, labels)
        for row, indices in zip(scores.tolist(), order.tolist(), strict=True)
    ]


def _prediction(
    row: Sequence[float], indices: Sequence[int], labels: Sequence[str]
) -> Prediction:
    top = tuple(Score(labels[index], index, row[index]) for index in indices)
    return Prediction(top[0].label, top[0].index, top[0].probability, top)
