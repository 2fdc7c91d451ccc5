# SPDX-License-Identifier: Apache-2.0
"""Removes the lines of ruled and squared paper from a picture of ink."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from inkling.image.morphology import along_columns

if TYPE_CHECKING:
    from inkling.image.morphology import Labels, Mask, Values

__all__ = ["without_ruling"]

# A ruled line spans at least this share of the picture. The digit of a sample spans
# 20/28 of it.
_SPAN_SHARE = 0.8
# A line drifts by at most one row in this many columns (7 degrees).
_BLOCK = 8
# A line is visible in at least this share of the columns that it spans.
_COVER_SHARE = 0.75
# A line is at most this many pixels wide.
_WIDTH = 4
# Ink that crosses a line is stronger than the line by at least this factor.
_INK_OVER_LINE = 1.4
_LINE_PERCENTILE = 80


def without_ruling(ink: Values, floor: float) -> tuple[Values, int]:
    """Return the ink without ruled lines, and how many rows and columns had lines.

    If a line crossed the writing, the ink on both sides of the line is joined.

    Args:
        ink: Strength of the ink, shape (rows, columns); paper is 0.
        floor: The least strength of a line, in the same unit.
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
    """Return the mask of thin, nearly level lines that span most of the picture."""
    width = ink.shape[1]
    span = _WIDTH + 1
    thick = along_columns(along_columns(ink, span, np.minimum), span, np.maximum)
    thin = ink - thick
    there = along_columns(thin, 3, np.maximum) > floor
    blocks = max(1, width // _BLOCK)
    solid = _covered(there[:, : blocks * _BLOCK], blocks)
    if np.count_nonzero(solid.any(axis=0)) < _SPAN_SHARE * blocks:
        # No path can be long; following the paths would take most of the time.
        return np.zeros(ink.shape, bool)
    long = solid & (_path_lengths(solid) >= _SPAN_SHARE * blocks)
    spread = np.repeat(long, _BLOCK, axis=1)[:, :width]
    missing = width - spread.shape[1]
    spread = np.pad(spread, ((0, 0), (0, missing)), mode="edge")
    found: Mask = spread & (thin > floor / 2)
    return found


def _covered(there: Mask, blocks: int) -> Mask:
    """Return in which blocks of each row a line is visible in enough columns."""
    width = there.shape[1] // blocks
    count = np.zeros((len(there), blocks), np.uint8)
    for column in range(width):
        count += there[:, column::width]
    covered: Mask = count >= _COVER_SHARE * width
    return covered


def _path_lengths(solid: Mask) -> Labels:
    """Return for each block the number of blocks in the longest path through it.

    A path goes from one column of blocks to the next, in the same row or a row beside.
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
