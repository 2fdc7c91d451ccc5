"""Tells a sample, which is framed like a training picture, from a small drawing.

A picture of the model input's size is not always a sample: many programs reduce a
drawing to 28x28 pixels without moving it to the centre. This is the rule of the finder
`ink-2`. A picture is a sample if it shows no ink, or if all of these hold, where a pixel
counts as ink above `_INK`:

- The longer side of the ink's bounding box is the contract's box, or up to 10 % more or
  less. All of MNIST's 70,000 digits have 18 to 20 pixels for a box of 20.
- The centre of mass of the ink is at most 5 % of the box, 1 pixel for MNIST, from the
  centre of the training pictures. MNIST's digits are at most 0.77 pixels away.
- The ink is strong: one pixel is at least `_STRONG`. MNIST's digits have 254.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract

__all__ = ["is_framed"]

_INK = 31
_STRONG = 128
_SIDE_TOLERANCE = 0.1
_CENTRE_TOLERANCE = 0.05


def is_framed(pixels: npt.NDArray[np.uint8], contract: Contract) -> bool:
    """Return whether a picture of the model input's size is framed like a sample.

    Args:
        pixels: Light ink on dark, uint8, shape (height, width, 1).
        contract: The contract with the box and the centring.
    """
    ink = np.maximum(pixels[:, :, 0], _INK) - np.uint8(_INK)
    inked = ink.tobytes()
    if not any(inked):
        return True
    rows, columns = ink.any(axis=1).tobytes(), ink.any(axis=0).tobytes()
    side = max(_extent(rows), _extent(columns))
    if abs(side - contract.box) > _SIDE_TOLERANCE * contract.box:
        return False
    if max(inked) + _INK < _STRONG:
        return False
    if contract.centring != "mass":
        return True
    down, across = _moments(contract.height, contract.width)
    flat = ink.reshape(-1).astype(np.float32)
    reach = _CENTRE_TOLERANCE * contract.box * float(flat.sum())
    return abs(float(flat @ down)) <= reach and abs(float(flat @ across)) <= reach


def _extent(inked: bytes) -> int:
    """Return the number of places from the first to the last one with ink."""
    return inked.rindex(1) - inked.index(1) + 1


@lru_cache(maxsize=8)
def _moments(
    height: int, width: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return each pixel's distance from the centre: below it, and to the right of it.

    MNIST's centre of mass is half a pixel below the middle, and to the right of it.
    """
    down = np.arange(height, dtype=np.float32) - np.float32(height // 2)
    across = np.arange(width, dtype=np.float32) - np.float32(width // 2)
    return np.repeat(down, width), np.tile(across, height)
