# SPDX-License-Identifier: Apache-2.0
"""Photos of one handwritten digit on paper, drawn by code, with known labels.

`page(number)` is the same picture on every machine with the same Pillow and NumPy. The
pages vary the pen, the paper, the light, the focus, the digit's size and the frame, and
each page states these, so that an accuracy can be split by them. A person can read
each: after the blur, a stroke differs from its paper by at least `_LEAST` of the
paper's brightness, and it is stronger than the ruling. The training sees none of them.
"""

from __future__ import annotations

import io
import itertools
import math
import random
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Points: TypeAlias = list[tuple[float, float]]

# What a page may show; `page` draws one of each.
PENS = (1, 2, 3, 4, 6, 8, 12)
PAPERS = ("plain", "ruled", "squared", "yellow", "grey")
LIGHTS = ("even", "gradient", "shine", "shadow", "blue")
BLURS = (0.0, 0.0, 0.01, 0.02)
SIZES = (0.08, 0.15, 0.3, 0.5, 0.8)
FRAMES = (640, 768, 1024, 1024, 1600, 3000)
INKS = ("black", "blue", "red", "pencil")

# The strokes of each digit as people make them, in a box of 1 x 1: rows of points, or
# arcs (centre x, centre y, radius x, radius y, from degrees, to degrees), clockwise
# from three o'clock.
_FORMS: dict[int, list[list[tuple[Any, ...]]]] = {
    0: [
        [(0.5, 0.5, 0.32, 0.48, -80, 290)],
        [(0.5, 0.5, 0.26, 0.48, -100, 265)],
    ],
    1: [
        [((0.5, 0.03), (0.5, 0.97))],
        [((0.36, 0.2), (0.54, 0.04), (0.52, 0.96))],
    ],
    2: [
        [(0.5, 0.27, 0.28, 0.24, 185, 390), ((0.74, 0.39), (0.22, 0.95), (0.84, 0.94))],
        [(0.48, 0.26, 0.27, 0.23, 200, 400), ((0.68, 0.42), (0.2, 0.94), (0.82, 0.9))],
    ],
    3: [
        [(0.46, 0.27, 0.27, 0.23, 205, 450), (0.46, 0.73, 0.31, 0.23, 270, 515)],
        [((0.22, 0.06), (0.74, 0.06), (0.46, 0.4)), (0.45, 0.68, 0.3, 0.28, 272, 510)],
    ],
    4: [
        [((0.5, 0.04), (0.16, 0.6), (0.86, 0.6)), ((0.66, 0.34), (0.64, 0.97))],
        [((0.24, 0.05), (0.22, 0.5), (0.76, 0.48)), ((0.76, 0.06), (0.72, 0.97))],
    ],
    5: [
        [
            ((0.78, 0.05), (0.32, 0.05), (0.28, 0.43)),
            (0.45, 0.68, 0.32, 0.27, 235, 505),
        ],
        [
            ((0.33, 0.06), (0.28, 0.44)),
            (0.45, 0.68, 0.31, 0.27, 235, 500),
            ((0.33, 0.06), (0.8, 0.04)),
        ],
    ],
    6: [
        [
            ((0.64, 0.03), (0.34, 0.34), (0.21, 0.66)),
            (0.48, 0.71, 0.27, 0.26, 190, 550),
        ],
        [(0.75, 0.52, 0.52, 0.5, 255, 165), (0.5, 0.72, 0.27, 0.25, 190, 550)],
    ],
    7: [
        [((0.16, 0.06), (0.82, 0.06), (0.42, 0.97))],
        [((0.18, 0.1), (0.8, 0.05), (0.4, 0.96)), ((0.36, 0.5), (0.76, 0.48))],
    ],
    8: [
        [(0.5, 0.26, 0.24, 0.23, 90, 450), (0.5, 0.73, 0.29, 0.24, 270, 630)],
        [(0.52, 0.27, 0.21, 0.24, 90, 450), (0.48, 0.74, 0.24, 0.23, 270, 630)],
    ],
    9: [
        [(0.48, 0.29, 0.26, 0.25, 0, 360), ((0.74, 0.29), (0.72, 0.6), (0.62, 0.97))],
        [(0.48, 0.27, 0.25, 0.24, -20, 350), ((0.73, 0.2), (0.7, 0.96))],
    ],
}
_COLOURS = {
    "black": (25, 25, 30),
    "blue": (40, 50, 140),
    "red": (180, 40, 45),
    "pencil": (70, 70, 75),
}
_PAPER = {
    "plain": (236, 234, 228),
    "ruled": (238, 238, 234),
    "squared": (238, 238, 234),
    "yellow": (238, 222, 160),
    "grey": (176, 174, 170),
}
# The least difference of a stroke from its paper, and the least width of a stroke as a
# share of the digit's height.
_LEAST, _THINNEST = 0.09, 0.006
_OVER_RULING = 1.6


@dataclass(frozen=True)
class Page:
    """A photo of a digit, and how it was made.

    Attributes:
        image: A JPEG.
        label: The digit.
        pen: The width of the strokes in pixels of the photo.
        paper: One of `PAPERS`.
        light: One of `LIGHTS`.
        blur: Standard deviation of the blur, as a share of the digit's height.
        size: The digit's height as a share of the photo's shorter side.
        frame: The photo's longer side in pixels.
        ink: One of `INKS`.
        strength: How far the ink covers the paper, 0 to 1, where it is strongest.
        fading: The least strength of a stroke as a share of the strongest.
    """

    image: bytes
    label: str
    pen: float
    paper: str
    light: str
    blur: float
    size: float
    frame: int
    ink: str
    strength: float
    fading: float


def page(number: int, **stated: Any) -> Page:
    """Return page `number`, 0 and above; each hundred has each digit ten times.

    Args:
        number: The number of the page, from which everything is drawn.
        stated: Values for `pen`, `paper`, `light`, `blur`, `size`, `frame`, `ink`,
            `strength` or `fading` in place of those drawn.
    """
    chance = random.Random(f"page {number}")
    drawn: dict[str, Any] = {
        "pen": chance.choice(PENS),
        "paper": chance.choice(PAPERS),
        "light": chance.choice(LIGHTS),
        "blur": chance.choice(BLURS),
        "size": chance.choice(SIZES),
        "frame": chance.choice(FRAMES),
        "ink": chance.choice(INKS),
        "strength": chance.uniform(0.75, 1),
        "fading": chance.choice((1, 1, 0.6, 0.35)),
    }
    if drawn["ink"] == "pencil":
        drawn["strength"] = chance.choice((0.2, 0.3, 0.5))
    drawn.update(stated)
    digit = number % 10
    _made_readable(drawn)
    photo = _photo(digit, drawn, chance)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=chance.choice((70, 80, 90)))
    return Page(file.getvalue(), str(digit), **drawn)


def pair(number: int, gap: float = 0.3) -> bytes:
    """Return a JPEG of two digits side by side on even paper.

    Args:
        number: The number of the pair; the digits are its last two.
        gap: The space between the digits, as a share of their height.
    """
    chance = random.Random(f"pair {number}")
    drawn = {"pen": chance.choice((4, 6, 8, 12)), "strength": 0.9, "fading": 1}
    side = chance.choice((120, 200, 300))
    inks = [
        _ink(digit, side, drawn, chance) for digit in (number // 10 % 10, number % 10)
    ]
    inks = [ink.crop(ink.getbbox()) for ink in inks]
    mask = Image.new("L", (1024, 768))
    left = chance.randint(60, 960 - 2 * side - round(gap * side))
    top = chance.randint(60, 700 - side)
    for ink in inks:
        mask.paste(ink, (left, top))
        left += ink.width + round(gap * side)
    photo = Image.new("RGB", mask.size, _PAPER["plain"])
    photo.paste(Image.new("RGB", mask.size, _COLOURS["blue"]), (0, 0), mask)
    photo = _lit(photo, "even", (512, 384), side, chance)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=85)
    return file.getvalue()


def _made_readable(drawn: dict[str, Any]) -> None:
    """Make the strokes as wide and as strong as a person needs to read them."""
    height = drawn["size"] * drawn["frame"] * 0.75
    drawn["pen"] = min(max(drawn["pen"], _THINNEST * height), 0.16 * height)
    spread = drawn["blur"] * height
    # The blur leaves this share of the strength in the middle of a stroke.
    left = math.erf(drawn["pen"] / 2 / spread / 2**0.5) if spread else 1
    least = _LEAST / max(left, 0.01)
    if drawn["light"] == "shine":
        least *= 2
    if drawn["paper"] in ("ruled", "squared"):
        least = max(least, _OVER_RULING * 0.2)
    drawn["strength"] = min(1, max(drawn["strength"], least / 0.6))
    drawn["fading"] = min(1, max(drawn["fading"], least / 0.6 / drawn["strength"]))
    if least / 0.6 > 1:
        drawn["blur"] = 0.0


def _photo(digit: int, drawn: dict[str, Any], chance: random.Random) -> Image.Image:
    long = drawn["frame"]
    width, height = (
        (long, long * 3 // 4) if chance.random() < 0.5 else (long * 3 // 4, long)
    )
    side = round(drawn["size"] * min(width, height))
    ink = _ink(digit, side, drawn, chance)
    room = width - ink.width, height - ink.height
    place = tuple(round(max(0, each) * chance.uniform(0.15, 0.85)) for each in room)
    paper = Image.new("RGB", (width, height), _PAPER[drawn["paper"]])
    if drawn["paper"] in ("ruled", "squared"):
        _rule(paper, side, chance, squared=drawn["paper"] == "squared")
    mask = Image.new("L", paper.size)
    mask.paste(ink, place)
    paper.paste(Image.new("RGB", paper.size, _COLOURS[drawn["ink"]]), (0, 0), mask)
    if drawn["blur"]:
        paper = paper.filter(ImageFilter.GaussianBlur(drawn["blur"] * side))
    centre = place[0] + ink.width / 2, place[1] + ink.height / 2
    return _lit(paper, drawn["light"], centre, side, chance)


def _ink(
    digit: int, side: int, drawn: dict[str, Any], chance: random.Random
) -> Image.Image:
    """Return how far ink covers the paper, mode `L`, with the digit `side` pixels high."""
    fine = min(4, max(1, math.ceil(4 / drawn["pen"]), math.ceil(300 / side)))
    pen, margin = drawn["pen"] * fine, drawn["pen"] * fine
    picture = Image.new("L", (round(side * fine + 2 * margin),) * 2)
    brush = ImageDraw.Draw(picture)
    shape = [[chance.gauss(0, 0.1), chance.uniform(0.62, 0.95)], chance.gauss(0, 5)]
    strokes = [_wobbled(_points(one), chance) for one in chance.choice(_FORMS[digit])]
    faded = chance.randrange(len(strokes)), chance.uniform(0.3, 0.7)
    for number, stroke in enumerate(strokes):
        points = [_placed(x, y, shape, side * fine, margin) for x, y in stroke]
        for step, (start, end) in enumerate(itertools.pairwise(points)):
            share = step / len(points)
            strength = 255 * drawn["strength"]
            if number == faded[0] and drawn["fading"] < 1:
                # Pressure falls from the first part of the stroke to its end.
                fall = min(1, max(0, (share - faded[1] + 0.15) / 0.3))
                strength *= 1 - (1 - drawn["fading"]) * fall
            wide = pen * (1 + 0.12 * math.sin(9 * share + number))
            brush.line([start, end], fill=round(strength), width=max(1, round(wide)))
            r = wide / 2
            x, y = end
            if r >= 1:
                brush.ellipse((x - r, y - r, x + r, y + r), fill=round(strength))
    size = round(picture.width / fine), round(picture.height / fine)
    return picture.resize(size, Image.Resampling.BOX) if fine > 1 else picture


def _points(stroke: tuple[Any, ...]) -> Points:
    """Return many points on a stroke, 0 to 1."""
    if isinstance(stroke[0], tuple):
        corners = np.array(stroke, float)
        steps = np.linspace(0, len(corners) - 1, 12 * (len(corners) - 1) + 1)
        whole = np.arange(len(corners))
        across, down = (np.interp(steps, whole, corners[:, n]) for n in (0, 1))
        return list(zip(across.tolist(), down.tolist(), strict=True))
    x, y, radius_x, radius_y, start, end = stroke
    angles = [math.radians(start + (end - start) * i / 40) for i in range(41)]
    return [(x + radius_x * math.cos(a), y + radius_y * math.sin(a)) for a in angles]


def _wobbled(points: Points, chance: random.Random) -> Points:
    """Return a stroke as a hand makes it: shifted, scaled and bent a little."""
    dx, dy = chance.gauss(0, 0.012), chance.gauss(0, 0.012)
    bends = [(chance.gauss(0, 0.012), chance.uniform(0, 7)) for _ in range(2)]
    moved = []
    for x, y in points:
        moved.append(
            (
                x + dx + bends[0][0] * math.sin(6 * y + bends[0][1]),
                y + dy + bends[1][0] * math.sin(6 * x + bends[1][1]),
            )
        )
    return moved


def _placed(
    x: float, y: float, shape: list[Any], side: float, margin: float
) -> tuple[float, float]:
    (lean, wide), turn = shape[0], math.radians(shape[1])
    x, y = (x - 0.5) * wide - lean * (y - 0.5), y - 0.5
    across = x * math.cos(turn) - y * math.sin(turn)
    down = x * math.sin(turn) + y * math.cos(turn)
    return (across + 0.5) * side + margin, (down + 0.5) * side + margin


def _rule(
    paper: Image.Image, side: int, chance: random.Random, *, squared: bool
) -> None:
    """Draw the lines of ruled or squared paper, a little turned."""
    brush = ImageDraw.Draw(paper)
    gap = (
        side / chance.uniform(1.2, 2.8) if squared else side / chance.uniform(0.8, 1.6)
    )
    gap = max(gap, max(paper.size) / 40)
    line = max(1, round(max(paper.size) / 700))
    colour = tuple(round(240 * (1 - chance.uniform(0.08, 0.2))) for _ in range(2))
    colour = (*colour, 232)
    slope = math.tan(math.radians(chance.gauss(0, 1.5)))
    width, height = paper.size
    at = chance.uniform(0, gap) - gap * 2
    while at < max(paper.size) + gap * 2:
        brush.line([(0, at), (width, at + slope * width)], fill=colour, width=line)
        if squared:
            brush.line(
                [(at, 0), (at - slope * height, height)], fill=colour, width=line
            )
        at += gap


def _lit(
    paper: Image.Image,
    light: str,
    centre: tuple[float, float],
    side: int,
    chance: random.Random,
) -> Image.Image:
    """Return the photo of a page: its light, and the noise of paper and sensor."""
    width, height = paper.size
    dice = np.random.default_rng(chance.randrange(1 << 30))
    pixels = np.asarray(paper, np.float32)
    field, shine = _light(light, paper.size, centre, side, chance)
    pixels = pixels * _spread(field, paper.size)[..., None]
    if shine is not None:
        pixels += (255 - pixels) * _spread(shine, paper.size)[..., None]
    if light == "blue":
        pixels *= np.float32([0.72, 0.85, 1])
    grain = dice.normal(0, chance.uniform(0.3, 1.5), field.shape)
    pixels += _spread(grain, paper.size)[..., None]
    noise = dice.standard_normal((min(height, 512), min(width, 512)), np.float32)
    tiled = np.resize(noise * chance.uniform(0.8, 4), (height * width)).reshape(
        height, width
    )
    pixels += tiled[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _light(
    light: str,
    size: tuple[int, int],
    centre: tuple[float, float],
    side: int,
    chance: random.Random,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the brightness of the light, and the share of a shine."""
    width, height = size
    # Light changes slowly, so that a coarse field is enough.
    rows, columns = height // 8 + 1, width // 8 + 1
    down, across = np.mgrid[0:rows, 0:columns].astype(np.float32) * 8
    x, y = across - centre[0], down - centre[1]
    turn = chance.uniform(0, 2 * math.pi)
    along = (x * math.cos(turn) + y * math.sin(turn)) / max(width, height)
    field, shine = np.ones((rows, columns), np.float32), None
    if light == "gradient":
        field = np.clip(0.72 + chance.uniform(0.35, 0.6) * along, 0.25, 1)
    elif light == "shadow":
        edge = chance.uniform(-0.3, 0.3) * side / max(width, height)
        soft = chance.uniform(0.01, 0.06)
        dark = chance.uniform(0.5, 0.75)
        field = 1 - (1 - dark) / (
            1 + np.exp(-np.clip((along - edge) / soft * 4, -50, 50))
        )
    elif light == "shine":
        reach = chance.uniform(0.6, 1.1) * max(side, 0.15 * max(width, height))
        apart = chance.uniform(0.4, 0.9) * side
        far = np.hypot(x - apart * math.cos(turn), y - apart * math.sin(turn))
        shine = chance.uniform(0.5, 0.75) * np.exp(-((far / reach) ** 2))
        field = np.full((rows, columns), 0.7, np.float32)
    return field, shine


def _spread(field: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(field.astype(np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
