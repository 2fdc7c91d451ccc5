# SPDX-License-Identifier: Apache-2.0
"""Plots: learning curves, a confusion matrix, and rows of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from inkling_training.figures.text import labels_drawn

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["confusion", "curves", "rows_of_pictures"]

# Padding of one pixel around a picture, and none along its channels.
_FRAME = ((1, 1), (1, 1), (0, 0))


def curves(history: Sequence[dict[str, float]]) -> Figure:
    """Return a plot of loss and accuracy by epoch.

    Args:
        history: `loss`, `accuracy`, `val_loss` and `val_accuracy` of each epoch.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    epochs = range(1, len(history) + 1)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for prefix, label in (("", "training, augmented"), ("val_", "validation")):
            values = [figures[prefix + name] for figures in history]
            axes.plot(epochs, values, marker=".", label=label)
        axes.set_xlabel("epoch")
        axes.set_title(name)
        axes.grid(alpha=0.3)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend()
    return figure


def confusion(counts: npt.NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """Return a plot of a confusion matrix.

    Args:
        counts: Shape (classes, classes); rows are true labels, columns are predictions.
        labels: The names of the classes; one whose characters no font has becomes its
            number.
    """
    size = 2.5 + 0.45 * len(labels)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    # On a logarithmic scale single errors stay visible beside a thousand correct ones.
    axes.imshow(np.log1p(counts), cmap="Blues")
    places = range(len(labels))
    shown, style, note = labels_drawn(labels)
    axes.set_xticks(places, shown, rotation=45, ha="right", **style)
    axes.set_yticks(places, shown, **style)
    axes.set_xlabel("\n".join(filter(None, ["predicted label", note])))
    axes.set_ylabel("true label")
    half = np.log1p(counts.max()) / 2
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if np.log1p(count) > half else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    return figure


def rows_of_pictures(rows: Mapping[str, npt.NDArray[np.floating[Any]]]) -> Figure:
    """Return a plot of rows of pictures.

    Args:
        rows: The pictures of each row by its title, shape (n, height, width, channels),
            in [0, 1]; n is the same for all rows.
    """
    count = max(len(pictures) for pictures in rows.values())
    figure = Figure(figsize=(0.6 * count, 0.85 * len(rows)), layout="constrained")
    for axes, (name, pictures) in zip(
        figure.subplots(len(rows), squeeze=False)[:, 0], rows.items(), strict=True
    ):
        framed = [np.pad(one, _FRAME, constant_values=0.5) for one in pictures]
        strip = np.concatenate(framed, axis=1)
        axes.imshow(strip.squeeze(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(name, fontsize=8, loc="left", pad=2)
        axes.set_axis_off()
    return figure
