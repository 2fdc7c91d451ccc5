# SPDX-License-Identifier: Apache-2.0
"""Draws letters, scribbles and shapes: pictures of one object that is not a digit.

The ink is light on dark, and the canvas is several times larger than a model input.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    import numpy.typing as npt

    Points = npt.NDArray[np.float64]
    Random = np.random.Generator

__all__ = ["FONTS", "HELD_OUT_FONTS", "LETTERS", "letter", "scribble", "shape"]

_SIDE = 112
_FONT_SIZE = 80
# Fonts that come with matplotlib. The held-out fonts have other designs.
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "cmr10",
    "cmb10",
    "cmtt10",
    "cmti10",
)
HELD_OUT_FONTS = (
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
    "cmss10",
)
# This leaves out the letters that some people read as a digit: O o (0), I l (1), ? (7),
# g q (9).
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefhijkmnprstuvwxyz+=#%&*"


def letter(random: Random, fonts: Sequence[str]) -> Image.Image:
    """Return a letter or sign that nobody reads as a digit.

    Args:
        random: The source of all random choices.
        fonts: The fonts to choose from.

    Returns:
        Mode `L`, 112 x 112 pixels, ink 255 on 0.
    """
    canvas, draw = _canvas()
    font = _font(fonts[int(random.integers(len(fonts)))])
    drawn = LETTERS[int(random.integers(len(LETTERS)))]
    # The outline makes the strokes as wide as a pen's; the fonts' strokes are thin.
    broader = int(random.integers(0, 4))
    middle = (_SIDE / 2, _SIDE / 2)
    draw.text(middle, drawn, 255, font, anchor="mm", stroke_width=broader)
    return canvas


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{name}.ttf"), _FONT_SIZE)


def scribble(random: Random, fonts: Sequence[str]) -> Image.Image:
    """Return one winding pen stroke, or several strokes.

    A single plain stroke would too often be a digit. `fonts` is not used.
    """
    del fonts
    canvas, draw = _canvas()
    strokes = random.integers(1, 6)
    turns = 9 if strokes == 1 else 4
    width = int(random.integers(5, 17))
    for _ in range(strokes):
        bends = random.integers(turns - 2, turns + 3)
        corners = random.uniform(8, _SIDE - 8, (bends, 2))
        path = corners if random.random() < 0.3 else _rounded(corners)
        draw.line([(x, y) for x, y in path.tolist()], 255, width, joint="curve")
    return canvas


def _rounded(corners: Points) -> Points:
    """Return a quadratic spline that bends at each corner, with 8 points per bend."""
    middles = (corners[:-1] + corners[1:]) / 2
    along = np.linspace(0, 1, 8)[:, np.newaxis]
    bends = [
        (1 - along) ** 2 * start + 2 * along * (1 - along) * corner + along**2 * end
        for start, corner, end in zip(middles, corners[1:-1], middles[1:], strict=False)
    ]
    return np.concatenate([corners[:1], *bends, corners[-1:]])


def shape(random: Random, fonts: Sequence[str]) -> Image.Image:
    """Return one to four filled shapes over one another, in several greys.

    `fonts` is not used.
    """
    del fonts
    canvas, draw = _canvas()
    for _ in range(random.integers(1, 5)):
        grey = int(random.integers(90, 256))
        # This is wider than a one.
        width, height = random.uniform(_SIDE / 2.5, _SIDE, 2)
        left, top = random.uniform(0, (_SIDE - width, _SIDE - height))
        kind = random.integers(3)
        if kind == 0:
            draw.rectangle((left, top, left + width, top + height), grey)
        elif kind == 1:
            draw.ellipse((left, top, left + width, top + height), grey)
        else:
            corners = _around(random) * (width / 2, height / 2)
            corners += (left + width / 2, top + height / 2)
            draw.polygon([(x, y) for x, y in corners.tolist()], grey)
    return canvas


def _around(random: Random) -> Points:
    """Return the corners of a polygon or star around 0, at a distance of at most 1."""
    number = random.integers(3, 11)
    angles = 2 * np.pi * (random.random() + np.arange(number) / number)
    away = random.uniform(0.4, 1, number)
    return np.stack([away * np.cos(angles), away * np.sin(angles)], axis=1)


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("L", (_SIDE, _SIDE))
    return canvas, ImageDraw.Draw(canvas)
