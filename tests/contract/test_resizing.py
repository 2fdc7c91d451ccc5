# SPDX-License-Identifier: Apache-2.0
"""Each way to resize a picture, compared to the bit with the library that it imitates."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from inkling.contract import Contract
from inkling.errors import InvalidRequest
from inkling.image.ink import unlimited
from inkling.image.inputs import check_inputs
from inkling.image.preprocess import explain, pixels_to_input, to_input
from inkling.image.resizing import resized

_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@pytest.fixture(scope="module")
def contract(colour_contract: Contract) -> Contract:
    """A contract that leaves the values as they are."""
    return replace(colour_contract, scale=(1.0,), min_side=8192)


def _pictures(count: int = 60) -> Iterator[tuple[np.ndarray, int, int]]:
    """Yield noise of odd sizes, grey and colour, with the size of a model input."""
    random = np.random.default_rng(11)
    for number in range(count):
        height, width = (int(side) for side in random.integers(1, 400, 2))
        rows, columns = (int(side) for side in random.integers(1, 260, 2))
        if number % 3 == 0:
            rows = columns  # most models have square inputs
        channels = () if number % 4 == 0 else (3,)
        yield (
            random.integers(0, 256, (height, width, *channels), np.uint8),
            rows,
            columns,
        )


def _resized(pixels: np.ndarray, contract: Contract, **values: Any) -> np.ndarray:
    return resized(Image.fromarray(pixels), replace(contract, **values), unlimited)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic"])
def test_tensorflow_without_antialiasing(name: str, contract: Contract) -> None:
    """`tf.image.resize(antialias=False)`: every bit of every float32."""
    for pixels, rows, columns in _pictures():
        found = _resized(
            pixels,
            contract,
            height=rows,
            width=columns,
            resize="stretch",
            filter=name,
            antialias=False,
        )
        whole = pixels.reshape(*pixels.shape[:2], -1)
        wanted = tf.image.resize(whole, (rows, columns), name).numpy()
        assert np.array_equal(found.reshape(wanted.shape), wanted.astype(np.float32))


def opencv_pictures() -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """Yield noise with the size, width first, to which it is scaled."""
    for pixels, rows, columns in _pictures():
        yield pixels, (columns, rows)
        # OpenCV takes halves another way, and keeps a picture of the size as it is.
        yield pixels[: rows // 2 * 2, : columns // 2 * 2], (columns // 2, rows // 2)
        yield pixels, pixels.shape[1::-1]


def test_opencv(contract: Contract) -> None:
    """`cv2.resize`: every pixel, as OpenCV 4.11 and 5.0 made them for this digest."""
    digest = hashlib.sha256()
    for pixels, (columns, rows) in opencv_pictures():
        sides = {"height": rows, "width": columns, "resize": "stretch"}
        found = _resized(pixels, contract, **sides, filter="opencv", antialias=False)
        assert found.dtype == np.uint8
        digest.update(np.ascontiguousarray(found))

    assert (
        digest.hexdigest()
        == "ad449c3ec0ba1e5edd7310aa6c10882f5b13d107a09509ffa270d8382ab2eff6"
    )


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", _FILTERS)
def test_keras_load_img(
    name: str, keep: bool, contract: Contract, tmp_path: Path
) -> None:
    """`keras.utils.load_img` with every filter, stretched or with its proportions."""
    for number, (pixels, rows, columns) in enumerate(_pictures(12)):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).convert("RGB").save(path)
        wanted = keras.utils.load_img(
            path,
            target_size=(rows, columns),
            interpolation=name,
            keep_aspect_ratio=keep,
        )
        found = to_input(
            path.read_bytes(),
            replace(
                contract,
                height=rows,
                width=columns,
                filter=name,
                resize="cover" if keep else "stretch",
                aspect="whole_pixels",
            ),
        )
        assert np.array_equal(found, np.asarray(wanted, np.float32))


@pytest.mark.parametrize("way", ["cover", "fit"])
@pytest.mark.parametrize("size", [(96, 96), (70, 33)])
def test_keras_image_dataset(
    way: str, size: tuple[int, int], contract: Contract, tmp_path: Path
) -> None:
    """`image_dataset_from_directory`, cropped or padded to the proportions."""
    for number, (pixels, _, _) in enumerate(_pictures(24)):
        if min(pixels.shape[:2]) < 20:
            continue  # TensorFlow reduces the short side to nothing, and fails
        path = tmp_path / f"{number:02}.png"
        Image.fromarray(pixels).convert("RGB").save(path)
    dataset = keras.utils.image_dataset_from_directory(
        tmp_path,
        labels=None,
        image_size=size,
        batch_size=1,
        shuffle=False,
        verbose=False,
        crop_to_aspect_ratio=way == "cover",
        pad_to_aspect_ratio=way == "fit",
    )
    like = replace(
        contract,
        height=size[0],
        width=size[1],
        antialias=False,
        resize=way,
        aspect="whole_pixels" if way == "cover" else "floor",
    )
    for path, [wanted] in zip(sorted(tmp_path.iterdir()), dataset, strict=True):
        assert np.array_equal(to_input(path.read_bytes(), like), np.asarray(wanted))


def test_keras_resizing_layer(contract: Contract) -> None:
    """`keras.layers.Resizing(pad_to_aspect_ratio=True)` pads before it scales."""
    for pixels, rows, columns in _pictures(12):
        colours = np.asarray(Image.fromarray(pixels).convert("RGB"))
        layer = keras.layers.Resizing(rows, columns, pad_to_aspect_ratio=True)
        found = _resized(
            colours,
            contract,
            height=rows,
            width=columns,
            antialias=False,
            resize="fit",
            aspect="whole_pixels",
        )
        wanted = np.asarray(layer(colours.astype(np.float32)))
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("name", _FILTERS[1:])
def test_pillow_fit(name: str, contract: Contract) -> None:
    """`PIL.ImageOps.fit`, which Teachable Machine's own example calls."""
    filters = Image.Resampling.__members__
    for pixels, rows, columns in _pictures(24):
        wanted = ImageOps.fit(
            Image.fromarray(pixels), (columns, rows), filters[name.upper()]
        )
        found = _resized(
            pixels,
            contract,
            height=rows,
            width=columns,
            filter=name,
            resize="cover",
            aspect="exact_box",
        )
        assert np.array_equal(found, np.asarray(wanted))


@pytest.mark.parametrize("aspect", ["scaling", "floor"])
@pytest.mark.parametrize("crop", [1.0, 0.875, 0.95, 0.9])
def test_shorter_side_then_centre(crop: float, aspect: str, contract: Contract) -> None:
    """torchvision's, timm's and Hugging Face's way, by their published formulas."""
    for pixels, side, _ in _pictures(24):
        picture = Image.fromarray(pixels)
        shorter = math.floor(side / crop)
        longer = int(shorter * max(picture.size) / min(picture.size))
        width_first = picture.width <= picture.height
        size = (shorter, longer) if width_first else (longer, shorter)
        whole = picture.resize(size, Image.Resampling.BICUBIC)
        round_half = int if aspect == "floor" else round
        left = round_half((size[0] - side) / 2)
        top = round_half((size[1] - side) / 2)
        wanted = whole.crop((left, top, left + side, top + side))
        found = _resized(
            pixels,
            contract,
            height=side,
            width=side,
            filter="bicubic",
            resize="cover",
            aspect=aspect,
            crop=crop,
        )
        assert np.array_equal(found, np.asarray(wanted))


def test_a_picture_of_the_inputs_size_is_cropped_too(contract: Contract) -> None:
    """A crop of less than the whole also applies to a picture of the input's size."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[0] = 255
    whole = replace(contract, resize="cover")

    assert pixels_to_input(pixels, whole).any()
    assert not pixels_to_input(pixels, replace(whole, crop=0.5)).any()


def test_values_by_channel(contract: Contract) -> None:
    """Scale and offset follow the model's order of channels and axes."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., :] = (10, 20, 30)
    caffe = replace(contract, channel_order="bgr", offset=(-103.939, -116.779, -123.68))
    wanted = keras.applications.resnet.preprocess_input(pixels.astype(np.float32))

    assert np.allclose(pixels_to_input(pixels, caffe), wanted, rtol=0, atol=1e-5)
    first = pixels_to_input(pixels, replace(caffe, layout="chw"))
    assert first.shape == (3, 32, 32)
    assert first.flags.c_contiguous
    assert np.array_equal(first.transpose(1, 2, 0), pixels_to_input(pixels, caffe))


def test_bounds_by_channel(contract: Contract) -> None:
    """An input is checked against the range of its channel."""
    caffe = replace(contract, offset=(-100.0, 0.0, 100.0))
    good = pixels_to_input(np.full((32, 32, 3), 255, np.uint8), caffe)[np.newaxis]
    check_inputs(good, caffe)

    with pytest.raises(InvalidRequest, match=r"\[-100"):
        check_inputs(good[..., ::-1], caffe)


def test_explain_shows_fractions_as_pixels(contract: Contract, encode: Any) -> None:
    """The last stage of an explanation shows the model's picture in uint8."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    inputs, stages, _ = explain(encode(pixels), replace(contract, antialias=False))

    shown = np.asarray(stages[-1].picture)
    assert (stages[-1].picture.mode, shown.dtype) == ("RGB", np.uint8)
    assert np.abs(shown - inputs).max() < 1


# Prints the most memory, in MiB, that one of these pictures takes beyond its own.
_LONG_PICTURES = """
import itertools, resource, sys
from dataclasses import replace
from PIL import Image
from inkling.contract import Contract
from inkling.errors import InvalidContract, TooLarge
from inkling.image.budget import Budget
from inkling.image.resizing import resized

contract = Contract.from_json(sys.stdin.read())
sizes = [(65535, 64), (64, 65535), (65535, 1), (8000, 500), (2048, 2048)]
resizes = ["stretch", "cover", "fit"]
aspects = ["scaling", "floor", "whole_pixels", "exact_box"]
filters = [("bilinear", True), ("lanczos", True), ("bilinear", False),
           ("bicubic", False), ("opencv", False)]
done, before = 0, 0
for size, resize, aspect, (filter, antialias) in itertools.product(
    sizes, resizes, aspects, filters
):
    picture = Image.new("RGB", size, (9, 9, 9))
    values = dict(resize=resize, aspect=aspect, filter=filter, antialias=antialias)
    before = before or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        resized(picture, replace(contract, **values), Budget().spend)
        done += 1
    except (InvalidContract, TooLarge):
        continue
print(done, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_long_pictures_take_bounded_memory(contract: Contract) -> None:
    """However long and narrow a picture is, and however it is cut or padded."""
    wide = replace(contract, height=224, width=224)
    command = [sys.executable, "-c", _LONG_PICTURES]
    said = subprocess.run(
        command, input=wide.json, capture_output=True, text=True, check=True
    )

    answered, mib = map(float, said.stdout.split())
    assert answered > 60
    assert mib < 64
