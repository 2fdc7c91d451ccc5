# SPDX-License-Identifier: Apache-2.0
"""Draws the surest mistakes of an evaluation, each with what the model saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from inkling.errors import InklingError
from inkling_training.figures.text import escaped, fonts_for

if TYPE_CHECKING:
    from inkling_training.evaluation.respondents import Respondent

__all__ = ["Cell", "contact_sheet"]

# The sheet has the mistakes with the highest scores; more would be hard to look at.
_MISTAKES = 48
_COLUMNS = 4
# So many characters fit over a picture; the end of a path tells more than its start.
_CAPTION = 34
_SIDE = 256


class Cell(NamedTuple):
    """A mistake on the sheet.

    Attributes:
        path: The picture.
        truth: Its label or labels, as a text.
        answer: What the model answered, as a text.
        score: How sure it was of the mistake, 0 to 1.
    """

    path: Path
    truth: str
    answer: str
    score: float


def contact_sheet(
    mistakes: Sequence[Cell], respondent: Respondent, folder: Path
) -> Figure:
    """Draw the surest mistakes: the picture, and beside it what the model saw.

    Args:
        mistakes: All mistakes, at least one.
        respondent: Shows what the model saw.
        folder: Paths are written relative to it.
    """
    surest = sorted(mistakes, key=lambda mistake: -mistake.score)[:_MISTAKES]
    columns = min(_COLUMNS, len(surest))
    rows = -(-len(surest) // columns)
    figure = Figure(figsize=(2.8 * columns, 1.75 * rows), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    fonts = fonts_for(text for mistake in surest for text in _named(mistake, folder))
    figure.suptitle(f"{len(surest)} of {len(mistakes)} mistakes, the surest first")
    for axes in cells:
        axes.set_axis_off()
    for axes, mistake in zip(cells, surest, strict=False):
        axes.imshow(_side_by_side(mistake.path, respondent))
        truth, answer, name = (escaped(text, fonts) for text in _named(mistake, folder))
        title = f"{truth} taken for {answer}, {mistake.score:.1%}\n{name[-_CAPTION:]}"
        # A dollar sign would start a formula.
        axes.set_title(title, fontsize=8, fontfamily=fonts, parse_math=False)
    return figure


def _named(mistake: Cell, folder: Path) -> tuple[str, str, str]:
    """Return the texts over a mistake: its label, the answer and the file's path."""
    path = mistake.path
    shown = path.relative_to(folder) if path.is_relative_to(folder) else path
    return mistake.truth, mistake.answer, str(shown)


def _side_by_side(path: Path, respondent: Respondent) -> np.ndarray:
    """Return picture and model input in one, shape (side, 2 * side, 3), uint8."""
    both = np.full((_SIDE, 2 * _SIDE, 3), 255, np.uint8)
    try:
        pictures = respondent.shown(path)
    except InklingError:
        return both  # the file has changed since; the figures do not need it
    for place, picture in enumerate(pictures):
        pixels = _fitted(picture)
        height, width = pixels.shape[:2]
        left = place * _SIDE + (_SIDE - width) // 2
        top = (_SIDE - height) // 2
        both[top : top + height, left : left + width] = pixels
    return both


def _fitted(picture: Image.Image) -> np.ndarray:
    """Return a picture as RGB within a cell; a small one shows its pixels."""
    scale = (_SIDE - 8) / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    filtering = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return np.asarray(picture.convert("RGB").resize((size[0], size[1]), filtering))
