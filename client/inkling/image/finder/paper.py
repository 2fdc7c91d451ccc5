# SPDX-License-Identifier: Apache-2.0
"""Tells ink from the paper under it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from inkling.image.morphology import share_of, window

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.image.morphology import Values

__all__ = ["ink_on"]

# Paper counts as no darker than this share of the lightest paper: the noise of a dark
# corner is a large share of its brightness.
_DARKEST, _DARK_SHARE = 16.0, 0.4
_SIGMA_PER_MEDIAN = 1.4826 / 2**0.5


def ink_on(levels: npt.NDArray[Any], widest: int) -> tuple[Values, float]:
    """Return the strength of the ink, as a share of the paper's brightness.

    The second value is the standard deviation of that strength on blank paper.

    Args:
        levels: Grey levels, uint8 or float32, 0 to 255, of dark ink on light paper.
        widest: The width of the widest stroke, in pixels.
    """
    paper = window(window(levels, widest, np.maximum), widest, np.minimum)
    lightest = share_of(paper[::4, ::4], 90)
    darkest = np.float32(max(_DARKEST, _DARK_SHARE * lightest))
    ink: Values = ((paper - levels) / np.maximum(paper, darkest)).astype(
        np.float32, copy=False
    )
    ink -= np.float32(share_of(ink[::3, ::3], 50))
    texture = np.abs(ink[::2, 4::2] - ink[::2, :-4:2])
    noise = share_of(texture, 50) if texture.size else 0.0
    return ink, _SIGMA_PER_MEDIAN * noise
