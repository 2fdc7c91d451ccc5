# SPDX-License-Identifier: Apache-2.0
"""Clear drawings need no search, and what may be more than a drawing is searched."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from inkling.contract import Contract
from inkling.image.finder import strokes
from inkling.image.finder.clear import clear_ink
from inkling.image.preprocess import explain, pixels_to_input
from inkling_loadtest.load.pictures import drawn_digits


def _drawn(number: int) -> Image.Image:
    """Return a drawn digit of 280 pixels, white on black."""
    files = (each.image for each in drawn_digits() if each.label == str(number))
    pictures = (Image.open(io.BytesIO(file)) for file in files)
    picture = next(each for each in pictures if each.size == (280, 280))
    return ImageOps.invert(picture.convert("L"))


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())


@pytest.mark.parametrize("inverted", [False, True])
def test_a_clear_drawing_gives_what_the_search_gives(
    digit_contract: Contract, monkeypatch: pytest.MonkeyPatch, inverted: bool
) -> None:
    """Ten digits, light on dark and dark on light, nearly the same in every pixel."""
    pictures = [np.asarray(_drawn(number)) for number in range(10)]
    pictures = [255 - one if inverted else one for one in pictures]
    assert all(clear_ink(Image.fromarray(one), digit_contract) for one in pictures)
    quick = [pixels_to_input(one, digit_contract) for one in pictures]
    monkeypatch.setattr(strokes, "clear_ink", lambda *_: None)
    searched = [pixels_to_input(one, digit_contract) for one in pictures]

    alike = [_overlap(a, b) for a, b in zip(quick, searched, strict=True)]
    assert min(alike) > 0.8, alike


def _with_gradient(picture: np.ndarray) -> np.ndarray:
    return np.maximum(picture, np.linspace(0, 60, 280, dtype=np.uint8)[None])


def _with_noise(picture: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 40, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def _with_faint_line(picture: np.ndarray) -> np.ndarray:
    changed = picture.copy()
    changed[20:26, 30:250] = np.maximum(changed[20:26, 30:250], 70)
    return changed


def _small(picture: np.ndarray) -> np.ndarray:
    changed = np.zeros((900, 900), np.uint8)
    changed[300:580, 300:580] = picture
    return changed


def _on_the_frame(picture: np.ndarray) -> np.ndarray:
    changed = picture.copy()
    changed[:, :40] = 255
    return changed


def _blurred(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(15)))


@pytest.mark.parametrize(
    "change",
    [_with_gradient, _with_noise, _with_faint_line, _small, _on_the_frame, _blurred],
)
def test_what_is_no_clear_drawing_is_searched(
    digit_contract: Contract, change: Any
) -> None:
    """Light that changes, noise, faint ink, a small find, a filled frame and blur."""
    changed = change(np.asarray(_drawn(3)))

    assert clear_ink(Image.fromarray(changed), digit_contract) is None


def test_the_polarity_of_the_contract_holds(digit_contract: Contract) -> None:
    """Light ink is none where the contract says that ink is dark."""
    dark = replace(digit_contract, polarity="dark_on_light")

    assert clear_ink(_drawn(3), digit_contract) is not None
    assert clear_ink(_drawn(3), dark) is None


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _paper(*numbers: int, noise: float, strength: float = 1.0) -> bytes:
    """Return drawn digits side by side as dark ink on paper."""
    row = np.concatenate([np.asarray(_drawn(n), np.float64) for n in numbers], axis=1)
    paper = 220 - 170 * strength * row / 255
    paper += np.random.default_rng(0).normal(0, noise, paper.shape)
    return _png(Image.fromarray(paper.clip(0, 255).astype(np.uint8)))


@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_two_digits_side_by_side_are_a_doubt(
    digit_contract: Contract, noise: float
) -> None:
    """On clear paper and on paper that is searched; a single digit is none."""
    _, stages, doubt = explain(_paper(3, 5, noise=noise), digit_contract)
    _, _, single = explain(_paper(3, noise=noise), digit_contract)

    assert doubt is not None
    assert doubt.reason == "several"
    assert "side by side" in doubt.text
    assert any(doubt.text in stage.decision for stage in stages)
    assert single is None


def test_ink_like_the_paper_is_a_doubt(digit_contract: Contract) -> None:
    """Ink hardly stronger than the paper's noise is found, and the find is unsure."""
    found = explain(_paper(3, noise=6.0, strength=0.3), digit_contract)[2]

    assert found is not None
    assert found.reason == "unsure"
    assert "noise" in found.text


def test_a_speck_beside_a_digit_is_no_doubt(digit_contract: Contract) -> None:
    """A dot that a pen left is no second object."""
    picture = _drawn(3)
    ImageDraw.Draw(picture).ellipse((10, 130, 20, 140), fill=255)

    assert explain(_png(picture), digit_contract)[2] is None
