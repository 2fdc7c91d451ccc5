# SPDX-License-Identifier: Apache-2.0
"""Shows the model input that a picture becomes, and warns of probable faults."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from inkling.abstention import shows_several

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling.image.preprocess import Stage

__all__ = ["in_terminal", "sheet", "warnings"]

# An MNIST digit covers 19 % of its picture on average, and nearly always 5 to 40 %.
_LEAST_INK, _MOST_INK = 0.03, 0.55
_FAINT = 100
_CELL = 224


def warnings(stages: Sequence[Stage], contract: Contract) -> list[str]:
    """Return warnings about the last stage, which is the model input.

    Args:
        stages: The stages of `inkling.image.preprocess.explain`.
        contract: The contract under which the picture was prepared.
    """
    last = stages[-1].picture
    found = []
    if any(stage.name == "nothing" for stage in stages):
        found.append(
            "The picture shows no ink; the model expects one thing written on paper."
        )
    elif contract.kind == "photo_of_one_object":
        found += _about_ink(np.asarray(last))
    first = stages[0].picture
    if min(first.size) < min(last.size):
        found.append(
            f"The picture has {first.width} x {first.height} pixels, fewer than the "
            f"model's {last.width} x {last.height}; use a larger picture, because "
            "scaling up adds no detail."
        )
    return found


def _about_ink(pixels: np.ndarray) -> list[str]:
    inked = float((pixels > 127).mean())
    found = []
    if pixels.max() < _FAINT:
        found.append("The ink is faint; use more light or a darker pen.")
    elif inked < _LEAST_INK:
        found.append(
            f"Only {inked:.1%} of the model input is ink; a digit has 5 % to 40 %."
        )
    elif inked > _MOST_INK:
        found.append(
            f"{inked:.0%} of the model input is ink; a digit has 5 % to 40 %. Either "
            "the polarity was decided wrongly, or the picture shows several things."
        )
    if shows_several((pixels / 255).astype(np.float32)):
        found.append(
            "Two large parts are not connected; the picture may show several things. "
            'With --abstain, an unsure model answers "several" in this case.'
        )
    return found


def in_terminal(picture: Image.Image, width: int = 56) -> Iterator[str]:
    """Yield a picture as lines of text with 24-bit ANSI colours.

    Each character shows two pixels, one above the other.

    Args:
        picture: A Pillow image of any mode and size.
        width: Characters in a line.
    """
    height = max(2, round(picture.height * width / picture.width / 2) * 2)
    small = picture.convert("RGB").resize((width, height), Image.Resampling.BOX)
    rows = np.asarray(small)
    for upper, lower in zip(rows[0::2], rows[1::2], strict=True):
        cells = (
            f"\x1b[38;2;{u[0]};{u[1]};{u[2]}m\x1b[48;2;{d[0]};{d[1]};{d[2]}m\u2580"
            for u, d in zip(upper, lower, strict=True)
        )
        yield "".join(cells) + "\x1b[0m"


def sheet(stages: Sequence[Stage]) -> Image.Image:
    """Return all stages side by side in one RGB picture, 224 pixels high."""
    drawn = Image.new("RGB", (_CELL * len(stages), _CELL), "grey")
    for place, stage in enumerate(stages):
        picture = stage.picture.convert("RGB")
        scale = (_CELL - 8) / max(picture.size)
        size = (
            max(1, round(picture.width * scale)),
            max(1, round(picture.height * scale)),
        )
        # Nearest-neighbour enlargement shows each pixel of a small picture as a square.
        way = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
        drawn.paste(picture.resize(size, way), (place * _CELL + 4, 4))
    return drawn
