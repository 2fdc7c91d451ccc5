# SPDX-License-Identifier: Apache-2.0
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

from inkling.image.morphology import along_rows

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
# Long side for the choice. A pixel is the mean of up to 4 x 4 pixels of the picture,
# against noise and the blocks of JPEG's colours.
_SIDE = 48
_GRAIN = 4
# Ink is narrower than this many of those pixels.
_WINDOW = 13
# Channels that differ less than this show nothing that luminance does not show.
_COLOURED = 24
# The narrow objects' contrast is taken between these shares of the pixels: above the
# noise, and in the strongest ink. A small digit covers 1 % of the picture.
_INK_RANGE = (0.25, 0.99)
# If nothing narrow is stronger than this, the whole range of each projection decides.
_FAINT = 16
# Ink of this strength in luminance is enough for the search: a fifth of the range.
_PLENTY = 48
_WHOLE_RANGE = (0.04, 0.96)
# Another projection must show this many times the ink of luminance, and this many grey
# levels more. Ordinary blue and red pens on white paper stay below.
_CLEARLY_MORE, _LEVELS_MORE = 1.6, 8
_PREFERENCE = (1.0, 1.0, 1.0, 1.0, 0.9, 0.9)


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
    small = _reduced(picture)
    darkest, lightest = (
        np.asarray(_projected(small, view)) for view in (_DARKEST, _LIGHTEST)
    )
    if int((lightest - darkest).max()) < _COLOURED:
        return _LUMINANCE
    grey = np.asarray(small.convert("L"))
    [luminance] = _range(_narrow(grey[np.newaxis]), _INK_RANGE)
    needed = _CLEARLY_MORE * luminance + _LEVELS_MORE
    if luminance >= _PLENTY:
        return _LUMINANCE
    channels = np.moveaxis(np.asarray(small), 2, 0)
    views = np.stack([grey, *channels, darkest, lightest])
    narrow = _narrow(views)
    ink = _range(narrow, _INK_RANGE)
    if max(ink) < _FAINT:
        ink = _range(views, _WHOLE_RANGE)
        needed = _CLEARLY_MORE * ink[_LUMINANCE] + _LEVELS_MORE
        best = int(np.argmax(ink))
        return best if ink[best] > needed else _LUMINANCE
    # Of those that show clearly more ink somewhere, the one that shows the most of it:
    # ink may have several colours.
    amounts = narrow.reshape(len(views), -1).mean(axis=1) * np.greater(ink, needed)
    return int(np.argmax(amounts * _PREFERENCE))


def _reduced(picture: Image.Image) -> Image.Image:
    """Return the picture with a long side of at most `_SIDE` pixels."""
    # Every pixel of a large picture would take as long as the rest of the choice.
    for side, resampling in (
        (_GRAIN * _SIDE, Image.Resampling.NEAREST),
        (_SIDE, Image.Resampling.BOX),
    ):
        if max(picture.size) > side:
            scale = side / max(picture.size)
            width, height = (max(1, round(long * scale)) for long in picture.size)
            picture = picture.resize((width, height), resampling)
    return picture


def _range(views: Pixels, shares: tuple[float, float]) -> list[int]:
    """Return for each view the range of the values between two shares of its pixels."""
    found = []
    for view in views:
        # Counting values is faster than sorting them.
        below = np.bincount(view.reshape(-1), minlength=256).cumsum()
        low, high = np.searchsorted(below, [share * view.size for share in shares])
        found.append(int(high - low))
    return found


def _narrow(views: Pixels) -> Pixels:
    """Return the closing minus the opening: the contrast of the narrow objects.

    A desk along the frame goes on beyond it, so that it is not narrow.
    """
    reach = _WINDOW // 2
    _, rows, columns = views.shape
    down, across = (
        np.arange(-reach, length + reach).clip(0, length - 1)
        for length in (rows, columns)
    )
    views = views.take(down, axis=1).take(across, axis=2)
    # The opening of a picture is the closing of its negative, so that half of the
    # passes are enough.
    both = np.concatenate([views, ~views])
    both = _window(_window(both, np.maximum), np.minimum)
    closed, negative = both[: len(views)], both[len(views) :]
    return (closed - ~negative)[:, reach:-reach, reach:-reach]


def _window(views: Pixels, pick: np.ufunc) -> Pixels:
    """Return the extreme over a square window around each pixel of each view."""
    for _ in range(2):
        count, rows, columns = views.shape
        lines = along_rows(views.reshape(count * rows, columns), _WINDOW, pick)
        views = np.ascontiguousarray(lines.reshape(count, rows, columns).swapaxes(1, 2))
    return views
