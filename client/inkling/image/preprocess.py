# SPDX-License-Identifier: Apache-2.0
"""Turns an image into the model input, as the model's contract prescribes.

Training, gateway, client and device all call this module, so they prepare a picture in
the same way. The contract holds every choice. `explain` also returns each stage of the
preparation, with the picture at that stage and the decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from inkling.errors import InvalidImage
from inkling.image.budget import Budget
from inkling.image.decoding import Decoded, decode
from inkling.image.finder.strokes import follow
from inkling.image.grey import to_grey
from inkling.image.ink import Note, framed, shown, unlimited
from inkling.image.inputs import scaled
from inkling.image.resizing import keeps_size, resized
from inkling.image.sample import is_framed
from inkling.image.transparency import opaque

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.budget import Spend
    from inkling.image.finder.doubt import Doubt
    from inkling.image.morphology import Values

    Pixels: TypeAlias = npt.NDArray[np.uint8]
    Input: TypeAlias = npt.NDArray[np.float32]

__all__ = [
    "Stage",
    "decoded_to_pixels",
    "explain",
    "is_dark_on_light",
    "judged_pixels",
    "picture_of",
    "pixels_to_input",
    "prepare",
    "to_input",
]

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MIDDLE_GREY = 127
_DARK = bytes(range(_MIDDLE_GREY + 1))
_MODEL_INPUT = "the model gets this picture"


@dataclass(frozen=True)
class Stage:
    """One stage of the preparation.

    Attributes:
        name: The name of the stage, such as `grey` or `model input`.
        decision: The decision at this stage, as a text for people.
        picture: The picture after this stage.
    """

    name: str
    decision: str
    picture: Image.Image


def to_input(image: bytes, contract: Contract, budget: Budget | None = None) -> Input:
    """Return the model input for one encoded image.

    Args:
        image: The bytes of a picture file.
        contract: The contract of the model.
        budget: The limits of the request; the images of one request share one budget.
            None applies the default limits to this image.

    Returns:
        The contract's `input_shape`, float32, pixel * scale + offset.

    Raises:
        InvalidImage: The bytes are damaged, or are no picture.
        UnsupportedMediaType: The bytes are a picture in another format.
        TooLarge: The image exceeds a limit.
    """
    return prepare(image, contract, budget)[0]


def prepare(
    image: bytes, contract: Contract, budget: Budget | None = None
) -> tuple[Input, Doubt | None]:
    """Return the model input for one encoded image, and the finder's doubt about it.

    Arguments, input and errors are those of `to_input`. The doubt is None if there is
    none, and if the contract's finder never doubts.
    """
    budget = budget or Budget()
    decoded = decode(image, contract.min_side, budget)
    pixels, doubt = judged_pixels(decoded, contract, budget)
    return scaled(pixels, contract), doubt


def decoded_to_pixels(
    decoded: Decoded, contract: Contract, budget: Budget | None = None
) -> Pixels | Input:
    """Return the pixels of the model input before scaling.

    Args:
        decoded: The result of `inkling.image.decoding.decode`.
        contract: The contract of the model.
        budget: The limits of the request. None applies no limit.

    Returns:
        The contract's `input_shape`, 0 to 255, uint8, or float32 with fractions where
        the contract resamples without antialiasing; `scaled` makes the input.

    Raises:
        TooLarge: The search for ink takes longer than the request may.
    """
    return judged_pixels(decoded, contract, budget)[0]


def judged_pixels(
    decoded: Decoded, contract: Contract, budget: Budget | None = None
) -> tuple[Pixels | Input, Doubt | None]:
    """Return what `decoded_to_pixels` returns, and the finder's doubt about it."""
    return _prepared(decoded, contract, _unseen, budget.spend if budget else unlimited)


def pixels_to_input(pixels: Pixels, contract: Contract) -> Input:
    """Return the model input for a decoded picture.

    Args:
        pixels: Shape (rows, columns), or (rows, columns, 1 or 3 or 4), uint8, 0 to
            255; one channel is grey, three are RGB, four are RGB and alpha.
        contract: The contract of the model.

    Returns:
        The contract's `input_shape`, float32, pixel * scale + offset.

    Raises:
        InvalidImage: `pixels` has another dtype or shape, or is empty.
    """
    decoded = Decoded(picture_of(pixels), 1, "")
    return scaled(decoded_to_pixels(decoded, contract), contract)


def picture_of(pixels: Pixels) -> Image.Image:
    """Return pixels as a Pillow image.

    Args:
        pixels: An array of a shape that `pixels_to_input` accepts.

    Raises:
        InvalidImage: `pixels` has another dtype or shape, or is empty.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    fits = pixels.ndim >= 2 and pixels.shape[2:] in [(), (3,), (4,)]
    if pixels.dtype != np.uint8 or not fits or not pixels.size:
        raise InvalidImage(
            f"The pixels came as {pixels.dtype} of shape {pixels.shape}; expected "
            "uint8 of shape (rows, columns) or (rows, columns, 1, 3 or 4)."
        )
    return Image.fromarray(pixels)


def explain(
    image: bytes, contract: Contract, budget: Budget | None = None
) -> tuple[Input, list[Stage], Doubt | None]:
    """Return the model input, every stage from the picture to it, and the doubt.

    Arguments, model input and errors are those of `to_input`.

    Raises:
        InvalidImage: The bytes are damaged, or are no picture.
        UnsupportedMediaType: The bytes are a picture in another format.
        TooLarge: The image exceeds a limit.
    """
    stages: list[Stage] = []

    def note(name: str, decision: str, picture: Image.Image | Values | Pixels) -> None:
        stages.append(Stage(name, decision, _as_image(picture)))

    budget = budget or Budget()
    decoded = decode(image, contract.min_side, budget)
    note("decoded", decoded.came_as, decoded.picture)
    pixels, doubt = _prepared(decoded, contract, note, budget.spend)
    return scaled(pixels, contract), stages, doubt


def is_dark_on_light(grey: Image.Image) -> bool:
    """Return whether a picture of mode `L` shows dark ink on light paper.

    The outermost pixels nearly always show paper. If their median is above middle grey
    (127), the paper is light and the ink is dark.
    """
    return _has_light_border(grey.tobytes(), grey.width)


def _has_light_border(pixels: bytes, width: int) -> bool:
    # Counting bytes is fast; NumPy's median takes as long as the model.
    rows, columns = pixels[:width] + pixels[-width:], pixels[::width]
    border = rows + columns + pixels[width - 1 :: width]
    light, half = len(border.translate(None, _DARK)), len(border) // 2
    if light != half:
        return light > half
    # The length is even: the median is the mean of the two values in the middle.
    values = sorted(border)
    return values[half - 1] + values[half] > 2 * _MIDDLE_GREY


def _unseen(name: str, decision: str, picture: Image.Image | Values | Pixels) -> None:
    """Ignore a stage, because the caller asked for no explanation."""


def _prepared(
    decoded: Decoded, contract: Contract, note: Note, spend: Spend
) -> tuple[Pixels | Input, Doubt | None]:
    """Return the pixels of the model input, in its shape, and the finder's doubt."""
    picture = decoded.picture
    if contract.exif and decoded.orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[decoded.orientation])
        decision = f"the file states EXIF orientation {decoded.orientation}"
        note("upright", decision, picture)
    picture = opaque(picture, contract, note)
    fits = picture.size == (contract.width, contract.height) and keeps_size(contract)
    finds = contract.kind == "photo_of_one_object"
    if fits or not finds:
        picture = _coloured(picture, contract, note)
    if fits:
        sample = _light_on_dark(picture, contract, note)
    if finds and not (fits and _stays(sample, contract)):
        picture, doubt = _found(picture, contract, note, spend)
        note("model input", _MODEL_INPUT, picture)
        return np.asarray(picture).reshape(contract.input_shape), doubt
    if fits:
        pixels: Pixels | Input = sample
    else:
        pixels = resized(_inked(picture, contract, note), contract, spend)
    pixels = pixels.reshape(contract.height, contract.width, contract.channels)
    note("model input", _MODEL_INPUT, pixels.astype(np.uint8, copy=False))
    return _arranged(pixels, contract), None


def _found(
    picture: Image.Image, contract: Contract, note: Note, spend: Spend
) -> tuple[Image.Image, Doubt | None]:
    if contract.finder != "ink-3":
        return framed(picture, contract, note, spend), None
    sample, doubt = follow(picture, contract, note, spend)
    if doubt is not None:
        note("doubt", f"{doubt.reason}: {doubt.text}", sample)
    return sample, doubt


def _stays(sample: Pixels, contract: Contract) -> bool:
    """Return whether a picture of the input's size is the model input as it is."""
    return contract.finder not in ("ink-2", "ink-3") or is_framed(sample, contract)


def _arranged(pixels: Pixels | Input, contract: Contract) -> Pixels | Input:
    """Return the pixels with the model's order of channels and axes."""
    if contract.channel_order == "bgr":
        pixels = pixels[:, :, ::-1]
    if contract.layout == "chw":
        pixels = pixels.transpose(2, 0, 1)
    # An engine reads the input's memory row by row.
    return pixels if pixels.flags.c_contiguous else pixels.copy()


def _coloured(picture: Image.Image, contract: Contract, note: Note) -> Image.Image:
    mode = "L" if contract.channels == 1 else "RGB"
    if picture.mode == mode:
        return picture
    if mode == "RGB":
        picture = picture.convert(mode)
        note("colour", "converted to RGB", picture)
        return picture
    picture, projection = to_grey(picture, contract)
    note("grey", f"converted to {projection}", picture)
    return picture


def _inked(picture: Image.Image, contract: Contract, note: Note) -> Image.Image:
    """Return the picture with light ink on dark, where the contract asks for it."""
    if contract.polarity in ("as_is", "light_on_dark"):
        return picture  # the pixels of a large photo are not copied
    return _shown(_light_on_dark(picture, contract, note))


def _light_on_dark(picture: Image.Image, contract: Contract, note: Note) -> Pixels:
    """Return the pixels, shape (rows, columns, channels), with light ink on dark."""
    content = picture.tobytes()
    pixels = np.frombuffer(content, np.uint8)
    pixels = pixels.reshape(picture.height, picture.width, -1)
    dark_ink = contract.polarity == "dark_on_light"
    if contract.polarity == "auto":
        grey = content if picture.mode == "L" else picture.convert("L").tobytes()
        dark_ink = _has_light_border(grey, picture.width)
    if not dark_ink:
        return pixels
    inverted = 255 - pixels
    note("inverted", "dark on light; the model expects light on dark", inverted)
    return inverted


def _as_image(picture: Image.Image | Values | Pixels) -> Image.Image:
    """Return a stage's picture as an image that later stages do not change."""
    if isinstance(picture, Image.Image):
        return picture.copy()
    if picture.dtype == np.uint8:
        return _shown(picture.astype(np.uint8))
    return shown(picture.astype(np.float32))


def _shown(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
