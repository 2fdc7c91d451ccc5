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
    "parts",
    "square",
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
    return along_rows(values.T, length, pick).T


def square(
    values: npt.NDArray[_Kind], length: int, pick: np.ufunc
) -> npt.NDArray[_Kind]:
    """Return the maximum or minimum over a square window of `length` pixels a side."""
    return along_columns(along_rows(values, length, pick), length, pick)


def closed(values: Values, length: int) -> Values:
    """Return the closing: the picture without dark objects narrower than `length`."""
    return square(square(values, length, np.maximum), length, np.minimum)


def opened(values: Values, length: int) -> Values:
    """Return the opening: the picture without light objects narrower than `length`."""
    return square(square(values, length, np.minimum), length, np.maximum)


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
    labels, count = _labels(mask)
    rows, columns = np.nonzero(labels)
    name = labels[rows, columns] - 1
    height, width = mask.shape
    frame = (rows == 0) | (columns == 0) | (rows == height - 1) | (columns == width - 1)
    left, top = np.full(count, width), np.full(count, height)
    right, bottom = np.zeros(count, np.int64), np.zeros(count, np.int64)
    np.minimum.at(left, name, columns)
    np.minimum.at(top, name, rows)
    np.maximum.at(right, name, columns + 1)
    np.maximum.at(bottom, name, rows + 1)
    weight = np.bincount(name, weights[rows, columns], count).astype(np.float64)
    on_frame = np.bincount(name[frame], minlength=count)
    return Parts(labels, left, top, right, bottom, weight, on_frame)


def _labels(mask: Mask) -> tuple[Labels, int]:
    """Label the parts by joining the horizontal runs of neighbouring rows."""
    row, start, end = _runs(mask)
    width = mask.shape[1]
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
    names, number = np.unique(root, return_inverse=True)
    # The cumulative sum fills each run: it steps up at the start, and down after the
    # end.
    steps = np.zeros((mask.shape[0], width + 1), np.int64)
    np.add.at(steps, (row, start), number + 1)
    np.add.at(steps, (row, end), -(number + 1))
    return np.cumsum(steps, axis=1)[:, :width], len(names)


def _runs(mask: Mask) -> tuple[Labels, Labels, Labels]:
    """Return the row, the first column and the column after the last of every run."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    row, start = np.nonzero(edges == 1)
    return row, start, np.nonzero(edges == -1)[1]


def _roots(below: Labels, above: Labels, count: int) -> Labels:
    """Return for each run the first run of its part, by pointer jumping."""
    root = np.arange(count)
    while (root[below] != root[above]).any():
        lower = np.minimum(root[below], root[above])
        np.minimum.at(root, root[below], lower)
        np.minimum.at(root, root[above], lower)
        root = root[root]
    return root
