"""Turns a colour picture grey, in a way that keeps the ink visible.

Luminance hides ink whose colour is as bright as the paper's. Under the contract's grey
`contrast`, one of six projections is chosen for each picture: luminance, the red, green
or blue channel, or each pixel's darkest or lightest channel. Luminance is kept unless
another projection shows clearly more ink.

Only narrow objects count as ink for this choice. A desk or a shadow is wider than the
window, so that its colour does not decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageChops

from inkling.image.morphology import closed, opened

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract

    Pixels: TypeAlias = npt.NDArray[np.uint8]

__all__ = ["to_grey"]

_LUMINANCE, _DARKEST, _LIGHTEST = 0, 4, 5
_NAMES = (
    "luminance",
    "the red channel",
    "the green channel",
    "the blue channel",
    "the darkest channel of each pixel",
    "the lightest channel of each pixel",
)
# Long side for the choice. Reduction averages noise and the blocks of JPEG's colours.
_SIDE = 64
# Ink is narrower than this many of those pixels.
_WINDOW = 17
# Channels that differ less than this show nothing that luminance does not show.
_COLOURED = 24
# Share of the pixels that are taken for the strongest ink; a small digit covers 1 %.
_INK_PERCENTILE = 99
# If nothing narrow is stronger than this, the whole range of each projection decides.
_FAINT = 16
_RANGE = (4, 96)
# Another projection must show this many times the ink of luminance, and this many grey
# levels more. Ordinary blue and red pens on white paper stay below.
_CLEARLY_MORE, _LEVELS_MORE = 1.6, 8


def to_grey(picture: Image.Image, contract: Contract) -> tuple[Image.Image, str]:
    """Return the picture in mode `L`, and the name of the projection.

    Args:
        picture: A picture of mode `L` or `RGB`.
        contract: The contract with `grey`.
    """
    chosen = _LUMINANCE
    if picture.mode == "RGB" and contract.grey == "contrast":
        chosen = _most_ink(picture)
    return _projected(picture, chosen), _NAMES[chosen]


def _projected(picture: Image.Image, chosen: int) -> Image.Image:
    if chosen == _LUMINANCE:
        return picture.convert("L")
    if chosen < _DARKEST:
        return picture.getchannel(chosen - 1)
    pick = ImageChops.darker if chosen == _DARKEST else ImageChops.lighter
    red, green, blue = picture.split()
    return pick(pick(red, green), blue)


def _most_ink(picture: Image.Image) -> int:
    """Return the number of the projection that shows the ink best."""
    small = picture
    if max(picture.size) > _SIDE:
        scale = _SIDE / max(picture.size)
        size = [max(1, round(side * scale)) for side in picture.size]
        small = picture.resize(
            (size[0], size[1]), Image.Resampling.BOX, reducing_gap=2.0
        )
    pixels = np.asarray(small)
    darkest, lightest = pixels.min(axis=2), pixels.max(axis=2)
    if int((lightest - darkest).max()) < _COLOURED:
        return _LUMINANCE
    luminance = np.asarray(small.convert("L"))
    views = [luminance, *np.moveaxis(pixels, 2, 0), darkest, lightest]
    return _clearly_best([_narrow_ink(view) for view in views], views)


def _clearly_best(ink: list[float], views: list[Pixels]) -> int:
    if max(ink) < _FAINT:
        low, high = np.percentile(views, _RANGE, axis=(1, 2))
        ink = list(high - low)
    # The darkest and the lightest channel serve ink of several colours.
    best = max(range(len(ink)), key=lambda view: ink[view] * (1 - 0.1 * (view > 3)))
    needed = _CLEARLY_MORE * ink[_LUMINANCE] + _LEVELS_MORE
    return best if ink[best] > needed else _LUMINANCE


def _narrow_ink(view: Pixels) -> float:
    """Return the strength of the narrow objects above the noise, in grey levels."""
    narrow = closed(view, _WINDOW) - opened(view, _WINDOW)
    return float(np.percentile(narrow, _INK_PERCENTILE) - np.percentile(narrow, 25))
