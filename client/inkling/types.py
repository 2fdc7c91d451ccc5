"""The values that cross every boundary: what a classification says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Origin", "Prediction", "Score", "predictions"]


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
    """

    top: tuple[Score, ...]
    origin: Origin

    @property
    def label(self) -> str:
        """The likeliest label."""
        return self.top[0].label

    @property
    def index(self) -> int:
        """Its place in the scores."""
        return self.top[0].index

    @property
    def probability(self) -> float:
        """Its probability in [0, 1]."""
        return self.top[0].probability


def predictions(
    scores: npt.NDArray[np.float32],
    labels: Sequence[str],
    top_k: int,
    origin: Origin,
) -> list[Prediction]:
    """Return one prediction per row of `scores`, shape (n, classes), in [0, 1].

    Equal scores keep the order of the labels, so that every path breaks ties alike.
    """
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return [
        Prediction(tuple(Score(labels[i], i, row[i]) for i in indices), origin)
        for row, indices in zip(scores.tolist(), order.tolist(), strict=True)
    ]
