# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from inkling.contract import Contract
from inkling.errors import InvalidImage
from inkling.image.preprocess import (
    explain,
    is_dark_on_light,
    pixels_to_input,
    to_input,
)
from tests.support.machine import within

Encode = Callable[..., bytes]


def _seen(image: bytes, contract: Contract) -> np.ndarray:
    """Return what the model sees as whole grey levels."""
    return np.rint(to_input(image, contract) * 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16"])
def test_every_mode_is_the_same_picture(
    mode: str, digit_contract: Contract, sample: np.ndarray, encode: Encode
) -> None:
    """Black and white pixels arrive as themselves from every mode of PNG."""
    hard = np.where(sample > 127, 255, 0).astype(np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(hard.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(hard).convert(mode.replace("PA", "P"))
    image = encode(picture)

    assert np.array_equal(hard, _seen(image, digit_contract)[..., 0])


def test_sixteen_bits_are_scaled_and_not_clipped(
    digit_contract: Contract, sample: np.ndarray, encode: Encode
) -> None:
    """Pixels of 16 bits are scaled to 8 bits and not clipped."""
    image = encode(Image.fromarray(sample.astype(np.uint16) * 256))

    assert np.array_equal(sample, _seen(image, digit_contract)[..., 0])


def test_cmyk_jpeg_is_read(digit_contract: Contract, encode: Encode) -> None:
    """A JPEG in CMYK is decoded."""
    grey = np.zeros((28, 28), np.uint8)
    grey[4:24, 12:16] = 255
    image = encode(Image.fromarray(grey).convert("CMYK"), "JPEG", quality=100)

    assert np.abs(_seen(image, digit_contract)[..., 0].astype(int) - grey).max() <= 8


def test_palette_with_transparency(
    digit_contract: Contract, sample: np.ndarray, encode: Encode
) -> None:
    """A transparent ground is replaced by the colour that is opposite to the ink."""
    hard = (sample > 127).astype(np.uint8)
    picture = Image.fromarray(hard).convert("P")
    picture.putpalette([9, 9, 9, 0, 0, 0])
    image = encode(picture, transparency=0)

    assert np.array_equal(hard * 255, _seen(image, digit_contract)[..., 0])


def test_the_last_stage_is_the_input(
    digit_contract: Contract, sample: np.ndarray, encode: Encode
) -> None:
    """An explanation ends with exactly what the model gets, and says why at each stage."""
    image = encode(255 - np.kron(sample, np.ones((6, 6), np.uint8)))
    inputs, stages, _ = explain(image, digit_contract)

    last = np.asarray(stages[-1].picture)[..., np.newaxis].astype(np.float32)
    assert np.array_equal(last * np.float32(1 / 255), inputs)
    assert np.array_equal(inputs, to_input(image, digit_contract))
    assert all(stage.decision for stage in stages)
    assert {"decoded", "ink", "writing", "model input"} <= {s.name for s in stages}


def test_colour_goes_through_the_same_code(
    colour_contract: Contract, encode: Encode
) -> None:
    """A colour sample arrives to the bit; another size is resized with its proportions."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
    wide = np.full((20, 40, 3), 200, np.uint8)

    assert np.array_equal(pixels, _seen(encode(pixels), colour_contract))
    seen = _seen(encode(wide), colour_contract)
    assert (seen[8:24] == 200).all()
    assert (seen[:8] == 0).all()
    assert (seen[24:] == 0).all()


def test_grey_pictures_for_a_colour_model(
    colour_contract: Contract, encode: Encode
) -> None:
    """A grey picture fills the three channels alike."""
    pixels = np.arange(1024, dtype=np.uint16).reshape(32, 32).astype(np.uint8)
    seen = _seen(encode(pixels), colour_contract)

    assert all(np.array_equal(pixels, seen[..., channel]) for channel in range(3))


def test_transparency_for_a_colour_model(
    colour_contract: Contract, encode: Encode
) -> None:
    """With `alpha` white, transparency becomes white whatever the colour of the ink."""
    pixels = np.zeros((32, 32, 4), np.uint8)

    assert (_seen(encode(pixels), colour_contract) == 255).all()


@pytest.mark.parametrize("keep", [True, False])
def test_proportions(keep: bool, colour_contract: Contract, encode: Encode) -> None:
    """Stretching or padding is the contract's choice."""
    contract = replace(colour_contract, resize="fit" if keep else "stretch", pad=7)
    seen = _seen(encode(np.full((10, 40, 3), 99, np.uint8)), contract)

    assert ((seen == 7).any(), (seen == 99).all()) == (keep, not keep)


def test_scale_and_offset(digit_contract: Contract, sample: np.ndarray) -> None:
    """Inputs are pixel * scale + offset, in float32."""
    contract = replace(digit_contract, scale=(2 / 255,), offset=(-1.0,))
    inputs = pixels_to_input(sample, contract)

    assert np.float32 == inputs.dtype
    assert (inputs.min(), inputs.max() if sample.max() == 255 else 1.0) == (-1.0, 1.0)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((28, 28), np.float32),
        np.zeros((28,), np.uint8),
        np.zeros((28, 28, 2), np.uint8),
        np.zeros((0, 28), np.uint8),
        np.zeros((1, 28, 28, 1), np.uint8),
    ],
)
def test_arrays_that_are_no_pixels(
    pixels: np.ndarray, digit_contract: Contract
) -> None:
    """Pixels of another type or shape are refused with both named."""
    with pytest.raises(InvalidImage, match="shape"):
        pixels_to_input(pixels, digit_contract)


def test_the_border_decides_the_polarity_of_samples(sample: np.ndarray) -> None:
    """A sample with a light border is dark on light, and the reverse."""
    assert not is_dark_on_light(Image.fromarray(sample))
    assert is_dark_on_light(Image.fromarray(255 - sample))


def test_the_same_bytes_give_the_same_input(
    digit_contract: Contract, sample: np.ndarray, encode: Encode
) -> None:
    """The same bytes give the same input, again and in any order."""
    image = encode(255 - np.kron(sample, np.ones((9, 9), np.uint8)), "JPEG")
    first = to_input(image, digit_contract)

    assert all(np.array_equal(first, to_input(image, digit_contract)) for _ in range(5))


def test_a_phone_photo_costs_little(
    digit_contract: Contract, sample: np.ndarray, encode: Encode
) -> None:
    """Twelve megapixels take a fraction of a second, and the digit is found in them."""
    paper = Image.new("L", (4000, 3000), 200)
    ink = Image.fromarray(sample).resize((700, 700), Image.Resampling.BICUBIC)
    paper.paste(30, (1500, 1000), ink)
    image = encode(paper, "JPEG", quality=90)
    to_input(image, digit_contract)
    started = time.process_time()
    seen = _seen(image, digit_contract)[..., 0]

    within(time.process_time() - started, 1.0)
    overlap = np.minimum(seen, sample).sum() / np.maximum(seen, sample).sum()
    assert overlap > 0.5
