# SPDX-License-Identifier: Apache-2.0
"""How far the pictures and answers of now are from those of a model's test set.

Publishing counts the test set in bins and keeps the counts in the model card. Later
pictures are counted in the same bins, and the population stability index says how
different both are: below 0.1 is usual, and above 0.25 is another distribution.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]

__all__ = ["FIGURE", "LEAST_PICTURES", "Baseline", "stability_index"]

# The figure of the model card.
FIGURE = "drift_baseline"
# With fewer pictures on either side, the index tells more of chance than of a change.
LEAST_PICTURES = 200
# Labels with a bin of their own; all others share one.
_FREQUENT = 9
# Scores of int8 exports are multiples of 1/256, so that finer bins would tell formats.
_CONFIDENCE = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_DECILES = np.arange(0.1, 0.95, 0.1)
# What is added to each count: an empty bin has no logarithm.
_UNSEEN = 0.5


def stability_index(expected: Sequence[float], found: Sequence[float]) -> float:
    """Return the population stability index of two counts in the same bins; 0 is equal.

    Args:
        expected: The pictures in each bin at first.
        found: Those of now.
    """
    shares = [
        (np.asarray(counts) + _UNSEEN) / (np.sum(counts) + _UNSEEN * len(counts))
        for counts in (expected, found)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


@dataclass(frozen=True)
class Baseline:
    """The bins of each statistic, and how many pictures of the test set are in each.

    The statistics are `labels` (the most probable label), `confidence` (its score),
    `abstention` (whether that is below the contract's `abstain_below`), and of the
    model inputs `brightness` (the mean) and `contrast` (the standard deviation).

    Attributes:
        abstain_below: The score below which the model abstains.
        frequent: The indices of the labels that have a bin of their own.
        edges: The inner edges of the bins of the statistics that are numbers.
        counts: The pictures in each bin, by statistic.
    """

    abstain_below: float
    frequent: tuple[int, ...]
    edges: Mapping[str, tuple[float, ...]]
    counts: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(
        cls, parts: Iterable[tuple[Floats, Floats]], abstain_below: float
    ) -> Baseline:
        """Return the baseline of the pictures of a test set.

        Args:
            parts: Model inputs, (n, *input_shape), and their scores, (n, classes), of
                one part of the pictures after the other.
            abstain_below: The contract's threshold.
        """
        seen = [(_statistics(inputs), scores) for inputs, scores in parts]
        scores = np.concatenate([one for _, one in seen])
        numbers = {
            name: np.concatenate([one[name] for one, _ in seen]) for name in seen[0][0]
        }
        order = np.argsort(-np.bincount(scores.argmax(axis=1)), kind="stable")
        edges = {"confidence": _CONFIDENCE} | {
            name: tuple(np.unique(np.quantile(values, _DECILES).round(6)).tolist())
            for name, values in numbers.items()
        }
        frequent = tuple(order[:_FREQUENT].tolist())
        empty = cls(float(abstain_below), frequent, edges, {})
        return replace(empty, counts=empty._counted(numbers, scores))

    @classmethod
    def of_json(cls, given: Any) -> Baseline | None:
        """Return the baseline of a figure of the card; None if it is none."""
        try:
            edges, counts = (
                {str(name): tuple(values) for name, values in given[field].items()}
                for field in ("edges", "counts")
            )
            return cls(given["abstain_below"], tuple(given["frequent"]), edges, counts)
        except (TypeError, KeyError, AttributeError):
            return None

    def to_json(self) -> dict[str, Any]:
        """Return the figure for the card."""
        return dict(vars(self))

    def count(
        self, inputs: Floats | None, scores: Floats
    ) -> dict[str, tuple[int, ...]]:
        """Return how many pictures are in each bin, by statistic.

        Args:
            inputs: The model inputs, (n, *input_shape); None to count answers alone.
            scores: The scores, (n, classes).
        """
        return self._counted({} if inputs is None else _statistics(inputs), scores)

    def _counted(
        self, numbers: Mapping[str, Floats], scores: Floats
    ) -> dict[str, tuple[int, ...]]:
        best, labels = scores.max(axis=1), scores.argmax(axis=1)
        places = {label: place for place, label in enumerate(self.frequent)}
        rest = len(self.frequent)
        binned: dict[str, tuple[Any, int]] = {
            "labels": ([places.get(int(one), rest) for one in labels], rest + 1),
            "abstention": (np.asarray(best < self.abstain_below, np.int64), 2),
        }
        for name, values in {"confidence": best, **numbers}.items():
            edges = self.edges[name]
            binned[name] = (np.searchsorted(edges, values), len(edges) + 1)
        return {
            name: tuple(np.bincount(where, minlength=size).tolist())
            for name, (where, size) in binned.items()
        }


def _statistics(inputs: Floats) -> dict[str, Floats]:
    """Return the mean and the standard deviation of each model input."""
    flat = inputs.reshape(len(inputs), -1)
    return {"brightness": flat.mean(axis=1), "contrast": flat.std(axis=1)}
