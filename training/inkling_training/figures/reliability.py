# SPDX-License-Identifier: Apache-2.0
"""Calibration: the expected calibration error and the reliability diagram.

A model is calibrated if nine in ten of the predictions with probability 0.9 are right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Bins", "binned", "expected_calibration_error", "reliability"]

BINS = 15


class Bins(NamedTuple):
    """Predictions in bins of equal width by their confidence, with one entry per bin.

    Attributes:
        counts: The number of predictions in the bin.
        scores: Their mean confidence; 0 for an empty bin.
        right: Their accuracy; 0 for an empty bin.
    """

    counts: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]


def binned(
    confidences: npt.NDArray[np.floating], correct: npt.NDArray[np.bool_], bins: int
) -> Bins:
    """Return the predictions in bins by their confidence.

    Args:
        confidences: The highest score of each picture, shape (n,), in [0, 1].
        correct: Whether its label is right, shape (n,).
        bins: The number of bins of [0, 1]; a bin includes its upper edge.
    """
    place = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    some = np.maximum(counts, 1)
    scores = np.bincount(place, confidences, bins) / some
    return Bins(counts, scores, np.bincount(place, correct, bins) / some)


def expected_calibration_error(
    confidences: npt.NDArray[np.floating],
    correct: npt.NDArray[np.bool_],
    bins: int = BINS,
) -> float:
    """Return the expected calibration error, in [0, 1]; 0 is best.

    The error is the mean over all predictions of |mean confidence - accuracy| of their
    bin (Guo et al., On Calibration of Modern Neural Networks, 2017). Without
    predictions the error is 0.

    Args:
        confidences: The highest score of each picture, shape (n,), in [0, 1].
        correct: Whether its label is right, shape (n,).
        bins: The number of bins of equal width.
    """
    found = binned(confidences, correct, bins)
    gaps = np.abs(found.scores - found.right)
    return float((gaps * found.counts).sum() / max(1, len(confidences)))


def reliability(
    confidences: npt.NDArray[np.floating],
    correct: npt.NDArray[np.bool_],
    bins: int = BINS,
) -> Figure:
    """Return the reliability diagram: the accuracy by confidence.

    The bars of a calibrated model end on the diagonal. The arguments are those of
    `expected_calibration_error`.
    """
    found = binned(confidences, correct, bins)
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes, below = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]}
    )
    centres = (np.arange(bins) + 0.5) / bins
    axes.bar(centres, found.right, 0.9 / bins, label="accuracy")
    some = found.counts > 0
    axes.plot(found.scores[some], found.right[some], "k.", label="mean confidence")
    axes.plot([0, 1], [0, 1], "k--", linewidth=1)
    error = expected_calibration_error(confidences, correct, bins)
    axes.set_title(f"expected calibration error {error:.2%}")
    axes.set_ylabel("accuracy")
    axes.legend(loc="upper left")
    below.bar(centres, found.counts, 0.9 / bins, color="grey")
    below.set_yscale("symlog")
    below.set_ylabel("pictures")
    below.set_xlabel("confidence (highest score)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.xaxis.set_major_formatter(PercentFormatter(1.0))
    return figure
