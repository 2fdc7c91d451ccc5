# SPDX-License-Identifier: Apache-2.0
"""Thin strokes decide whether ink is darker than its paper (finder `ink-3`)."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from inkling.image.finder.polarity import has_dark_ink


def _ring(shadow: int) -> np.ndarray:
    """A dark ring of 1 pixel on light paper, beside a shadow of so many levels."""
    down, across = np.mgrid[0:144, 0:192]
    levels = np.where(across - down > 38, 220 - shadow, 220)
    ring = np.abs(np.hypot((across - 80) * 1.5, down - 50) - 6) < 0.7
    return np.where(ring, levels - 70, levels).astype(np.uint8)


@pytest.mark.parametrize("shadow", [0, 40, 100])
@pytest.mark.parametrize("dark", [True, False])
def test_a_small_digit_beside_a_shadow_keeps_its_polarity(
    shadow: int, dark: bool
) -> None:
    """The paper inside a ring, and up to a shadow's edge, is not taken for ink."""
    levels = _ring(shadow)

    assert has_dark_ink(Image.fromarray(levels if dark else 255 - levels)) is dark


@pytest.mark.parametrize("dark", [True, False])
def test_the_corners_of_thick_strokes_do_not_decide(dark: bool) -> None:
    """A ring of 16 pixels, with corners as an enlarged drawing has them, is ink."""
    down, across = np.mgrid[0:192, 0:192] // 4 * 4
    ring = np.abs(np.hypot(across - 96, down - 96) - 60) < 8
    picture = Image.fromarray(np.where(ring, 20, 240).astype(np.uint8))

    found = has_dark_ink(picture if dark else ImageOps.invert(picture))
    assert found in (dark, None)


def test_paper_without_strokes_has_no_polarity() -> None:
    """A slow change of the light says nothing about ink."""
    levels = np.tile(np.linspace(90, 220, 192).astype(np.uint8), (144, 1))

    assert has_dark_ink(Image.fromarray(levels)) is None
