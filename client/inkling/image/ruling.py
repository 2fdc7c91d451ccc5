"""Takes the lines of ruled and squared paper out of a picture of ink."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inkling.image.morphology import along_columns

if TYPE_CHECKING:
    from inkling.image.morphology import Labels, Mask, Values

__all__ = ["without_ruling"]

# A ruled line runs through most of the picture; a sample's digit spans 20/28 of it ...
_SPAN_SHARE = 0.8
# ... drifts by at most one row in this many columns (7 degrees) ...
_BLOCK = 8
# ... is there in this share of the columns that it runs through ...
_COVER_SHARE = 0.75
# ... and is at most so many pixels thin.
_WIDTH = 4
# What is so much darker than most of a line is the ink that crosses it.
_INK_OVER_LINE = 1.4
_LINE_PERCENTILE = 80


def without_ruling(ink: Values, floor: float) -> tuple[Values, int]:
    """Return the ink without ruled lines, and how many rows and columns had some.

    Where a line crossed the writing, the ink on both sides of it is joined.

    Args:
        ink: Strength of the ink, shape (rows, columns), 0 is paper.
        floor: What is fainter than this is no line.
    """
    ink, rows = _without_level_lines(ink, floor)
    ink, columns = _without_level_lines(ink.T, floor)
    return ink.T, rows + columns


def _without_level_lines(ink: Values, floor: float) -> tuple[Values, int]:
    line = _level_lines(ink, floor)
    if not line.any():
        return ink, 0
    line &= ink < _INK_OVER_LINE * np.percentile(ink[line], _LINE_PERCENTILE)
    rest = np.where(line, np.float32(0), ink)
    reach = _WIDTH + 3
    joined = along_columns(along_columns(rest, reach, np.maximum), reach, np.minimum)
    cleared = np.where(line, np.minimum(joined, ink), ink)
    return cleared, int(line.any(axis=1).sum())


def _level_lines(ink: Values, floor: float) -> Mask:
    """Return where thin, nearly level lines run through most of the picture."""
    height, width = ink.shape
    span = _WIDTH + 1
    thick = along_columns(along_columns(ink, span, np.minimum), span, np.maximum)
    thin = ink - thick
    there = along_columns(thin, 3, np.maximum) > floor
    blocks = max(1, width // _BLOCK)
    covered = there[:, : blocks * _BLOCK].reshape(height, blocks, -1).mean(axis=2)
    solid = covered >= _COVER_SHARE
    long = solid & (_path_lengths(solid) >= _SPAN_SHARE * blocks)
    spread = np.repeat(long, _BLOCK, axis=1)[:, :width]
    missing = width - spread.shape[1]
    spread = np.pad(spread, ((0, 0), (0, missing)), mode="edge")
    found: Mask = spread & (thin > floor / 2)
    return found


def _path_lengths(solid: Mask) -> Labels:
    """Return for each block how many blocks the longest path through it covers.

    A path goes from block to block, to the same row or one next to it.
    """
    rows, blocks = solid.shape
    lengths = np.zeros((2, rows + 2, blocks), np.int64)
    for way, order in enumerate((range(blocks), range(blocks - 1, -1, -1))):
        last = np.zeros(rows + 2, np.int64)
        for block in order:
            best = np.maximum(np.maximum(last[:-2], last[1:-1]), last[2:])
            last[1:-1] = best + solid[:, block]
            lengths[way, :, block] = last
    total: Labels = lengths.sum(axis=0)[1:-1] - solid
    return total
