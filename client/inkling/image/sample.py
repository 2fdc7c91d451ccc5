# SPDX-License-Identifier: Apache-2.0
"""Tells a sample, which is framed like a training picture, from a small drawing.

A picture of the model input's size is not always a sample: many programs reduce a
drawing to 28x28 pixels without moving it to the centre. This is the rule of the finder
`ink-2`. A pixel counts as ink above the value `_INK`. A picture is a sample if it shows
no ink, or if all of these hold:

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
# Tables for bytes: the strength above `_INK`, and the values that are not strong.
_ABOVE = bytes(max(value - _INK, 0) for value in range(256))
_WEAK = bytes(range(_STRONG - _INK))


def is_framed(pixels: npt.NDArray[np.uint8], contract: Contract) -> bool:
    """Return whether a picture of the model input's size is framed like a sample.

    Args:
        pixels: Light ink on dark, uint8, shape (height, width, 1).
        contract: The contract with the box and the centring.
    """
    # On 784 bytes, methods of bytes take less time than NumPy's reductions.
    rows = pixels.tobytes().translate(_ABOVE)
    ink = np.frombuffer(rows, np.uint8)
    columns = ink.reshape(contract.height, contract.width).T.tobytes()
    height, width = _extent(rows, contract.width), _extent(columns, contract.height)
    if not height:
        return True
    if abs(max(height, width) - contract.box) > _SIDE_TOLERANCE * contract.box:
        return False
    if not rows.translate(None, _WEAK):
        return False
    if contract.centring != "mass":
        return True
    down, across, mass = (ink @ _moments(contract.height, contract.width)).tolist()
    reach = _CENTRE_TOLERANCE * contract.box * mass
    return bool(abs(down) <= reach and abs(across) <= reach)


def _extent(lines: bytes, length: int) -> int:
    """Return the number of lines from the first to the last one with ink."""
    whole = len(lines)
    first = (whole - len(lines.lstrip(b"\0"))) // length
    after = -(-len(lines.rstrip(b"\0")) // length)
    return max(0, after - first)


@lru_cache(maxsize=8)
def _moments(height: int, width: int) -> npt.NDArray[np.float32]:
    """Return each pixel's distance below the centre, and to its right, and 1.

    MNIST's centre of mass is half a pixel below the middle, and to the right of it.

    Returns:
        Shape (height * width, 3), float32.
    """
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    moments = [down - height // 2, across - width // 2, np.ones_like(down)]
    return np.stack(moments, axis=-1).reshape(-1, 3)
