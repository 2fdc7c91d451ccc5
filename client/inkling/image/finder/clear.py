# SPDX-License-Identifier: Apache-2.0
"""Finds strong ink on even paper, as in a drawing on a screen, in little time.

Most drawings need no search: the frame shows one brightness, which is the paper's, and
every other pixel is ink or lies beside ink. Then a small picture shows all that the
search would show, and none of its steps would change anything: there is no shadow, no
ruling, no faint ink and no noise. Where any of this may be there, the search looks
again (`inkling.image.finder.strokes`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from inkling.image.finder.doubt import of_several
from inkling.image.finder.faint_ink import spans
from inkling.image.ink import belonging, likelihood_of, shown, with_long_side
from inkling.image.morphology import parts, share_of, window

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.finder.doubt import Doubt
    from inkling.image.morphology import Mask, Values

    Levels: TypeAlias = npt.NDArray[np.uint8]

__all__ = ["Clear", "clear_ink"]

# Long side, in pixels, and the least side of a picture.
_SIDE, _LEAST_SIDE = 96, 24
# Levels by which the paper may differ along the frame, and the least contrast of ink.
_EVEN, _CONTRAST = 10, 80
# Ink has more than this share of the contrast; everything fainter than the other share
# is paper. Beside ink, within this window, pixels may lie between.
_INK, _PAPER, _BESIDE = 0.5, 0.12, 5
# The writing spans at least this share of the long side, and covers at most this share
# of the picture.
_SPAN, _COVER = 0.4, 0.3
# The mean width of its strokes, and the side of a square that is no stroke.
_THIN, _THICK = 2.0, 22
# Ink rises from 0 to 1 between these shares of full ink.
_FULL = 75
_SOFT_FROM, _SOFT_TO = 0.3, 0.7
_DETAIL_SIDE, _BORDER = 100, 3


@dataclass(frozen=True)
class Clear:
    """Strong ink on even paper.

    Attributes:
        grey: The picture, mode `L`, as it came.
        has_dark_ink: True if the ink is darker than the paper.
        ink: The strength of the ink, float32; paper is 0 and full ink is 1.
        mask: Where the ink is.
        beside: The window around ink, in pixels, where ink may be fainter.
        doubt: The doubt whether this is one object.
    """

    grey: Image.Image
    has_dark_ink: bool
    ink: Values
    mask: Mask
    beside: int
    doubt: Doubt | None = None

    def strokes(self) -> Values:
        """Return the writing at detail size, from 0 (paper) to 1 (ink)."""
        rows, columns = spans(self.mask)
        top, left = rows[0] - _BORDER, columns[0] - _BORDER
        bottom, right = rows[-1] + 1 + _BORDER, columns[-1] + 1 + _BORDER
        ink = np.where(window(self.mask, self.beside, np.maximum), self.ink, 0)
        ink = (ink - np.float32(_SOFT_FROM)) * np.float32(1 / (_SOFT_TO - _SOFT_FROM))
        cut = shown(ink).crop((left, top, right, bottom))
        scale = _DETAIL_SIDE / max(
            bottom - top - 2 * _BORDER, right - left - 2 * _BORDER
        )
        size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
        large = cut.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(large, np.float32) / np.float32(255)


def clear_ink(picture: Image.Image, contract: Contract) -> Clear | None:
    """Return the ink of a picture that shows nothing else; None if it may.

    Args:
        picture: A picture of mode `L` or `RGB` and of any size.
        contract: The contract with the polarity.
    """
    if min(picture.size) < _LEAST_SIDE:
        return None
    work = with_long_side(picture, _SIDE).convert("L")
    levels = np.asarray(work)
    frame = work.tobytes()
    width = work.width
    frame = frame[:width] + frame[-width:] + frame[::width] + frame[width - 1 :: width]
    low, high = min(frame), max(frame)
    if high - low > _EVEN:
        return None
    paper = (low + high) // 2
    darkest, lightest = paper - int(levels.min()), int(levels.max()) - paper
    if min(darkest, lightest) > _EVEN or max(darkest, lightest) < _CONTRAST:
        return None
    is_dark = darkest > lightest
    if contract.polarity not in (
        "auto",
        "dark_on_light" if is_dark else "light_on_dark",
    ):
        return None
    strength = paper - levels.astype(np.int16) if is_dark else levels - np.int16(paper)
    # An edge that the enlargement made is as wide as two pixels of the picture.
    beside = max(_BESIDE, 3 + 2 * math.ceil(_SIDE / max(picture.size)))
    return _checked(Clear(work, is_dark, *_scaled(strength), beside))


def _scaled(strength: npt.NDArray[np.int16]) -> tuple[Values, Mask]:
    strongest = strength > strength.max() * _INK
    full = share_of(strength[strongest], _FULL)
    ink: Values = strength * np.float32(1 / full)
    return ink, ink > _INK


def _checked(found: Clear) -> Clear | None:
    """Return what was found, if it is one piece of writing with visible strokes."""
    mask = found.mask
    area = int(np.count_nonzero(mask))
    rows, columns = spans(mask)
    span = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    if span < _SPAN * max(mask.shape) or area > _COVER * mask.size:
        return None
    around = window(mask, found.beside, np.maximum)
    if bool(((found.ink > _PAPER) & ~around).any()):
        return None
    outline = np.count_nonzero(mask[1:] != mask[:-1])
    outline += np.count_nonzero(mask[:, 1:] != mask[:, :-1])
    if 2 * area < _THIN * outline:
        return None
    if min(mask.shape) > _THICK and window(mask, _THICK, np.minimum).any():
        return None
    pieces = parts(mask, found.ink)
    if len(pieces) == 1:
        return found
    chosen = belonging(pieces, int(likelihood_of(pieces).argmax()))
    doubt = of_several(pieces, chosen)
    return replace(found, mask=pieces.mask(chosen), doubt=doubt)
