# SPDX-License-Identifier: Apache-2.0
"""Brings a picture to the size of the model input, as the contract's author did.

Libraries differ in the part of a picture that they keep, in the rounding of that part,
and in the resampling. The contract names all three, and this module reproduces each
library to the bit: Pillow, `tf.image.resize`, OpenCV, Keras, torchvision, timm, Hugging
Face.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.budget import Spend

    Values: TypeAlias = npt.NDArray[np.float32]
    Shares: TypeAlias = npt.NDArray[np.int32]
    Resized: TypeAlias = npt.NDArray[np.uint8] | Values

__all__ = ["keeps_size", "resized"]

Size: TypeAlias = tuple[int, int]
Box: TypeAlias = tuple[float, float, float, float]
Resampler: TypeAlias = Callable[[Image.Image, Size], Image.Image]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
_CUBIC_STEPS = 1024
_OPENCV_ONE = 2048
# CPU time in nanoseconds, measured: with antialiasing, of a colour pixel that is read,
# by filter, and of one that is written; without, of one that is written.
_READ = {
    "nearest": 1,
    "box": 6,
    "bilinear": 10,
    "hamming": 12,
    "bicubic": 16,
    "lanczos": 21,
}
_WRITTEN = 20
_WRITTEN_PLAIN = {"nearest": 30, "bilinear": 260, "bicubic": 850, "opencv": 260}
# Of a pixel of a padded picture; high enough to bound the memory that padding a long,
# narrow picture takes.
_PADDED = 24


def keeps_size(contract: Contract) -> bool:
    """Return whether a picture of the input's size is left as it is."""
    return contract.crop == 1


def resized(
    picture: Image.Image, contract: Contract, spend: Spend
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """Return the picture in the size of the model input.

    Args:
        picture: Mode `L` or `RGB`.
        contract: The contract of the model.
        spend: Is told the CPU time of each step before the step takes memory: a long,
            narrow picture may be scaled to far more pixels than it has.

    Returns:
        Shape (height, width) or (height, width, 3), 0 to 255; uint8 with antialiasing
        and for `opencv`, else float32, because `tf.image.resize` does not round.

    Raises:
        TooLarge: A step takes longer than `spend` allows.
    """
    if contract.resize == "stretch" and contract.crop == 1:
        return _scaled(picture, (contract.width, contract.height), contract, spend)
    if contract.resize != "fit":
        return _covering(picture, contract, spend)
    return _fitting(picture, contract, spend)


def _covering(
    picture: Image.Image, contract: Contract, spend: Spend
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    size = (contract.width, contract.height)
    if contract.aspect in ("whole_pixels", "exact_box"):
        whole = contract.aspect == "whole_pixels"
        box = (_whole_box if whole else _exact_box)(picture.size, size)
        if contract.antialias:
            spend(_cost(picture.size, size, contract))
            # At the borders of the box, Pillow's filters reach beyond it.
            return np.asarray(picture.resize(size, _RESAMPLING[contract.filter], box))
        return _scaled(picture.crop(box), size, contract, spend)
    whole_size = _cover_size(picture.size, contract)
    scaled = _scaled(picture, whole_size, contract, spend)
    return _centre(scaled, size, math.floor if contract.aspect == "floor" else round)


def _fitting(
    picture: Image.Image, contract: Contract, spend: Spend
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    size = (contract.width, contract.height)
    if contract.aspect == "whole_pixels":
        left, top = _margins(picture.size, size)
        whole = (picture.width + 2 * left, picture.height + 2 * top)
        spend(_cost(whole, size, contract) + _PADDED * math.prod(whole))
        pixels = np.asarray(picture)
        rows, columns = (top, top), (left, left)
        margins = (rows, columns, (0, 0))[: pixels.ndim]
        padded = np.pad(pixels, margins, constant_values=contract.pad)
        return _resampled(padded, size, contract)
    inner, (left, top) = _fit_size(picture.size, contract)
    found = _scaled(picture, inner, contract, spend)
    filled = np.full((*size[::-1], *found.shape[2:]), contract.pad, found.dtype)
    filled[top : top + inner[1], left : left + inner[0]] = found
    return filled


def _fit_size(size: Size, contract: Contract) -> tuple[Size, Size]:
    """Return the size of the scaled picture, and its place in the input.

    `floor` is `tf.image.resize_with_pad`, with its float32 arithmetic; also
    `image_dataset_from_directory(pad_to_aspect_ratio=True)` of Keras 3.
    """
    target = (contract.width, contract.height)
    if contract.aspect == "floor":
        sides, wanted = np.array(size, np.float32), np.array(target, np.float32)
        exact = sides / (sides / wanted).max()
        width, height = np.maximum(np.floor(exact), 1).astype(int).tolist()
        left, top = np.floor((wanted - exact) / 2).astype(int).tolist()
        return (width, height), (left, top)
    factor = min(target[0] / size[0], target[1] / size[1])
    width, height = (max(1, round(side * factor)) for side in size)
    return (width, height), ((target[0] - width) // 2, (target[1] - height) // 2)


def _whole_box(size: Size, target: Size) -> Box:
    """Return the centre with the target's proportions, as Keras cuts it.

    This is `load_img(keep_aspect_ratio=True)` and `crop_to_aspect_ratio` of Keras 3
    (keras/src/utils/image_utils.py).
    """
    width, height = size
    kept_height = max(min(height, width * target[1] // target[0]), 1)
    kept_width = max(min(width, height * target[0] // target[1]), 1)
    top, left = (height - kept_height) // 2, (width - kept_width) // 2
    return left, top, left + kept_width, top + kept_height


def _exact_box(size: Size, target: Size) -> Box:
    """Return the centre with the target's proportions, as `PIL.ImageOps.fit` does."""
    width, height = size
    ratio, wanted = width / height, target[0] / target[1]
    kept_width, kept_height = float(width), float(height)
    if ratio > wanted:
        kept_width = wanted * height
    elif ratio < wanted:
        kept_height = width / wanted
    left, top = (width - kept_width) * 0.5, (height - kept_height) * 0.5
    return left, top, left + kept_width, top + kept_height


def _cover_size(size: Size, contract: Contract) -> Size:
    """Return the size to which a picture is scaled before its centre is cut out.

    torchvision and Hugging Face scale the shorter side to a number of pixels and cut
    the longer side's fraction off (torchvision.transforms.functional,
    `_compute_resized_output_size`). timm does so for square inputs; for other inputs it
    rounds both sides (timm.data.transforms, `ResizeKeepRatio`).
    """
    width, height = size
    wanted_width = math.floor(contract.width / contract.crop)
    wanted_height = math.floor(contract.height / contract.crop)
    if contract.resize == "stretch":
        return wanted_width, wanted_height
    if wanted_width != wanted_height:
        factor = min(width / wanted_width, height / wanted_height)
        return round(width / factor), round(height / factor)
    shorter, longer = min(size), max(size)
    scaled = int(wanted_width * longer / shorter)
    return (wanted_width, scaled) if width <= height else (scaled, wanted_width)


def _centre(
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
    size: Size,
    rounded: Callable[[float], int],
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    top = rounded((pixels.shape[0] - size[1]) / 2)
    left = rounded((pixels.shape[1] - size[0]) / 2)
    return pixels[top : top + size[1], left : left + size[0]]


def _margins(size: Size, target: Size) -> Size:
    """Return the columns and rows on each side that give the target's proportions.

    This is `pad_to_aspect_ratio` of `keras.layers.Resizing`
    (keras/src/backend/tensorflow/image.py).
    """
    width, height = size
    # Keras pads both sides alike, so that the proportions may be one pixel off.
    left = max(0, height * target[0] // target[1] - width) // 2
    top = max(0, width * target[1] // target[0] - height) // 2
    return left, top


def _cost(size: Size, target: Size, contract: Contract) -> int:
    """Return the CPU time, in nanoseconds, that resampling takes at most."""
    read, written = math.prod(size), math.prod(target)
    if contract.antialias:
        return _READ[contract.filter] * read + _WRITTEN * written
    return read + _WRITTEN_PLAIN[contract.filter] * written


def _scaled(
    picture: Image.Image, size: Size, contract: Contract, spend: Spend
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    spend(_cost(picture.size, size, contract))
    return _resampled(picture, size, contract)


def _resampled(
    picture: Image.Image | npt.NDArray[np.uint8], size: Size, contract: Contract
) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    if not contract.antialias:
        return _WITHOUT_ANTIALIASING[contract.filter](np.asarray(picture), size)
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(picture)
    return np.asarray(picture.resize(size, _RESAMPLING[contract.filter]))


def _nearest(pixels: npt.NDArray[np.uint8], size: Size) -> Values:
    rows = _nearest_places(pixels.shape[0], size[1])
    columns = _nearest_places(pixels.shape[1], size[0])
    return pixels[rows[:, np.newaxis], columns].astype(np.float32)


def _nearest_places(count: int, target: int) -> npt.NDArray[np.intp]:
    """Return the pixel for each target (TensorFlow, resize_nearest_neighbor_op.cc)."""
    scale = np.float32(count) / np.float32(target)
    places = np.floor((np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale)
    found: npt.NDArray[np.intp] = np.minimum(places.astype(np.intp), count - 1)
    return found


def _bilinear(pixels: npt.NDArray[np.uint8], size: Size) -> Values:
    """Interpolate as TensorFlow's resize_bilinear_op.cc, in its order of operations."""
    above, below, down = _bilinear_places(pixels.shape[0], size[1])
    left, right, across = _bilinear_places(pixels.shape[1], size[0])
    tail = (1,) * (pixels.ndim - 2)
    down, across = down.reshape(-1, 1, *tail), across.reshape(-1, *tail)

    # Whole rows of a long picture would take far more memory than the result.
    def row(places: npt.NDArray[np.intp]) -> Values:
        start = pixels[places[:, np.newaxis], left].astype(np.float32)
        end = pixels[places[:, np.newaxis], right].astype(np.float32)
        return start + (end - start) * across

    top = row(above)
    found: Values = top + (row(below) - top) * down
    return found


def _bilinear_places(
    count: int, target: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Values]:
    """Return the two neighbours of each target pixel and the share of the second."""
    scale = np.float32(count) / np.float32(target)
    half = np.float32(0.5)
    at = (np.arange(target, dtype=np.float32) + half) * scale - half
    below = np.floor(at)
    first = np.maximum(below.astype(np.intp), 0)
    second = np.minimum(np.ceil(at).astype(np.intp), count - 1)
    return first, second, at - below


def _opencv(pixels: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    """Interpolate as `cv2.resize` does, in whole numbers (OpenCV 4, resize.cpp).

    A half of the size is the rounded mean of four pixels.
    """
    height, width = pixels.shape[:2]
    if (width, height) == (2 * size[0], 2 * size[1]):
        four = np.stack([pixels[y::2, x::2] for y in (0, 1) for x in (0, 1)])
        total: Shares = four.sum(axis=0, dtype=np.int32)
        return ((total + 2) >> 2).astype(np.uint8)
    above, below, down = _opencv_places(height, size[1])
    left, right, across = _opencv_places(width, size[0])
    # At the left and the right border OpenCV has one neighbour, above and below two.
    across[:, left == right] = np.array([[_OPENCV_ONE], [0]])
    tail = (1,) * (pixels.ndim - 2)
    down, across = down.reshape(2, -1, 1, *tail), across.reshape(2, -1, *tail)

    def row(places: npt.NDArray[np.intp], share: Shares) -> Shares:
        start = pixels[places[:, np.newaxis], left] * across[0]
        both: Shares = start + pixels[places[:, np.newaxis], right] * across[1]
        return ((both >> 4) * share) >> 16

    total = row(above, down[0]) + row(below, down[1])
    return ((total + 2) >> 2).astype(np.uint8)


def _opencv_places(
    count: int, target: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Shares]:
    """Return the two neighbours of each target pixel, and their shares of 2,048."""
    at = ((np.arange(target) + 0.5) * (count / target) - 0.5).astype(np.float32)
    below = np.floor(at)
    shares = np.stack([np.float32(1) - (at - below), at - below])
    first = below.astype(np.intp)
    return (
        np.clip(first, 0, count - 1),
        np.clip(first + 1, 0, count - 1),
        np.rint(shares * np.float32(_OPENCV_ONE)).astype(np.int32),
    )


def _bicubic(pixels: npt.NDArray[np.uint8], size: Size) -> Values:
    """Interpolate as TensorFlow's resize_bicubic_op.cc, in its order of operations."""
    rows, row_shares = _bicubic_places(pixels.shape[0], size[1])
    columns, column_shares = _bicubic_places(pixels.shape[1], size[0])
    tail = (1,) * (pixels.ndim - 2)
    down = [share.reshape(-1, 1, *tail) for share in row_shares]
    across = [share.reshape(-1, *tail) for share in column_shares]

    def column(places: npt.NDArray[np.intp]) -> Values:
        chosen = [pixels[row[:, np.newaxis], places].astype(np.float32) for row in rows]
        return _weighted(chosen, down)

    return _weighted([column(places) for places in columns], across)


def _weighted(values: list[Values], shares: list[Values]) -> Values:
    total = values[0] * shares[0]
    for value, share in zip(values[1:], shares[1:], strict=True):
        total += value * share
    return total


def _bicubic_places(
    count: int, target: int
) -> tuple[list[npt.NDArray[np.intp]], list[Values]]:
    """Return the four neighbours of each target pixel, and their shares.

    The kernel is Keys' with a = -0.5, from a table of 1,024 steps; neighbours beyond
    the border have no share.
    """
    scale, half = np.float32(count) / np.float32(target), np.float32(0.5)
    at = (np.arange(target, dtype=np.float32) + half) * scale - half
    below = np.floor(at)
    step = np.rint((at - below) * np.float32(_CUBIC_STEPS)).astype(np.intp)
    first = below.astype(np.intp)
    near, far = _cubic_tables()
    rest = _CUBIC_STEPS - step
    shares = [far[step], near[step], near[rest], far[rest]]
    places = [np.clip(first + shift, 0, count - 1) for shift in (-1, 0, 1, 2)]
    for place, shift, share in zip(places, (-1, 0, 1, 2), shares, strict=True):
        share[place != first + shift] = 0
    one = np.float32(1) / (shares[0] + shares[1] + shares[2] + shares[3])
    return places, [share * one for share in shares]


@cache
def _cubic_tables() -> tuple[Values, Values]:
    """Return the kernel at distances from 0 to 1, and from 1 to 2."""
    a = -0.5
    x = np.arange(_CUBIC_STEPS + 1) / _CUBIC_STEPS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    x = x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return near.astype(np.float32), far.astype(np.float32)


_WITHOUT_ANTIALIASING: dict[str, Callable[..., Resized]] = {
    "opencv": _opencv,
    "nearest": _nearest,
    "bilinear": _bilinear,
    "bicubic": _bicubic,
}
