# SPDX-License-Identifier: Apache-2.0
"""Decides whether ink is darker than its paper, by thin strokes if there are any.

A thin dark stroke disappears in a closing, and a thin light one in an opening, with a
window that is wider than the stroke. A shadow, a highlight and a slow change of the
light remain in both, however strong they are. Thick strokes remain, too; they are left
to the rule that the whole picture votes on.
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

# Windows in pixels of the reduced picture: thin strokes, and most strokes.
_THIN, _ANY = 5, 9
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
    dark, light = _narrow(levels, _THIN, frame)
    texture = _OVER_TEXTURE * _value_at(np.maximum(dark, light)[::2, ::2], 50)
    for_dark, for_light = _energy(dark, texture), _energy(light, texture)
    share = for_dark / max(for_dark + for_light, 1e-9)
    thin = max(_value_at(dark, _STRONGEST), _value_at(light, _STRONGEST))
    # Every second row and column is enough for wider strokes.
    half = np.ascontiguousarray(levels[::2, ::2])
    wide = _narrow(half, _ANY, frame // 2)
    thin /= max(1.0, *(_value_at(one, _STRONGEST) for one in wide))
    least = _SOME if contrast is None else _AGAINST_LEVELS
    clear = abs(share - 0.5) >= _CLEARLY or thin >= _MOST
    if thin >= least and clear:
        return share >= 0.5
    return None


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
