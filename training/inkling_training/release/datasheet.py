# SPDX-License-Identifier: Apache-2.0
"""Writes the card of a model that was given: its statements, figures and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from inkling.image.budget import Budget
from inkling.image.decoding import decode
from inkling.image.preprocess import decoded_to_pixels

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling_training.preparation.conclusion import Fact
    from inkling_training.preparation.pictures import Pictures

__all__ = ["seen", "write_datasheet"]

_SHOWN = 8
_LISTED = 12


def seen(contract: Contract, pictures: Pictures) -> Figure:
    """Return a plot of what the model sees of the first pictures.

    A channel order other than RGB is shown as the model gets it: red and blue change
    places.
    """
    images = pictures.images[:_SHOWN]
    figure = Figure(figsize=(1.6 * len(images), 2), layout="constrained")
    figure.suptitle("What the model sees", fontsize=9)
    for axes, image in zip(
        figure.subplots(1, len(images), squeeze=False)[0], images, strict=True
    ):
        decoded = decode(image, contract.min_side, Budget())
        pixels = np.asarray(decoded_to_pixels(decoded, contract), np.float32)
        if contract.layout == "chw":
            pixels = pixels.transpose(1, 2, 0)
        shown = np.clip(np.round(pixels), 0, 255).astype(np.uint8).squeeze()
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
        axes.set_axis_off()
    return figure


def write_datasheet(
    directory: Path,
    figures: dict[str, Any],
    facts: Sequence[Fact],
    notes: Sequence[str],
    picture: Figure,
) -> None:
    """Write `metrics.json`, `card.md` and `seen.png`.

    Args:
        directory: The directory to write into, which must not exist.
        figures: The figures of the version.
        facts: What was found and concluded.
        notes: What a user should know, as sentences.
        picture: The result of `seen`.
    """
    directory.mkdir()
    figures = {**figures, "facts": [asdict(fact) for fact in facts]}
    text = json.dumps(figures, indent=1, sort_keys=True)
    (directory / "metrics.json").write_text(text + "\n", encoding="utf-8")
    card = _text(figures, facts, notes)
    (directory / "card.md").write_text(card, encoding="utf-8")
    picture.savefig(directory / "seen.png", dpi=120)


def _text(figures: dict[str, Any], facts: Sequence[Fact], notes: Sequence[str]) -> str:
    found = "\n".join(f"| {f.name} | {f.value} | {f.why} |" for f in facts)
    rows = "\n".join(
        f"| {row['export']} | {row['worst']:.2g} | {row['labels_differ']} | "
        f"{_share(row['accuracy'])} | {figures['bytes'].get(row['export'], '')} |"
        for row in figures["parity"]
    )
    listed = "\n".join(f"- {note}" for note in notes)
    return f"""# {figures["model"]}, published from {figures["source"]["name"]}

| | | |
|---|---|---|
{found}

Each export was compared with the given model, asked by {figures["library"]}, on
{figures["compared"]} {figures["pictures"]} pictures:

| export | largest difference of a score | labels that differ | accuracy | bytes |
|---|---|---|---|---|
{rows}

{listed}

The labels by the places of their scores: {_places(figures["labels"])}.

![What the model sees](seen.png)

Given: `{figures["source"]["digest"]}`. Contract: `{figures["contract"]}`
"""


def _places(labels: Sequence[str]) -> str:
    """Return the first and the last labels with their places."""
    numbered = [f"{place} {label}" for place, label in enumerate(labels)]
    if len(numbered) > 2 * _LISTED:
        numbered = [*numbered[:_LISTED], "...", *numbered[-_LISTED:]]
    return ", ".join(numbered)


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"
