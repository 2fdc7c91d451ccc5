"""Draws single things that are no digit: letters, scribbles and shapes.

Light on dark, on a canvas several times larger than a model input.
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
# Those that come with matplotlib; the held-out ones are other designs.
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
# Left out is what is a digit to somebody: O o (0), I l (1), ? (7), g q (9).
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefhijkmnprstuvwxyz+=#%&*"


def letter(random: Random, fonts: Sequence[str]) -> Image.Image:
    """Return a letter or sign that is no digit to anybody."""
    canvas, draw = _canvas()
    font = _font(fonts[int(random.integers(len(fonts)))])
    drawn = LETTERS[int(random.integers(len(LETTERS)))]
    # As broad as the pens that people write with: the fonts' own strokes are thin.
    broader = int(random.integers(0, 4))
    middle = (_SIDE / 2, _SIDE / 2)
    draw.text(middle, drawn, 255, font, anchor="mm", stroke_width=broader)
    return canvas


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{name}.ttf"), _FONT_SIZE)


def scribble(random: Random, fonts: Sequence[str]) -> Image.Image:
    """Return strokes of a pen that mean nothing.

    One that winds a lot, or several: a single plain one would be a digit too often.
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
    """Return a quadratic spline that bends at each corner, 8 points a bend."""
    middles = (corners[:-1] + corners[1:]) / 2
    along = np.linspace(0, 1, 8)[:, np.newaxis]
    bends = [
        (1 - along) ** 2 * start + 2 * along * (1 - along) * corner + along**2 * end
        for start, corner, end in zip(middles, corners[1:-1], middles[1:], strict=False)
    ]
    return np.concatenate([corners[:1], *bends, corners[-1:]])


def shape(random: Random, fonts: Sequence[str]) -> Image.Image:
    """Return one to four filled shapes over one another, in several greys."""
    del fonts
    canvas, draw = _canvas()
    for _ in range(random.integers(1, 5)):
        grey = int(random.integers(90, 256))
        # Broader than a one is.
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
    """Return the corners of a polygon or star about 0, at most 1 away from it."""
    number = random.integers(3, 11)
    angles = 2 * np.pi * (random.random() + np.arange(number) / number)
    away = random.uniform(0.4, 1, number)
    return np.stack([away * np.cos(angles), away * np.sin(angles)], axis=1)


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("L", (_SIDE, _SIDE))
    return canvas, ImageDraw.Draw(canvas)
