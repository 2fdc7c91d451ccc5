# SPDX-License-Identifier: Apache-2.0
"""Gives a picture that was cut along the writing the margin that it lacks.

Programs that find contours cut a digit along its outline. Its strokes then touch the
frame, as a desk or a shadow does in a photo. This is the rule of the finder `ink-2`:

- The picture has two clear levels. Ink is the level that has the smaller part of the
  frame; in a narrow picture, as of a one, ink is the level of the middle line.
- Ink is thin: no large square fits into it. A sheet of paper on a desk is not thin.
- Strokes only touch the frame. A desk, a shadow or a corner follows the frame along
  about half of its own bounding box.
- Some ink touches the frame, or the ink fills nearly the whole picture.

If all of these hold, the picture is continued on all sides by its own paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from inkling.image.morphology import parts, square

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.image.morphology import Mask, Parts, Values

    Pixels: TypeAlias = npt.NDArray[np.uint8]

# The rows and the columns of a part of a picture.
Area: TypeAlias = tuple[slice, slice]

__all__ = ["Area", "Cut", "cut_of"]

# Long side, in pixels, for the decision.
_SIDE = 64
# Share of the variance that lies between the two levels, and the levels' distance.
_TWO_LEVELS = 0.62
_CONTRAST = 20
# From this ratio of the sides, most of the frame may be ink.
_NARROW = 2.5
# Side of a square that does not fit into strokes, as a share of the long side. The
# lower value is for pictures that may show a sheet of paper on a desk: they came with a
# long side of 100 pixels or more, and more than half of them would be ink.
_THICK, _THICK_OF_SHEET = 0.42, 0.34
_PHOTO, _MUCH = 100, 0.5
# Share of its bounding box's outline along which a part follows the frame.
_FOLLOWS = 0.46
_MOST_OF_FRAME = 0.46
# Smaller parts, as a share of the largest part on the frame, are not looked at.
_SMALL_PART = 0.15
# Ink that spans this share of both sides has next to no margin.
_FILLS = 0.85
# The margin, as a share of the long side.
_MARGIN = 0.25
# The paper's brightness is taken from this share of the picture around each pixel.
_PAPER_REACH = 0.25
# The weight, in pixels, of the paper's typical brightness where no paper is near.
_FEW = 0.01


@dataclass(frozen=True)
class Cut:
    """A picture that was cut along the writing.

    Attributes:
        has_dark_ink: True if the ink is darker than the paper.
        ink: The mask of the ink in the small picture.
        small: The small picture, float32, 0 to 255.
    """

    has_dark_ink: bool
    ink: Mask
    small: Values

    @property
    def contrast(self) -> float:
        """The difference between ink and paper, 0 to 255."""
        ink, paper = self.small[self.ink], self.small[~self.ink]
        return abs(float(ink.mean()) - float(paper.mean()))

    def with_margin(self, grey: Image.Image, side: int) -> tuple[Image.Image, Area]:
        """Return the picture with a margin, and the area of the picture inside.

        Args:
            grey: The picture, mode `L`.
            side: Long side of the result, in pixels.
        """
        scale = side / (1 + 2 * _MARGIN) / max(grey.size)
        width, height = (max(1, round(size * scale)) for size in grey.size)
        margin = (side - max(width, height)) // 2
        paper = self._paper()
        reach = round(_MARGIN * max(paper.shape))
        wide = np.pad(paper, reach, mode="edge")
        around = Image.fromarray(np.rint(wide).astype(np.uint8)).resize(
            (width + 2 * margin, height + 2 * margin), Image.Resampling.BILINEAR
        )
        inner = grey.resize((width, height), _filter(scale), reducing_gap=2.0)
        around.paste(inner, (margin, margin))
        inside = slice(margin, margin + height), slice(margin, margin + width)
        return around, inside

    def _paper(self) -> Values:
        """Return the paper's brightness around each pixel of the small picture."""
        paper, ink = self.small[~self.ink], self.small[self.ink].mean()
        typical = np.percentile(paper, 80 if self.has_dark_ink else 20)
        # Pixels at the edges of strokes are part ink, and count less.
        clear = np.clip((self.small - ink) / (typical - ink), 0, 1) ** 4
        clear[self.ink] = 0
        around = _sum_nearby(self.small * clear) + _FEW * typical
        return np.asarray(around / (_sum_nearby(clear) + _FEW), np.float32)


def cut_of(grey: Image.Image, long_side: int, has_dark_ink: bool | None) -> Cut | None:
    """Return how the picture was cut along the writing; None if it was not.

    Args:
        grey: The picture, mode `L`, of any size.
        long_side: The long side that the picture came with, in pixels.
        has_dark_ink: The polarity if the contract states it; None to decide it.
    """
    scale = _SIDE / max(grey.size)
    width, height = (max(1, round(side * scale)) for side in grey.size)
    small = grey.resize((width, height), _filter(scale), reducing_gap=2.0)
    levels = np.asarray(small)
    threshold = _threshold(levels)
    if threshold is None:
        return None
    dark = levels <= threshold
    if has_dark_ink is None:
        has_dark_ink = _has_dark_ink(levels, dark)
    ink = dark if has_dark_ink else ~dark
    if not _is_cut(ink, is_photo=long_side >= _PHOTO):
        return None
    return Cut(has_dark_ink, ink, levels.astype(np.float32))


def _filter(scale: float) -> Image.Resampling:
    return Image.Resampling.BICUBIC if scale >= 1 else Image.Resampling.BOX


def _threshold(levels: Pixels) -> int | None:
    """Return the highest value of the darker level (Otsu 1979); None without two."""
    counts = np.bincount(levels.reshape(-1), minlength=256).astype(np.float64)
    values = np.arange(256)
    below = np.cumsum(counts)[:-1]
    above = below[-1] + counts[-1] - below
    total = counts.sum()
    sums = np.cumsum(counts * values)
    mean = sums[-1] / total
    both = (below > 0) & (above > 0)
    if not both.any():
        return None
    between = np.zeros(255)
    difference = mean * below[both] - sums[:-1][both]
    between[both] = difference**2 / (below[both] * above[both])
    place = int(between.argmax())
    variance = float(counts @ (values - mean) ** 2) / total
    share = below[place] / total
    distance = (between[place] / (share * (1 - share))) ** 0.5
    if between[place] < _TWO_LEVELS * variance or distance < _CONTRAST:
        return None
    return place


def _has_dark_ink(levels: Pixels, dark: Mask) -> bool:
    height, width = dark.shape
    if max(height, width) < _NARROW * min(height, width):
        return bool(_frame(dark).mean() < 0.5)
    if width > height:
        levels = levels.T
    corners = levels[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
    third = levels.shape[1] // 3
    return bool(levels[:, third : levels.shape[1] - third].mean() < corners)


def _frame(values: Mask) -> Mask:
    """Return the outermost rows and columns on one line."""
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])


def _is_cut(ink: Mask, *, is_photo: bool) -> bool:
    height, width = ink.shape
    on_frame = _frame(ink).mean()
    narrow = max(height, width) >= _NARROW * min(height, width)
    if not narrow and on_frame > _MOST_OF_FRAME:
        return False
    across, down = _span(ink, 0), _span(ink, 1)
    if not (on_frame or max(across, down) >= _FILLS):
        return False
    sheet = is_photo and not narrow and ink.mean() > _MUCH
    thick = _THICK_OF_SHEET if sheet else _THICK
    window = round(thick * max(height, width))
    if min(height, width) > window and _fits(ink, window):
        return False
    if not on_frame:
        return narrow or min(across, down) >= _FILLS
    if narrow and (down if height > width else across) >= _FILLS:
        return True
    return not _follows_frame(parts(ink, np.ones(ink.shape, np.float32)))


def _span(ink: Mask, axis: int) -> float:
    """Return the share of the rows (axis 1) or columns (0) that the ink spans."""
    inked = np.flatnonzero(ink.any(axis=axis))
    length: int = ink.shape[1 - axis]
    return int(inked[-1] - inked[0] + 1) / length


def _fits(ink: Mask, window: int) -> bool:
    """Return whether a square of `window` pixels a side fits into the ink.

    At the frame, half of the square may lie outside.
    """
    return bool(square(ink, window, np.minimum).any())


def _follows_frame(found: Parts) -> bool:
    """Return whether a large part on the frame is a desk, a shadow or a corner."""
    outline = 2 * (found.right - found.left + found.bottom - found.top)
    on_frame = found.on_frame > 0
    large = found.weight >= _SMALL_PART * found.weight[on_frame].max()
    return bool((found.on_frame > _FOLLOWS * outline)[on_frame & large].any())


def _sum_nearby(values: Values) -> Values:
    """Return the sum over a square around each pixel."""
    reach = _PAPER_REACH * max(values.shape)
    rows, columns = (
        (np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= reach)
        for n in values.shape
    )
    found: Values = rows.astype(np.float32) @ values @ columns.astype(np.float32)
    return found
