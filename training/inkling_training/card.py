"""The model card: the figures of a version as JSON, as text, and drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling_training.parity import ParityRow

__all__ = ["confusion", "parity_table", "write_card"]


def confusion(
    truth: npt.NDArray[np.int64], found: npt.NDArray[np.int64], num_classes: int
) -> npt.NDArray[np.int64]:
    """Return counts, shape (classes, classes): rows are the truth, columns answers."""
    places = truth * num_classes + found
    counts = np.bincount(places, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def parity_table(rows: Sequence[ParityRow]) -> str:
    """Return the comparison of the exports as text."""
    lines = [
        f"{'EXPORT':12} {'ACCURACY':>8}  {'LABELS DIFFER':>13}  {'WORST SCORE':>11}"
    ]
    lines += [
        f"{row.export:12} {row.accuracy:8.2%}  {row.labels_differ:13}  "
        f"{row.worst:11.2g}  {'ok' if row.passed else 'FAILED'}"
        for row in rows
    ]
    return "\n".join(lines)


def write_card(
    directory: Path,
    figures: dict[str, Any],
    history: Sequence[dict[str, float]],
    counts: npt.NDArray[np.int64],
    labels: Sequence[str],
) -> None:
    """Write `metrics.json`, `card.md`, `curves.png` and `confusion.png`."""
    directory.mkdir()
    text = json.dumps(figures, indent=1, sort_keys=True)
    (directory / "metrics.json").write_text(text + "\n", encoding="utf-8")
    (directory / "card.md").write_text(_text(figures), encoding="utf-8")
    _curves(history).savefig(directory / "curves.png", dpi=120)
    _confusion_picture(counts, labels).savefig(directory / "confusion.png", dpi=120)


def _text(figures: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {name} | {accuracy:.2%} | {_thousands(figures['bytes'].get(name))} |"
        for name, accuracy in figures["accuracy"].items()
    )
    return f"""# {figures["model"]} on {figures["dataset"]}

{figures["parameters"]:,} parameters, {figures["epochs"]} epochs in
{figures["train_s"]:.0f} s, seed {figures["seed"]}; the weights are those of epoch
{figures["best_epoch"]}, the best on the validation split. The test set took no part
in any choice.

| export | accuracy on the test set | bytes |
|---|---|---|
{rows}

Contract: `{figures["contract"]}`

![Loss and accuracy by epoch](curves.png)

![Which label was taken for which](confusion.png)
"""


def _thousands(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _curves(history: Sequence[dict[str, float]]) -> Figure:
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


def _confusion_picture(counts: npt.NDArray[np.int64], labels: Sequence[str]) -> Figure:
    size = 2.5 + 0.45 * len(labels)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    # The logarithm shows single mistakes beside a thousand right answers.
    axes.imshow(np.log1p(counts), cmap="Blues")
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=45, ha="right")
    axes.set_yticks(places, labels)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    half = np.log1p(counts.max()) / 2
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if np.log1p(count) > half else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    return figure
