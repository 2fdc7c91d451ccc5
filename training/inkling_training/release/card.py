# SPDX-License-Identifier: Apache-2.0
"""Writes the model card: the figures of a version as JSON, as Markdown and as plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from inkling_training.release.parity import ParityRow

__all__ = ["confusion", "parity_table", "write_card"]

_CAPTIONS = {
    "curves": "Loss and accuracy by epoch",
    "confusion": "Confusion matrix on the test set",
    "calibration": "Reliability diagram: accuracy by confidence",
    "augmentation": "Training pictures before and after augmentation",
}


def confusion(
    truth: npt.NDArray[np.int64], found: npt.NDArray[np.int64], num_classes: int
) -> npt.NDArray[np.int64]:
    """Return the confusion matrix, int64, shape (classes, classes).

    Rows are true labels and columns are predictions.

    Args:
        truth: Indices of the true labels, shape (n,).
        found: Indices of the predicted labels, shape (n,).
        num_classes: The number of labels.
    """
    places = truth * num_classes + found
    counts = np.bincount(places, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def parity_table(rows: Sequence[ParityRow]) -> str:
    """Return the comparison of the exports with the model, as a table of text."""
    lines = [
        f"{'EXPORT':12} {'ACCURACY':>8}  {'LABELS DIFFER':>13}  {'WORST SCORE':>11}"
    ]
    lines += [
        f"{row.export:12} {_share(row.accuracy):>8}  {row.labels_differ:13}  "
        f"{row.worst:11.2g}  {'ok' if row.passed else 'FAILED'}"
        for row in rows
    ]
    return "\n".join(lines)


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def write_card(
    directory: Path, figures: dict[str, Any], pictures: Mapping[str, Figure]
) -> None:
    """Write `metrics.json`, `card.md` and the plots.

    Args:
        directory: The directory to write into, which must not exist.
        figures: The figures of the version.
        pictures: The plots by the names of their files, without `.png`.
    """
    directory.mkdir()
    text = json.dumps(figures, indent=1, sort_keys=True)
    (directory / "metrics.json").write_text(text + "\n", encoding="utf-8")
    shown = [
        f"![{caption}]({name}.png)"
        for name, caption in _CAPTIONS.items()
        if name in pictures
    ]
    card = "\n\n".join([_text(figures), *shown])
    (directory / "card.md").write_text(card + "\n", encoding="utf-8")
    for name, picture in pictures.items():
        picture.savefig(directory / f"{name}.png", dpi=120)


def _text(figures: dict[str, Any]) -> str:
    errors = figures["calibration_error"]
    rows = "\n".join(
        f"| {name} | {accuracy:.2%} | {errors[name]:.2%} | "
        f"{_thousands(figures['bytes'].get(name))} |"
        for name, accuracy in figures["accuracy"].items()
    )
    return f"""# {figures["model"]} on {figures["dataset"]}

The model has {figures["parameters"]:,} parameters. It was trained for
{figures["epochs"]} epochs in {figures["train_s"]:.0f} s with the seed
{figures["seed"]}. The weights are those of epoch {figures["best_epoch"]}, which was the
best on the validation split. The test set was used for this report only.

| export | accuracy on the test set | expected calibration error | bytes |
|---|---|---|---|
{rows}

The expected calibration error has 15 bins. The softmax temperature, chosen on the
validation split, is {figures["temperature"]:g}; without it the error was
{errors["before"]:.2%}.

{_abstaining(figures)}

{_stated(figures)}Contract: `{figures["contract"]}`"""


def _stated(figures: dict[str, Any]) -> str:
    """Return what is to be said about a network that is not Inkling's own."""
    if not figures.get("notes"):
        return ""
    listed = "\n".join(f"- {note}" for note in figures["notes"])
    return f"Architecture: `{figures['architecture']}`\n\n{listed}\n\n"


def _abstaining(figures: dict[str, Any]) -> str:
    text = f"""If the caller allows abstention, the model abstains when its highest
score is below {figures["abstain_below"]:g}. This applies to
{figures["abstained"]:.2%} of the test set"""
    caught = figures["caught"]
    if not caught:
        return f"{text}."
    rows = "\n".join(f"| {kind} | {share:.1%} |" for kind, share in caught.items())
    return f"""{text}, and to these shares of outliers, which training did not use:

| kind of outlier | share abstained |
|---|---|
{rows}"""


def _thousands(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
