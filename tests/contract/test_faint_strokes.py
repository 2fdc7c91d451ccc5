# SPDX-License-Identifier: Apache-2.0
"""Thin and faint strokes, shadows and shine do not change a digit (finder `ink-3`)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inkling.contract import Contract
from inkling.image.preprocess import pixels_to_input, to_input
from tests.support.pages import page

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
