# SPDX-License-Identifier: Apache-2.0
"""Decides whether ink is darker than its paper, by thin strokes if there are any.

A thin dark stroke disappears in a closing, and a thin light one in an opening, with a
window that is wider than the stroke. A shadow, a highlight and a slow change of the
light remain in both, however strong they are. Thick strokes remain, too; they are left
to the rule that the whole picture votes on.

The narrowest window decides first: a stroke of a small digit is narrower than the paper
inside it, or between it and a shadow's edge, which a wider window takes for light ink.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inkling.image.morphology import window

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    Levels = npt.NDArray[np.uint8]

__all__ = ["has_dark_ink"]

# Windows in pixels of the reduced picture: the thinnest, thin and most strokes.
_THINNEST, _THIN, _ANY = 3, 5, 9
# The thinnest strokes decide if one polarity has this share of their energy, and they
# have the other share of the energy of most strokes: the corners of thick strokes have
# up to 0.09, and the strokes of small digits 0.17 and more.
_ONE, _NOT_CORNERS = 0.62, 0.15
# Pixels along the frame that do not count.
_FRAME = 8
# What is twice as strong as the typical texture counts.
_OVER_TEXTURE = 2.0
_STRONGEST = 99.7
# Thin strokes decide if they have this share of the strength of all strokes, and either
# speak clearly for one polarity or are nearly all that there is.
_SOME, _MOST, _CLEARLY = 0.08, 0.35, 0.18
# The share that they need against two clear levels, which a shine also makes.
_AGAINST_LEVELS = 0.5


def has_dark_ink(work: Image.Image, contrast: float | None = None) -> bool | None:
    """Return whether the ink is darker than its paper; None if thin strokes do not say.

    Args:
        work: The reduced picture, mode `L`.
        contrast: The difference of two clear levels, if the picture has them.
    """
    levels = np.asarray(work)
    frame = _FRAME if min(levels.shape) > 6 * _FRAME else 0
    thinnest = _Energies(*_narrow(levels, _THINNEST, frame))
    strokes = _Energies(*_narrow(levels, _ANY, frame))
    most = max(thinnest.for_dark, thinnest.for_light)
    has_strokes = thinnest.whole > _NOT_CORNERS * strokes.whole
    if has_strokes and most >= _ONE * thinnest.whole:
        return thinnest.for_dark == most
    thin = _Energies(*_narrow(levels, _THIN, frame))
    # Every second row and column is enough for wider strokes.
    half = np.ascontiguousarray(levels[::2, ::2])
    wide = max(_value_at(one, _STRONGEST) for one in _narrow(half, _ANY, frame // 2))
    strength = thin.strongest / max(1.0, wide)
    share = thin.for_dark / max(thin.whole, 1e-9)
    least = _SOME if contrast is None else _AGAINST_LEVELS
    clear = abs(share - 0.5) >= _CLEARLY or strength >= _MOST
    return share >= 0.5 if strength >= least and clear else None


class _Energies:
    """The energy of narrow dark parts and of narrow light ones, above the texture."""

    def __init__(self, dark: Levels, light: Levels) -> None:
        texture = _OVER_TEXTURE * _value_at(np.maximum(dark, light)[::2, ::2], 50)
        self.for_dark, self.for_light = _energy(dark, texture), _energy(light, texture)
        self.whole = self.for_dark + self.for_light
        self.strongest = max(_value_at(dark, _STRONGEST), _value_at(light, _STRONGEST))


def _narrow(levels: Levels, length: int, frame: int) -> tuple[Levels, Levels]:
    """Return how much darker, and lighter, than its surroundings a narrow part is."""
    filled = window(window(levels, length, np.maximum), length, np.minimum)
    cleared = window(window(levels, length, np.minimum), length, np.maximum)
    # A strip of paper between a stroke and the frame is no stroke.
    inner = slice(frame, -frame or None), slice(frame, -frame or None)
    return (filled - levels)[inner], (levels - cleared)[inner]


def _energy(narrow: Levels, texture: float) -> float:
    over = np.maximum(narrow - np.float32(texture), 0)
    return float(np.vdot(over, over))


def _value_at(narrow: Levels, percent: float) -> float:
    counts = np.bincount(narrow.reshape(-1), minlength=256).cumsum()
    return float(np.searchsorted(counts, percent / 100 * narrow.size))
