# SPDX-License-Identifier: Apache-2.0
"""Strokes are followed from sure ink into faint ink, and no further."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from inkling.image.finder.faint_ink import followed, searched, spans
from inkling.image.finder.paper import ink_on

_NOISE = 0.002


def _stroke(*levels: float, length: int = 12) -> np.ndarray:
    """Return a stroke down the middle of 96 x 96 pixels, in parts of other strength."""
    ink = np.zeros((96, 96), np.float32)
    for place, level in enumerate(levels):
        top = 20 + place * length
        ink[top : top + length, 46:50] = level
    return ink


def _reached(ink: np.ndarray, sure: float = 0.3) -> tuple[int, int]:
    """Return the first and the last row of the strokes, from ink above `sure`."""
    rows, _ = spans(followed(ink, ink > sure, _NOISE))
    return int(rows[0]), int(rows[-1])


@pytest.mark.parametrize("faint", [0.25, 0.15, 0.09])
def test_a_stroke_that_fades_is_whole(faint: float) -> None:
    """The faint end of a stroke belongs to it, down to a tenth of strong ink."""
    assert _reached(_stroke(0.8, 0.8, faint)) == (20, 55)


def test_what_is_like_the_noise_is_not_followed() -> None:
    """Ink that the paper's noise may be is no part of a stroke."""
    ink = _stroke(0.8, 0.8, 0.09)
    rows, _ = spans(followed(ink, ink > 0.3, 0.05))

    assert (int(rows[0]), int(rows[-1])) == (20, 43)


def test_a_part_beyond_a_gap_belongs_to_the_stroke() -> None:
    """A pen that skips leaves a gap; a long faint part near its end goes on with it."""
    ink = _stroke(0.8, 0.8, 0.0, 0.2)
    ink[44:54, 46:50] = 0.2  # the gap is two rows

    assert _reached(ink) == (20, 67)


def test_a_speck_beside_a_stroke_stays_out() -> None:
    """A small faint part is dirt."""
    ink = _stroke(0.8, 0.8, 0.8)
    ink[60:62, 47:49] = 0.2

    assert _reached(ink) == (20, 55)


def test_faint_ink_that_reaches_the_frame_leaks() -> None:
    """A shadow that goes on to the frame where sure ink does not is not followed."""
    ink = _stroke(0.8, 0.8)
    ink[44:, 20:80] = 0.12

    assert _reached(ink) == (20, 43)


def test_without_ink_nothing_is_followed() -> None:
    """An empty mask stays empty."""
    ink = np.zeros((96, 96), np.float32)

    assert not followed(ink, ink > 0.3, _NOISE).any()


def _paper(strength: float, length: int = 90) -> Image.Image:
    """Return 768 x 576 pixels of noisy paper with a thin dark line of this strength."""
    levels = np.random.default_rng(0).normal(180, 2, (576, 768))
    levels[200 : 200 + length, 300:303] -= strength
    return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("dark", [True, False])
def test_a_faint_line_is_found_where_it_is(dark: bool) -> None:
    """A line of four levels at the resolution of the search is found, dark or light."""
    grey = _paper(6)
    found = searched(grey if dark else grey.point(lambda v: 255 - v), dark, 192)

    assert found is not None
    rows, columns = spans(found.mask)
    assert abs(int(rows[0]) - 50) <= 2
    assert abs(int(rows[-1]) - 72) <= 2
    assert 74 <= int(columns[0]) <= int(columns[-1]) <= 76
    assert found.noise < 1 / 180


@pytest.mark.parametrize(("strength", "length"), [(0, 90), (6, 12)])
def test_noise_and_specks_are_no_faint_ink(strength: float, length: int) -> None:
    """Blank paper and a short mark give nothing."""
    assert searched(_paper(strength, length), True, 192) is None


def test_ink_is_a_share_of_its_paper() -> None:
    """A stroke of half of the paper's brightness has 0.5 in light and in shadow."""
    levels = np.full((60, 120), 200, np.uint8)
    levels[:, 60:] = 120
    levels[30:33, 10:50] //= 2
    levels[30:33, 70:110] //= 2
    ink, noise = ink_on(levels, 15)

    assert np.allclose(ink[31, [20, 30, 90, 100]], 0.5, atol=0.01)
    assert abs(float(ink[10, 60])) < 0.01
    assert noise == 0
