# SPDX-License-Identifier: Apache-2.0
"""Grey-scale morphology and the connected parts of a mask, in plain NumPy.

scipy.ndimage has the same operations, but it takes 83 MB, and the client has to stay
small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Values: TypeAlias = npt.NDArray[np.float32]
    Mask: TypeAlias = npt.NDArray[np.bool_]
    Labels: TypeAlias = npt.NDArray[np.int64]
    Weights: TypeAlias = npt.NDArray[np.float64]

_Kind = TypeVar("_Kind", bound=np.generic)

__all__ = [
    "Parts",
    "along_columns",
    "along_rows",
    "closed",
    "opened",
    "padded",
    "parts",
    "share_of",
    "square",
    "window",
]


def along_rows(
    values: npt.NDArray[_Kind], length: int, pick: np.ufunc
) -> npt.NDArray[_Kind]:
    """Return the maximum or minimum over a window of `length` pixels in each row.

    The window doubles in each of about log2(length) passes over the picture.

    Args:
        values: Shape (rows, columns); the result has the same shape.
        length: Pixels of the window, which is centred on each pixel.
        pick: `np.maximum` or `np.minimum`.
    """
    before, width = (length - 1) // 2, values.shape[1]
    # np.pad would take longer than the passes.
    padded = np.empty((len(values), width + length - 1), values.dtype)
    padded[:, before : before + width] = values
    padded[:, :before] = values[:, :1]
    padded[:, before + width :] = values[:, -1:]
    values, have = padded, 1
    while have < length:
        step = min(have, length - have)
        values = pick(values[:, :-step], values[:, step:])
        have += step
    return values


def along_columns(
    values: npt.NDArray[_Kind], length: int, pick: np.ufunc
) -> npt.NDArray[_Kind]:
    """Return the maximum or minimum over a window of `length` pixels in each column."""
    before, height = (length - 1) // 2, len(values)
    # Whole rows are compared, which takes half of the time of turning the picture.
    padded = np.empty((height + length - 1, values.shape[1]), values.dtype)
    padded[before : before + height] = values
    padded[:before] = values[:1]
    padded[before + height :] = values[-1:]
    values, have = padded, 1
    while have < length:
        step = min(have, length - have)
        values = pick(values[:-step], values[step:])
        have += step
    return values


def square(
    values: npt.NDArray[_Kind], length: int, pick: np.ufunc
) -> npt.NDArray[_Kind]:
    """Return the maximum or minimum over a square window of `length` pixels a side.

    The order in memory decides how sums are rounded: `ink-1` and `ink-2` need this one,
    and `window` is faster.
    """
    return along_rows(along_rows(values, length, pick).T, length, pick).T


def window(
    values: npt.NDArray[_Kind], length: int, pick: np.ufunc
) -> npt.NDArray[_Kind]:
    """Return what `square` returns, as rows in memory, which takes half of the time."""
    return along_columns(along_rows(values, length, pick), length, pick)


def padded(values: npt.NDArray[_Kind], border: int) -> npt.NDArray[_Kind]:
    """Return the values with `border` zeros on each side, in their order in memory.

    `np.pad` returns the same in ten times the time.
    """
    if values.flags.fnc:
        return padded(values.T, border).T
    height, width = values.shape
    wide = np.zeros((height + 2 * border, width + 2 * border), values.dtype)
    wide[border : border + height, border : border + width] = values
    return wide


def closed(values: Values, length: int) -> Values:
    """Return the closing: the picture without dark objects narrower than `length`."""
    return square(square(values, length, np.maximum), length, np.minimum)


def opened(values: Values, length: int) -> Values:
    """Return the opening: the picture without light objects narrower than `length`."""
    return square(square(values, length, np.minimum), length, np.maximum)


def share_of(values: npt.NDArray[_Kind], percent: float) -> float:
    """Return the value that `percent` of the values are below, one of them itself.

    `np.percentile` looks between two of them, and takes three times as long.
    """
    place = int(percent / 100 * (values.size - 1))
    return float(np.partition(values, place, axis=None)[place])


@dataclass(frozen=True)
class Parts:
    """The connected parts of a mask; each array has one entry per part.

    Attributes:
        labels: An array with the shape of the mask: 0 for the ground, 1 to n for the
            parts.
        left: First column of the part.
        top: First row of the part.
        right: The column after its last.
        bottom: The row after its last.
        weight: The sum of the weights of its pixels.
        on_frame: The number of its pixels in the outermost rows and columns.
    """

    labels: Labels
    left: Labels
    top: Labels
    right: Labels
    bottom: Labels
    weight: Weights
    on_frame: Labels

    def __len__(self) -> int:
        return len(self.weight)

    def mask(self, chosen: Mask) -> Mask:
        """Return the mask of the chosen parts; `chosen` has one entry per part."""
        return np.append(False, chosen)[self.labels]


def parts(mask: Mask, weights: Values) -> Parts:
    """Return the 8-connected parts of a mask.

    Args:
        mask: Shape (rows, columns).
        weights: The weight of each pixel, with the shape of the mask.
    """
    height, width = mask.shape
    row, start, end = _runs(mask)
    number, count = _numbers(width, row, start, end)
    labels = _filled(mask.shape, row, start, end, number)
    left, top = np.full(count, width), np.full(count, height)
    right, bottom = np.zeros(count, np.int64), np.zeros(count, np.int64)
    np.minimum.at(left, number, start)
    np.minimum.at(top, number, row)
    np.maximum.at(right, number, end)
    np.maximum.at(bottom, number, row + 1)
    name = np.repeat(number, end - start)
    weight = np.bincount(name, weights[mask], count).astype(np.float64)
    ends = (start == 0).astype(np.int64) + (end == width)
    outer = (row == 0) | (row == height - 1)
    framed = np.where(outer, end - start, np.minimum(ends, end - start))
    on_frame = np.bincount(number, framed, count).astype(np.int64)
    return Parts(labels, left, top, right, bottom, weight, on_frame)


def _numbers(width: int, row: Labels, start: Labels, end: Labels) -> tuple[Labels, int]:
    """Return the part of every run, from 0, by joining the runs of neighbouring rows.

    The second value is the number of parts.
    """
    # Each run gets a place on one long line. The gap of two between rows allows for
    # diagonal neighbours.
    row_start = row * (width + 2)
    above_start = row_start - (width + 2)
    first = np.searchsorted(row_start + end, above_start + start)
    after = np.searchsorted(row_start + start, above_start + end, side="right")
    touching = np.maximum(after - first, 0)
    below = np.repeat(np.arange(len(row)), touching)
    offset = np.arange(touching.sum()) - np.repeat(
        np.cumsum(touching) - touching, touching
    )
    root = _roots(below, np.repeat(first, touching) + offset, len(row))
    # The first run of a part is its root.
    first_of = root == np.arange(len(row))
    return (np.cumsum(first_of) - 1)[root], int(np.count_nonzero(first_of))


def _filled(
    shape: tuple[int, ...], row: Labels, start: Labels, end: Labels, number: Labels
) -> Labels:
    """Return the labels of all pixels: 1 and more in the runs, and 0 elsewhere."""
    # Ground and runs take turns on the line of all pixels.
    lengths = np.empty(2 * len(row) + 1, np.int64)
    values = np.zeros(2 * len(row) + 1, np.int64)
    before, after = row * shape[1] + start, row * shape[1] + end
    values[1::2] = number + 1
    lengths[1::2] = after - before
    lengths[:-1:2] = before
    lengths[-1] = shape[0] * shape[1]
    lengths[2::2] -= after
    return np.repeat(values, lengths).reshape(shape)


def _runs(mask: Mask) -> tuple[Labels, Labels, Labels]:
    """Return the row, the first column and the column after the last of every run."""
    height, width = mask.shape
    # A pixel of ground after each row, and one before all of them, ends every run.
    line = np.zeros(height * (width + 1) + 1, bool)
    line[1:].reshape(height, width + 1)[:, :width] = mask
    changes = np.flatnonzero(line[1:] != line[:-1])
    row, start = np.divmod(changes[::2], width + 1)
    return row, start, changes[1::2] - row * (width + 1)


def _roots(below: Labels, above: Labels, count: int) -> Labels:
    """Return for each run the first run of its part, by pointer jumping."""
    root = np.arange(count)
    while True:
        one, other = root[below], root[above]
        # Runs of one part stay in it, so that their edge need not be looked at again.
        apart = one != other
        if not apart.any():
            return root
        below, above = below[apart], above[apart]
        one, other = one[apart], other[apart]
        np.minimum.at(root, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(jumped := root[root], root):
            root = jumped
