# SPDX-License-Identifier: Apache-2.0
"""Thin and faint strokes, shadows and shine do not change a digit (finder `ink-3`)."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inkling.contract import Contract
from inkling.image.decoding import Decoded
from inkling.image.finder import strokes
from inkling.image.preprocess import (
    explain,
    judged_pixels,
    pixels_to_input,
    prepare,
    to_input,
)
from tests.support.pages import page, pair

# A page on which every finder finds the whole digit.
_PLAIN: dict[str, Any] = {
    "pen": 8,
    "paper": "plain",
    "light": "even",
    "blur": 0.0,
    "size": 0.5,
    "frame": 768,
    "ink": "black",
    "strength": 0.9,
    "fading": 1,
}


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())


@pytest.mark.parametrize(
    "stated",
    [
        {"fading": 0.35},
        {"pen": 2},
        {"ink": "pencil", "strength": 0.3},
        {"light": "shadow"},
        {"light": "shine"},
        {"light": "gradient"},
        {"paper": "yellow", "light": "blue"},
    ],
    ids=["fading", "thin pen", "pencil", "shadow", "shine", "gradient", "blue light"],
)
def test_a_digit_stays_whole(stated: dict[str, Any], digit_contract: Contract) -> None:
    """The ten digits come out nearly the same as with a strong pen in even light."""
    # The same page: the light is drawn after the strokes and their place.
    alike = [
        _overlap(
            to_input(page(number, **_PLAIN).image, digit_contract),
            to_input(page(number, **{**_PLAIN, **stated}).image, digit_contract),
        )
        for number in range(10)
    ]

    assert np.median(alike) > 0.7
    assert sum(one > 0.5 for one in alike) >= 9


def test_a_thin_pen_on_ruled_paper_stays_whole(digit_contract: Contract) -> None:
    """Small digits come out nearly as with a wide pen on plain paper."""
    small = {**_PLAIN, "size": 0.15, "strength": 0.8}
    ruled = {**small, "paper": "ruled", "pen": 1}
    alike = [
        _overlap(
            to_input(page(number, **small).image, digit_contract),
            to_input(page(number, **ruled).image, digit_contract),
        )
        for number in range(10, 20)
    ]

    assert min(alike) > 0.5, alike


@pytest.mark.parametrize("number", [4072, 4074, 4477, 5152])
def test_specks_of_sure_ink_become_a_digit(
    number: int, digit_contract: Contract
) -> None:
    """A thin pen near a shine comes out nearly as a wide black one in even light."""
    strong = {"light": "even", "ink": "black", "pen": 6, "strength": 0.9, "fading": 1}
    alike = _overlap(
        to_input(page(number).image, digit_contract),
        to_input(page(number, **strong, blur=0.0).image, digit_contract),
    )

    assert alike > 0.6


def test_a_dot_is_not_enlarged_without_bound() -> None:
    """The close-up of one pixel has no more pixels than that of three digits."""
    ink = np.zeros((60, 60), np.float32)
    ink[30, 30] = 1

    assert strokes._close_up(ink, ink > 0, 1.0).size < 3 * 106 * 106


@pytest.mark.parametrize("number", [17, 38, 64, 92])
def test_two_digits_side_by_side_are_a_doubt(
    number: int, digit_contract: Contract
) -> None:
    """Two digits beside each other are `several`, which explain shows as a stage."""
    image = pair(number)
    found, doubt = prepare(image, digit_contract)
    inputs, stages, shown = explain(image, digit_contract)

    assert doubt is not None
    assert doubt.reason == "several"
    assert shown == doubt
    assert f"several: {doubt.text}" in [stage.decision for stage in stages]
    assert np.array_equal(found, inputs)


def test_ink_like_the_papers_noise_is_a_doubt(digit_contract: Contract) -> None:
    """Ink that is hardly stronger than the noise is doubtful; strong ink is not."""
    dice = np.random.default_rng(0)
    down, across = np.mgrid[0:600, 0:600]
    ring = np.abs(np.hypot(across - 300, down - 300) - 150) < 12
    paper = 200 + dice.normal(0, 20, ring.shape)
    found = []
    for strength in (24, 150):
        pixels = np.clip(paper - strength * ring, 0, 255).astype(np.uint8)
        decoded = Decoded(Image.fromarray(pixels), 1, "")
        found.append(judged_pixels(decoded, digit_contract)[1])

    assert found[0] is not None
    assert found[0].reason == "unsure"
    assert found[1] is None


@pytest.mark.parametrize("number", range(3))
def test_a_plain_page_leaves_no_doubt(number: int, digit_contract: Contract) -> None:
    """A strong pen on plain paper in even light is no doubt."""
    assert prepare(page(number, **_PLAIN).image, digit_contract)[1] is None


@pytest.mark.parametrize("size", [60, 280, 800])
@pytest.mark.parametrize("ink", [0, 255])
def test_a_clear_drawing_needs_no_search(
    size: int, ink: int, digit_contract: Contract
) -> None:
    """Strong ink on even paper is found at once, and framed as the search frames it."""
    down, across = np.mgrid[0:size, 0:size] / size
    ring = np.abs(np.hypot((across - 0.4) * 1.4, down - 0.5) - 0.3) < 0.05
    pixels = np.where(ring, ink, 255 - ink).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    clear, stages, _ = explain(file.getvalue(), digit_contract)
    pixels[:, 0] = np.linspace(ink, 255 - ink, size)  # the frame shows two levels
    searched = pixels_to_input(pixels, digit_contract)

    assert "clear" in [stage.name for stage in stages]
    assert _overlap(clear, searched) > 0.85


def test_pages_are_the_same_each_time() -> None:
    """A page depends on its number only, and its label goes through the ten digits."""
    assert page(3).image == page(3).image
    assert [page(number, frame=640).label for number in range(10)] == list("0123456789")


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (28, 27), (4000, 3)])
@pytest.mark.parametrize("noise", [False, True])
def test_any_size_is_followed(
    size: tuple[int, int], noise: bool, digit_contract: Contract
) -> None:
    """A picture of any size, however thin or noisy, becomes an input."""
    pixels = np.full(size[::-1], 200, np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)

    found = pixels_to_input(np.asarray(Image.fromarray(pixels)), digit_contract)
    assert found.shape == (28, 28, 1)


def test_ink_2_never_changes(digit_contract: Contract) -> None:
    """The inputs of a model published with `ink-2` stay as they were, bit for bit."""
    contract = replace(digit_contract, finder="ink-2")
    found = hashlib.sha256()
    for number in range(4):
        down, across = np.mgrid[0:300, 0:400]
        far = np.abs(np.hypot(across - 200, down - 150) - 60 - 5 * number)
        pixels = np.where(far < 3 + 2 * number, 40, 220 - across // 8).astype(np.uint8)

        found.update(np.rint(pixels_to_input(pixels, contract) * 255).tobytes())

    assert found.hexdigest() == _INK_2


_INK_2 = "87ddfaaedc4a7a8f715b2e4fe80ad09c29b8f52c5f6cb231d8a4fb50fb8cb39f"
