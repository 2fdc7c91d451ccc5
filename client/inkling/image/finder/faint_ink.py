# SPDX-License-Identifier: Apache-2.0
"""Follows strokes from sure ink into faint ink, and searches where none is sure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inkling.image.finder.paper import ink_on
from inkling.image.ink import belonging, likelihood_of, with_long_side
from inkling.image.morphology import parts, share_of
from inkling.image.ruling import without_ruling

if TYPE_CHECKING:
    from PIL import Image

    from inkling.image.crop import Area
    from inkling.image.morphology import Labels, Mask, Parts, Values

__all__ = [
    "FAINT",
    "PIXELS",
    "SURE",
    "SURE_SHARE",
    "SURE_SIGMAS",
    "Faint",
    "followed",
    "searched",
    "spans",
]

# Sure ink has at least this share of the strength of the strongest edges, this many
# times the noise, and this share of the paper's brightness.
SURE_SHARE, SURE_SIGMAS, SURE = 0.35, 5.0, 0.04
# The same for faint ink; its share is that of the writing's strong ink, which is the
# 90th percentile.
_FAINT_SHARE, _FAINT_SIGMAS, FAINT = 0.1, 4.0, 0.025
_STRONG = 90
# The factors of these bounds, one after the other, until the faint ink does not leak.
_STEPS = (1.0, 1.6, 2.5)
# A part of faint ink within this share of the find's long side, and at least as long as
# the other share, belongs to it.
_GAP, _PIECE = 0.1, 0.3
# How far faint ink may go beyond the sure ink, as a share of the find's long side, and
# in pixels more.
_ROOM, PIXELS = 1.0, 8
# Where only specks are sure, ink has this many times the noise and this strength, and a
# line of ruling this many times the noise. Strokes are up to so wide, and the find is
# so long at least. The picture is reduced to this long side first.
_LEAST_SIGMAS, _LEAST, _LINE_SIGMAS = 3.5, 0.012, 3.0
_WIDEST, _LONG, _FROM = 15, 10, 768


class Faint(NamedTuple):
    """What a search for faint ink found.

    Attributes:
        ink: The strength of the ink, as a share of the paper's brightness.
        noise: The standard deviation of that strength on blank paper.
        lines: How many rows and columns had ruling.
        mask: Where the writing is.
    """

    ink: Values
    noise: float
    lines: int
    mask: Mask


def searched(grey: Image.Image, has_dark_ink: bool, side: int) -> Faint | None:
    """Return the likeliest faint ink; None if nothing is long enough.

    The reduced picture has fractions of levels: where the noise of the paper is below
    one level, rounding would be most of it.

    Args:
        grey: The picture, mode `L`.
        has_dark_ink: True if the ink is darker than the paper.
        side: Long side of the search, in pixels.
    """
    levels = np.asarray(with_long_side(with_long_side(grey, _FROM).convert("F"), side))
    ink, noise = ink_on(levels if has_dark_ink else 255 - levels, _WIDEST)
    ink, lines = without_ruling(ink, max(_LINE_SIGMAS * noise, _LEAST))
    found = parts(ink > max(_LEAST_SIGMAS * noise, _LEAST), np.square(ink))
    size = np.maximum(found.right - found.left, found.bottom - found.top)
    likelihood = likelihood_of(found)
    likelihood[(size < _LONG) | (found.on_frame > 0)] = 0
    if not len(found) or likelihood.max() == 0:
        return None
    mask = found.mask(belonging(found, int(likelihood.argmax())))
    return Faint(ink, noise, lines, mask)


def followed(ink: Values, mask: Mask, noise: float) -> Mask:
    """Return the mask of the strokes, followed from sure ink into faint ink."""
    if not mask.any():
        return mask
    area = _around(mask)
    near, own = ink[area], mask[area]
    strong = share_of(near[own], _STRONG)
    bound = max(SURE_SIGMAS * noise, SURE_SHARE * strong, SURE)
    sure = own & (near > bound)
    low = max(_FAINT_SIGMAS * noise, _FAINT_SHARE * strong, FAINT)
    for step in _STEPS:
        if low * step >= bound or not sure.any():
            break
        faint = parts(near > low * step, sure.astype(np.float32))
        chosen = faint.weight > 0
        if not _leaks(faint, chosen, sure):
            grown = np.zeros(mask.shape, bool)
            grown[area] = faint.mask(chosen | _beside(faint, chosen))
            return grown
    return mask


def _beside(faint: Parts, chosen: Mask) -> Mask:
    """Return which other parts of faint ink belong to the strokes that were followed.

    A part on the frame is a line of the paper, and goes on beyond what is looked at.
    """
    left, top = faint.left[chosen].min(), faint.top[chosen].min()
    right, bottom = faint.right[chosen].max(), faint.bottom[chosen].max()
    across = np.maximum(left - faint.right, faint.left - right)
    down = np.maximum(top - faint.bottom, faint.top - bottom)
    long = max(right - left, bottom - top)
    size = np.maximum(faint.right - faint.left, faint.bottom - faint.top)
    near = np.maximum(across, down) <= _GAP * long
    return np.asarray(near & (size >= _PIECE * long) & (faint.on_frame == 0), bool)


def spans(mask: Mask) -> tuple[Labels, Labels]:
    """Return the numbers of the rows, and of the columns, that have ink."""
    return np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))


def _around(mask: Mask) -> Area:
    """Return the rows and the columns that faint ink may reach."""
    rows, columns = spans(mask)
    reach = int(_ROOM * max(np.ptp(rows), np.ptp(columns))) + PIXELS
    down, across = (
        slice(max(0, int(lines[0]) - reach), int(lines[-1]) + reach)
        for lines in (rows, columns)
    )
    return down, across


def _leaks(faint: Parts, chosen: Mask, sure: Mask) -> bool:
    """Return whether parts reach the frame where sure ink does not."""
    inner = sure[1:-1, 1:-1]
    on_frame = np.count_nonzero(sure) - np.count_nonzero(inner)
    return bool(faint.on_frame[chosen].sum() > 2 * on_frame + 2)
