# SPDX-License-Identifier: Apache-2.0
"""Golden pictures are published with a model, so that large ones are scaled down."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags, Image

from inkling.contract import Contract
from inkling.image.budget import Budget
from inkling.image.decoding import decode
from inkling.image.preprocess import to_input
from inkling_training.preparation.pictures import Pictures

_WIDTH, _HEIGHT = 900, 500
_TURNED = 6


def _photo(mode: str) -> Image.Image:
    """Return a gradient with noise, whose left third is transparent in `RGBA`."""
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    pixels = np.empty((_HEIGHT, _WIDTH, 4), np.uint8)
    pixels[..., 0] = 240 * rows // _HEIGHT
    pixels[..., 1] = 240 * columns // _WIDTH
    pixels[..., 2] = 120
    noise = np.random.default_rng(1).integers(0, 12, pixels.shape, np.uint8)
    pixels[..., :3] += noise[..., :3]
    pixels[..., 3] = np.where(columns < _WIDTH // 3, 0, 255)
    return Image.fromarray(pixels).convert(mode)


def _file(picture: Image.Image, kind: str) -> bytes:
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = _TURNED
    picture.save(file, kind, exif=exif, quality=100, lossless=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGBA", "PNG"), ("RGB", "PNG"), ("L", "PNG"), ("RGB", "JPEG"), ("RGBA", "WEBP")],
)
def test_a_scaled_golden_picture_gives_the_same_input(
    mode: str, kind: str, colour_contract: Contract
) -> None:
    """Whatever a contract depends on is still there: opacity, turn, proportions."""
    image = _file(_photo(mode), kind)
    assert len(image) > 200_000

    [small] = Pictures((image,), None, False, "").golden()

    assert len(small) < 200_000
    found = decode(small, 8192, Budget())
    assert (found.picture.mode, found.orientation) == (mode, _TURNED)
    for exif in (True, False):
        for alpha in ("dropped", "white", "black"):
            contract = replace(colour_contract, exif=exif, alpha=alpha)
            near = to_input(small, contract) - to_input(image, contract)
            assert np.abs(near).max() < 0.03 * 255 * contract.scale[0]
