# SPDX-License-Identifier: Apache-2.0
"""The pictures that are sent, each with its label."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from inkling.errors import InvalidRequest
from inkling.image.formats.catalogue import EXPECTED, SUFFIXES
from inkling.model.litter import is_litter

__all__ = ["LabelledPicture", "draw_digits", "drawn_digits", "pictures_in"]

_MAX_PICTURES = 300

# The strokes of each digit as a pen makes them, in a box of 1 x 1. A stroke is a row of
# points, or an arc: (centre x, centre y, radius x, radius y, from degrees, to degrees),
# clockwise from three o'clock.
_STROKES: Sequence[Sequence[tuple[Any, ...]]] = (
    [(0.5, 0.5, 0.32, 0.46, 0, 360)],
    [((0.36, 0.2), (0.54, 0.04), (0.54, 0.96))],
    [(0.5, 0.28, 0.3, 0.24, 180, 390), ((0.76, 0.4), (0.2, 0.94), (0.84, 0.94))],
    [(0.46, 0.27, 0.28, 0.23, 200, 450), (0.46, 0.73, 0.32, 0.23, 270, 520)],
    [((0.56, 0.04), (0.16, 0.62), (0.86, 0.62)), ((0.66, 0.36), (0.66, 0.96))],
    [((0.78, 0.05), (0.3, 0.05), (0.26, 0.45)), (0.46, 0.67, 0.32, 0.28, 225, 510)],
    [((0.66, 0.03), (0.34, 0.34), (0.2, 0.66)), (0.48, 0.7, 0.28, 0.26, 0, 360)],
    [((0.16, 0.06), (0.82, 0.06), (0.4, 0.96))],
    [(0.5, 0.27, 0.25, 0.22, 0, 360), (0.5, 0.73, 0.3, 0.24, 0, 360)],
    [(0.48, 0.3, 0.27, 0.25, 0, 360), ((0.75, 0.3), (0.72, 0.6), (0.6, 0.97))],
)


@dataclass(frozen=True)
class LabelledPicture:
    """An encoded picture with its label and its name."""

    image: bytes
    label: str
    name: str


def drawn_digits(seed: int = 0) -> list[LabelledPicture]:
    """Return the pictures that `draw_digits` yields."""
    return list(draw_digits(seed))


def draw_digits(seed: int = 0) -> Iterator[LabelledPicture]:
    """Yield 60 digits, no two alike, in the forms in which people send them.

    Of each digit: three samples of 28x28 in light ink on dark, two pages of 280x280 in
    colour, and a JPEG of 480x480 on paper that is not quite white.
    """
    chance = random.Random(seed)
    for digit in range(10):
        for variant in range(6):
            form = ("sample", "sample", "sample", "page", "page", "photo")[variant]
            image = _FORMS[form](_ink(digit, chance), chance)
            name = f"{form} {variant} of a {digit}"
            yield LabelledPicture(image, str(digit), name)


def pictures_in(folder: Path) -> list[LabelledPicture]:
    """Return the pictures of a folder's subfolders, labelled by subfolder.

    Of more than 300 some are taken, since each is asked for alone before the load.

    Raises:
        InvalidRequest: The subfolders have no such files.
    """
    found = [
        LabelledPicture(
            path.read_bytes(), path.parent.name, f"{path.parent.name}/{path.name}"
        )
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in SUFFIXES and not is_litter(path.name)
    ]
    distinct = {picture.image: picture for picture in found}
    if not distinct:
        raise InvalidRequest(
            f"--pictures: {folder} has no {EXPECTED} in subfolders; a picture of a 7 "
            f"belongs into {folder / '7'}."
        )
    every = math.ceil(len(distinct) / _MAX_PICTURES)
    return list(distinct.values())[::every]


def _ink(digit: int, chance: random.Random) -> Image.Image:
    """Return a mask of a digit in ink, 240x240, a little different each time."""
    side = 480
    page = Image.new("L", (side, side))
    pen = ImageDraw.Draw(page)
    width = chance.randint(34, 46)
    lean, turn = chance.uniform(-0.12, 0.12), math.radians(chance.uniform(-7, 7))
    for stroke in _STROKES[digit]:
        points = [_placed(x, y, lean, turn, side) for x, y in _points(stroke)]
        pen.line(points, fill=255, width=width, joint="curve")
        for x, y in (points[0], points[-1]):
            r = width / 2 - 1
            pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return page.resize((240, 240), Image.Resampling.LANCZOS)


def _points(stroke: tuple[Any, ...]) -> list[tuple[float, float]]:
    if isinstance(stroke[0], tuple):
        return list(stroke)
    x, y, radius_x, radius_y, start, end = stroke
    angles = [math.radians(start + (end - start) * i / 40) for i in range(41)]
    return [(x + radius_x * math.cos(a), y + radius_y * math.sin(a)) for a in angles]


def _placed(
    x: float, y: float, lean: float, turn: float, side: int
) -> tuple[float, float]:
    x, y = (x - 0.5) * 0.62 - lean * (y - 0.5), (y - 0.5) * 0.72
    x, y = (
        x * math.cos(turn) - y * math.sin(turn),
        x * math.sin(turn) + y * math.cos(turn),
    )
    return (x + 0.5) * side, (y + 0.5) * side


def _sample(ink: Image.Image, chance: random.Random) -> bytes:
    """Return the digit framed as MNIST's are: 20 pixels, centred by mass."""
    cut = ink.crop(ink.getbbox())
    sides = [max(1, round(20 * side / max(cut.size))) for side in cut.size]
    small = np.asarray(cut.resize((sides[0], sides[1]), Image.Resampling.BOX))
    mass = small.sum()
    top = round(14 - float(small.sum(axis=1) @ np.arange(sides[1])) / mass)
    left = round(14 - float(small.sum(axis=0) @ np.arange(sides[0])) / mass)
    page = Image.new("L", (28, 28))
    page.paste(Image.fromarray(small), (left, top))
    return _encoded(page, "PNG")


def _page(ink: Image.Image, chance: random.Random) -> bytes:
    colour = tuple(chance.randint(0, 90) for _ in range(3))
    page = Image.new("RGB", (280, 280), "white")
    page.paste(Image.new("RGB", ink.size, colour), (chance.randint(0, 40), 20), ink)
    return _encoded(page, "PNG")


def _photo(ink: Image.Image, chance: random.Random) -> bytes:
    paper = tuple(chance.randint(225, 245) for _ in range(3))
    page = Image.new("RGB", (480, 480), paper)
    ink = ink.resize((360, 360))
    page.paste(Image.new("RGB", ink.size, (40, 40, 60)), (60, 60), ink)
    return _encoded(page, "JPEG")


_FORMS = {"sample": _sample, "page": _page, "photo": _photo}


def _encoded(picture: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()
