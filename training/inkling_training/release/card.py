"""The model card: the figures of a version as JSON, as text, and drawn."""

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
    "confusion": "Which label was taken for which",
    "calibration": "How often the model is right, by how sure it is",
    "augmentation": "Pictures, and what the training makes of them",
}


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
    directory: Path, figures: dict[str, Any], pictures: Mapping[str, Figure]
) -> None:
    """Write `metrics.json`, `card.md` and the pictures.

    Args:
        directory: Where to; it is made.
        figures: What is said.
        pictures: By the names of their files, without `.png`; see `_CAPTIONS`.
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

{figures["parameters"]:,} parameters, {figures["epochs"]} epochs in
{figures["train_s"]:.0f} s, seed {figures["seed"]}; the weights are those of epoch
{figures["best_epoch"]}, the best on the validation split. The test set took no part
in any choice.

| export | accuracy on the test set | calibration error | bytes |
|---|---|---|---|
{rows}

The calibration error is the expected one, over 15 ranges of the highest score. Before
the logits were divided by {figures["temperature"]:g}, which the validation split chose,
it was {errors["before"]:.2%}.

{_abstaining(figures)}

Contract: `{figures["contract"]}`"""


def _abstaining(figures: dict[str, Any]) -> str:
    text = f"""Where abstaining is asked for, a highest score under
{figures["abstain_below"]:g} is no answer: so are {figures["abstained"]:.2%} of the test
set"""
    caught = figures["caught"]
    if not caught:
        return f"{text}."
    rows = "\n".join(f"| {kind} | {share:.1%} |" for kind, share in caught.items())
    return f"""{text}, and of things that are no digit, drawn anew for this:

| thing | caught |
|---|---|
{rows}"""


def _thousands(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
