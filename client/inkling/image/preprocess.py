"""An image -> the model input, under a contract. The only such code in Inkling.

Training, gateway, client and device all come through here, so a picture is prepared
in one way wherever it is classified. Every decision is the contract's; `explain`
shows each stage with the picture at that stage and what was decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from inkling.errors import InvalidImage, InvalidRequest
from inkling.image.decoding import Budget, Decoded, decode
from inkling.image.ink import Note, framed, shown

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.morphology import Values

    Pixels: TypeAlias = npt.NDArray[np.uint8]
    Input: TypeAlias = npt.NDArray[np.float32]

__all__ = [
    "Stage",
    "check_inputs",
    "decoded_to_pixels",
    "explain",
    "is_dark_on_light",
    "picture_of",
    "pixels_to_input",
    "scaled",
    "to_input",
]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
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
# Of the range of inputs: what another order of rounding may add.
_RANGE_SLACK = 1e-3
_ADVICE = (
    "Prepare pictures with inkling.image.preprocess, or send the pictures themselves."
)


@dataclass(frozen=True)
class Stage:
    """A picture on its way to the model, and what was decided there."""

    name: str
    decision: str
    picture: Image.Image


def to_input(image: bytes, contract: Contract, budget: Budget | None = None) -> Input:
    """Return the model input for one encoded image.

    Shape (height, width, channels), float32, pixel * scale + offset. `budget` is what
    the image may cost; the images of one request share one.

    Raises:
        InvalidImage: The bytes are no PNG or JPEG, or a damaged one.
        UnsupportedMediaType: They are a picture in another format.
        TooLarge: A limit is exceeded.
    """
    decoded = decode(image, contract.min_side, budget or Budget())
    return scaled(decoded_to_pixels(decoded, contract), contract)


def decoded_to_pixels(decoded: Decoded, contract: Contract) -> Pixels:
    """Return what `decode` returned as the model sees it, but for `scaled`.

    Shape (height, width, channels), uint8, 0 to 255.
    """
    return _prepared(decoded, contract, _unseen)


def scaled(pixels: Pixels, contract: Contract) -> Input:
    """Return pixel * scale + offset in float32, for one picture or many."""
    # One multiplication and one addition in float32, everywhere.
    product = np.multiply(pixels, np.float32(contract.scale), dtype=np.float32)
    return product + np.float32(contract.offset) if contract.offset else product


def pixels_to_input(pixels: Pixels, contract: Contract) -> Input:
    """Return the model input for a picture that is decoded already.

    Args:
        pixels: Shape (rows, columns), or (rows, columns, 1 or 3 or 4), uint8, 0 to
            255; one channel is grey, three are RGB, four are RGB and opacity.
        contract: What the model expects.

    Returns:
        Shape (height, width, channels), float32, pixel * scale + offset.

    Raises:
        InvalidImage: `pixels` is no such array.
    """
    decoded = Decoded(picture_of(pixels), 1, "")
    return scaled(decoded_to_pixels(decoded, contract), contract)


def picture_of(pixels: Pixels) -> Image.Image:
    """Return pixels as a picture; their shapes are those of `pixels_to_input`.

    Raises:
        InvalidImage: `pixels` is no such array.
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


def check_inputs(inputs: Input, contract: Contract) -> None:
    """Check that inputs are such as this module prepares them under the contract.

    Raises:
        InvalidRequest: Type, shape or range are others, or there is none.
    """
    shape = contract.input_shape
    if inputs.dtype != np.float32 or inputs.ndim != 4 or inputs.shape[1:] != shape:
        raise InvalidRequest(
            f"The model input came as {inputs.dtype} of shape {inputs.shape}; expected "
            f"float32 of shape (n, {', '.join(map(str, shape))}). {_ADVICE}"
        )
    if not len(inputs):
        raise InvalidRequest("The model input has no rows; send at least one.")
    bounds = (contract.offset, 255 * contract.scale + contract.offset)
    slack = _RANGE_SLACK * abs(bounds[1] - bounds[0])
    # A value that is no number fails this comparison too.
    if not (
        inputs.min() >= min(bounds) - slack and inputs.max() <= max(bounds) + slack
    ):
        raise InvalidRequest(
            f"The model input has values outside [{min(bounds):g}, {max(bounds):g}], "
            f"or that are no numbers. {_ADVICE}"
        )


def explain(
    image: bytes, contract: Contract, budget: Budget | None = None
) -> tuple[Input, list[Stage]]:
    """Return what `to_input` returns, and every stage from the decoded picture to it.

    Raises:
        InvalidImage, UnsupportedMediaType, TooLarge: As `to_input`.
    """
    stages: list[Stage] = []

    def note(name: str, decision: str, picture: Image.Image | Values) -> None:
        seen = picture.copy() if isinstance(picture, Image.Image) else shown(picture)
        stages.append(Stage(name, decision, seen))

    decoded = decode(image, contract.min_side, budget or Budget())
    note("decoded", decoded.came_as, decoded.picture)
    return scaled(_prepared(decoded, contract, note), contract), stages


def is_dark_on_light(grey: Image.Image) -> bool:
    """Decide the polarity of a picture by its border.

    The outermost pixels are nearly always paper, whatever was drawn inside: where
    their median is lighter than middle grey, the ink is the darker.
    """
    return _has_light_border(grey.tobytes(), grey.width)


def _has_light_border(pixels: bytes, width: int) -> bool:
    # Bytes, for NumPy's median takes as long as the model does.
    rows, columns = pixels[:width] + pixels[-width:], pixels[::width]
    border = rows + columns + pixels[width - 1 :: width]
    light, half = len(border.translate(None, _DARK)), len(border) // 2
    if light != half:
        return light > half
    # The length is even, and the median between the two in the middle.
    values = sorted(border)
    return values[half - 1] + values[half] > 2 * _MIDDLE_GREY


def _unseen(name: str, decision: str, picture: Image.Image | Values) -> None:
    """Take note of a stage where nobody looks."""


def _prepared(decoded: Decoded, contract: Contract, note: Note) -> Pixels:
    """Return the picture as the model sees it, before scaling: uint8, (h, w, c)."""
    picture = decoded.picture
    if contract.exif and decoded.orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[decoded.orientation])
        note("upright", f"the camera noted orientation {decoded.orientation}", picture)
    picture = _opaque(picture, contract, note)
    fits = picture.size == (contract.width, contract.height)
    if contract.kind == "photo_of_one_object" and not fits:
        picture = framed(picture, contract, note)
    else:
        picture = _coloured(picture, contract, note)
        pixels = _light_on_dark(picture, contract, note)
        if fits:
            picture = _shown(pixels) if note is not _unseen else picture
            note("model input", "what the model sees", picture)
            return pixels.reshape(contract.input_shape)
        picture = _resized(_shown(pixels), contract)
    note("model input", "what the model sees", picture)
    return np.asarray(picture).reshape(contract.input_shape)


def _opaque(picture: Image.Image, contract: Contract, note: Note) -> Image.Image:
    """Lay transparent parts on a ground."""
    if picture.mode != "RGBA":
        return picture
    ground = _ground(picture, contract.alpha)
    flat = Image.new("RGBA", picture.size, ground)
    flat.alpha_composite(picture)
    picture = flat.convert("RGB")
    name = "black" if ground[0] == 0 else "white"
    note("opaque", f"transparent parts laid on {name}", picture)
    return picture


def _ground(picture: Image.Image, alpha: str) -> tuple[int, int, int, int]:
    """Return the colour under transparent parts; `contrast` opposes the opaque ones."""
    if alpha == "contrast":
        pixels = np.asarray(picture.resize((64, 64), Image.Resampling.BOX))
        weights = pixels[:, :, 3].astype(np.float64)
        grey = pixels[:, :, :3].mean(axis=2)
        light = (grey * weights).sum() > _MIDDLE_GREY * weights.sum()
        alpha = "black" if light else "white"
    return (0, 0, 0, 255) if alpha == "black" else (255, 255, 255, 255)


def _coloured(picture: Image.Image, contract: Contract, note: Note) -> Image.Image:
    mode = "L" if contract.channels == 1 else "RGB"
    if picture.mode == mode:
        return picture
    picture = picture.convert(mode)
    note("grey" if mode == "L" else "colour", f"converted to {mode}", picture)
    return picture


def _light_on_dark(picture: Image.Image, contract: Contract, note: Note) -> Pixels:
    """Return the pixels, shape (rows, columns, channels), light ink on dark."""
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
    note(
        "inverted",
        "dark on light; the model expects light on dark",
        _shown(inverted),
    )
    return inverted


def _shown(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _resized(picture: Image.Image, contract: Contract) -> Image.Image:
    """Resample to the input's size; with proportions kept, the rest is padded."""
    size = (contract.width, contract.height)
    resampling = _RESAMPLING[contract.filter]
    if not contract.keep_aspect:
        return picture.resize(size, resampling)
    factor = min(size[0] / picture.width, size[1] / picture.height)
    inner = (
        max(1, round(picture.width * factor)),
        max(1, round(picture.height * factor)),
    )
    pad = (contract.pad,) * len(picture.getbands())
    canvas = Image.new(picture.mode, size, pad if len(pad) > 1 else contract.pad)
    offset = ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)
    canvas.paste(picture.resize(inner, resampling), offset)
    return canvas
