# SPDX-License-Identifier: Apache-2.0
"""Preparations against the libraries that they imitate, where they are installed.

They are no part of the development environment. `pip install --target FOLDER
"transformers<5" keras-hub opencv-python-headless` and PYTHONPATH=FOLDER make these
tests run.
"""

import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inkling.contract import Contract, Source
from inkling.image.preprocess import pixels_to_input, to_input
from inkling_training.preparation.conclusion import (
    Likeness,
    Wishes,
    contract_of,
    preparation,
)
from inkling_training.preparation.ecosystems import read_like
from inkling_training.sources.source import Source as Given

pytestmark = pytest.mark.soak

_TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "int8": 0.25}
_PICTURES = 20


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        pytest.skip(f"{name} cannot be imported, so --like is not compared: {missing}")


def _picture(number: int) -> Image.Image:
    """Return a smooth colour picture of an odd size, upright or lying."""
    chance = np.random.default_rng(number)
    coarse = chance.integers(0, 256, (5, 7, 3), np.uint8)
    size = tuple(int(side) for side in chance.integers(41, 500, 2))
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def _contract(path: Path) -> Contract:
    kind, fields, labels = read_like(path)
    given = Given(
        *("model.keras", "sha256:0", "Keras", None, None, 3, "hwc", "float32"),
        activation="softmax",
        raw=lambda inputs: inputs,
    )
    found, _ = preparation(given, Wishes(), Likeness(kind, fields, labels))
    source = Source("m", "sha256:0", "")
    return contract_of(found, ("a", "b"), "softmax", source, _TOLERANCES)


def _worst(contract: Contract, prepared: Any) -> float:
    """Return the largest difference of an input, as a share of the values' range."""
    worst = 0.0
    for number in range(_PICTURES):
        picture, file = _picture(number), io.BytesIO()
        picture.save(file, "PNG")
        found = to_input(file.getvalue(), contract)
        expected = np.asarray(prepared(picture), np.float32)
        assert found.shape == expected.shape
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst


_PROCESSORS: dict[str, dict[str, Any]] = {
    "ViTImageProcessor": {"size": {"height": 224, "width": 224}},
    "CLIPImageProcessor": {"size": {"shortest_edge": 224}, "crop_size": 224},
    "ConvNextImageProcessor": {"size": {"shortest_edge": 224}, "crop_pct": 0.875},
    "DeiTImageProcessor": {"size": {"height": 256, "width": 256}, "crop_size": 224},
    "EfficientNetImageProcessor": {"size": {"height": 260, "width": 260}},
    "LevitImageProcessor": {"size": {"shortest_edge": 224}, "crop_size": 224},
    "MobileNetV2ImageProcessor": {"size": {"shortest_edge": 256}, "crop_size": 224},
    "PoolFormerImageProcessor": {"size": {"shortest_edge": 224}, "crop_pct": 0.9},
}


@pytest.mark.parametrize("name", _PROCESSORS)
def test_hugging_face(name: str, tmp_path: Path) -> None:
    """Inputs of 20 odd pictures are those of the processor that wrote the file."""
    transformers = _library("transformers")
    processor = getattr(transformers, name)(**_PROCESSORS[name])
    processor.save_pretrained(tmp_path)

    contract = _contract(tmp_path / "preprocessor_config.json")

    def prepared(picture: Image.Image) -> Any:
        found = processor(picture, return_tensors="np")["pixel_values"][0]
        return found.transpose(1, 2, 0)

    assert _worst(contract, prepared) < 1e-6


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"crop_to_aspect_ratio": False},
        {"crop_to_aspect_ratio": False, "pad_to_aspect_ratio": True},
        {"antialias": True},
        {"interpolation": "bicubic"},
    ],
    ids=["default", "stretch", "pad", "antialias", "bicubic"],
)
def test_keras_hub(changes: dict[str, Any], tmp_path: Path) -> None:
    """Inputs of 20 odd pictures are those of the converter that wrote the file."""
    layers = _library("keras_hub").layers
    converter = layers.ResNetImageConverter(
        image_size=(96, 128), scale=[1 / 58.4, 1 / 57.1, 1 / 57.4], offset=-2, **changes
    )
    path = tmp_path / "image_converter.json"
    path.write_text(json.dumps({"config": converter.get_config()}))

    contract = _contract(path)

    def prepared(picture: Image.Image) -> Any:
        return converter(np.asarray(picture, np.float32))

    # Pillow, whose way a contract with antialiasing takes, rounds to whole grey levels.
    assert _worst(contract, prepared) < (2 / 57 if "antialias" in changes else 1e-5)


def test_opencv() -> None:
    """`--filter opencv` gives every pixel of `cv2.resize`, also enlarged and halved."""
    cv2 = _library("cv2")
    for number in range(_PICTURES):
        picture = _picture(number)
        pixels = np.asarray(picture)[
            : picture.height // 2 * 2, : picture.width // 2 * 2
        ]
        half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
        for width, height in ((96, 128), (700, 10), half):
            given = Given(
                *("model.keras", "sha256:0", "Keras", height, width, 3, "hwc"),
                "float32",
                activation="softmax",
                raw=lambda inputs: inputs,
            )
            wishes = Wishes(values="bytes", filter="opencv")
            found, _ = preparation(given, wishes, Likeness())
            contract = contract_of(
                *(found, ("a", "b"), "softmax", Source("m", "sha256:0", "")),
                _TOLERANCES,
            )
            wanted = cv2.resize(pixels, (width, height))
            assert np.array_equal(pixels_to_input(pixels, contract), wanted)
