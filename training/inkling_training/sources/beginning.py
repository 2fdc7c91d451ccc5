# SPDX-License-Identifier: Apache-2.0
"""Concludes from a model's beginning which values its pictures have.

A model that rescales its pictures inside is made for 0..255, or for 0..1. This is seen
in the values that reach its first weights when the picture is black or white.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Values = npt.NDArray[np.float32]

__all__ = ["values_of"]

# Weights are made for values of about this size at most, unless only a mean was
# subtracted from 0..255.
_LARGEST = 8.0
_LARGEST_MEAN, _LEAST_MEAN = 160.0, 60.0
_CLOSE = 1e-3


def values_of(front: Callable[[float], Values]) -> tuple[str, str] | None:
    """Return the name of the values that a model takes, and the reason.

    Args:
        front: Returns the values that reach the first weights for a picture whose
            values all are the argument; any shape that begins with the batch.

    Returns:
        `bytes` or `unit`; None if the values reach the weights as they are, or if they
        depend on the whole picture.
    """
    black, white, one = (_middle(front(level)) for level in (0.0, 255.0, 1.0))
    same = np.abs(white - black).max() < _CLOSE
    if same or (np.abs(black).max() < _CLOSE and np.abs(one - 1).max() < _CLOSE):
        return None
    made = f"itself makes {_span(black, white)} of them"
    if _fits(black, white):
        return "bytes", f"the model {made}"
    subtracted = np.abs(white - black - 255).max() < 1
    if subtracted and -_LARGEST_MEAN < black.min() <= black.max() < -_LEAST_MEAN:
        return "bytes", f"the model {made}"
    if _fits(black, one):
        return "unit", f"the model itself makes {_span(black, one)} of them"
    return None


def _fits(low: Values, high: Values) -> bool:
    return max(float(np.abs(low).max()), float(np.abs(high).max())) <= _LARGEST


def _span(low: Values, high: Values) -> str:
    least = min(float(low.min()), float(high.min()))
    return f"{least:.3g}..{max(float(low.max()), float(high.max())):.3g}"


def _middle(values: Values) -> Values:
    """Return the values without their borders, which may be padding."""
    for axis in range(1, values.ndim):
        count = values.shape[axis]
        if count > 4:
            inner = range(count // 4, count - count // 4)
            values = np.take(values, inner, axis)
    return values
