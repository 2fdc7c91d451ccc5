# SPDX-License-Identifier: Apache-2.0
"""The score below which a given model abstains, from pictures that it knows."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inkling.contract import Contract
from inkling_training.fit.calibration import abstain_below
from inkling_training.preparation.pictures import Pictures
from inkling_training.release.abstention import threshold_on


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Forty pictures of coarse colours, in odd sizes."""
    chance, images = np.random.default_rng(0), []
    for number in range(40):
        coarse = chance.integers(0, 256, (4, 5, 3), np.uint8)
        size = (40 + number, 70 - number)
        file = io.BytesIO()
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
        images.append(file.getvalue())
    return Pictures(tuple(images), None, False, "sha256:none")


def _scored(contract: Contract) -> Any:
    """Return a model whose scores are the shares of red and of other ink, from 0 to 1."""

    def scores(inputs: np.ndarray) -> np.ndarray:
        assert inputs.dtype == np.float32
        assert inputs.shape[1:] == contract.input_shape
        if contract.layout == "chw":
            inputs = inputs.transpose(0, 2, 3, 1)
        pixels = (inputs - np.float32(contract.offset)) / np.float32(contract.scale)
        if contract.channel_order == "bgr":
            pixels = pixels[..., ::-1]
        red = pixels[..., 0].mean(axis=(1, 2)) / 255
        return np.stack([red, 1 - red], axis=1)

    return scores


def test_the_way_of_the_values_does_not_matter(
    pictures: Pictures, colour_contract: Contract
) -> None:
    """Layout, order, scale and offset of the input change the threshold by no digit."""
    scale, offset = (1 / 127.5, 1 / 99, 1 / 64), (-1.0, -0.5, 0.25)
    contracts = [
        colour_contract,
        replace(colour_contract, scale=scale, offset=offset),
        replace(colour_contract, scale=scale, offset=offset, layout="chw"),
        replace(colour_contract, scale=(1.0,), channel_order="bgr"),
    ]

    found = [threshold_on(pictures, one, _scored(one)) for one in contracts]

    assert 0.5 <= found[0] < 0.6
    assert found == pytest.approx([found[0]] * len(found), abs=1.5e-4)


def test_pictures_are_varied(pictures: Pictures, colour_contract: Contract) -> None:
    """Each of few pictures occurs in several versions, up to so many inputs."""
    seen: list[np.ndarray] = []

    def scores(inputs: np.ndarray) -> np.ndarray:
        seen.extend(inputs)
        return np.tile(np.float32([0.2, 0.8]), (len(inputs), 1))

    found = threshold_on(pictures, colour_contract, scores)

    assert found == 0.8
    assert len(seen) == 128
    assert len({one.tobytes() for one in seen}) == 128


def test_a_share_of_one_in_a_hundred_is_unsure() -> None:
    """The threshold is their 1st percentile, and one that a contract can state."""
    assert abstain_below(np.linspace(0, 1, 101)) == 0.01
    assert abstain_below(np.ones(9)) == 0.9999
    assert abstain_below(np.zeros(9)) == 0.0001
