# SPDX-License-Identifier: Apache-2.0
"""Turns every form of picture that the client accepts into the bytes of a file."""

from __future__ import annotations

import io
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageFile

from inkling.errors import InvalidImage
from inkling.image.formats.catalogue import EXPECTED, FORMATS
from inkling.image.formats.containers import orientation_of
from inkling.image.preprocess import picture_of

if TYPE_CHECKING:
    import numpy.typing as npt

    # A path, encoded bytes, a file opened in binary mode, a Pillow image, or pixels of
    # shape (rows, columns) or (rows, columns, 1, 3 or 4); `encoded` has the details.
    Pixels: TypeAlias = npt.NDArray[np.uint8 | np.uint16 | np.bool_]
    Picture: TypeAlias = str | PathLike[str] | bytes | IO[bytes] | Image.Image | Pixels

__all__ = ["encoded"]

# What becomes of each Pillow mode. A PNG stores the modes that become themselves.
_SENT_AS = {
    **{mode: mode for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "La": "LA",
    **dict.fromkeys(("PA", "RGBa"), "RGBA"),
    **dict.fromkeys(("RGBX", "CMYK", "YCbCr", "LAB", "HSV"), "RGB"),
    **dict.fromkeys(("I", "I;16B", "I;16L", "I;16N"), "I;16"),
}
_FILES = frozenset(name for one in FORMATS for name in one.pillow_names)
_ORIENTATION = 0x0112
_BITS_8, _BITS_16 = 0xFF, 0xFFFF


def encoded(picture: Picture) -> bytes:
    """Return a picture as the bytes of a file.

    Bytes and the content of a file are returned unchanged. A Pillow image and an array
    become a PNG with the same pixels and the same transparency; colours of other kinds
    (CMYK, YCbCr, LAB, HSV) become RGB.

    The EXIF orientation is applied to what is still a file: bytes, paths, and an image
    as `Image.open` returned it, even if it was loaded. An image that was made from
    another one (by `rotate`, `transpose`, `ImageOps.exif_transpose`, but also by
    `convert` or `resize`) is taken as it is seen: its EXIF data is left out, so that
    nothing is turned twice. Apply `ImageOps.exif_transpose` before such a conversion.

    Values of 16 bits (`I;16` in each order of bytes, uint16) are from 0 (black) to
    65,535. Mode `I` (32 bits) has 8 bits if its values are at most 255, and 16 bits if
    they are at most 65,535. Values of other ranges, and floats (mode `F`), do not state
    what white is; they are refused with how to convert them.

    Args:
        picture: A path, bytes, a file opened in binary mode, a Pillow image of any
            mode but `F`, or pixels of shape (rows, columns) or (rows, columns, 1, 3 or
            4): uint8 from 0 to 255, uint16 from 0 to 65,535, or bool (True is white).

    Raises:
        InvalidImage: The picture cannot be read, or has another form.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | PathLike):
        try:
            return Path(picture).read_bytes()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise InvalidImage(
                f"{str(picture)[:200]} cannot be read ({why}); name a picture: "
                f"{EXPECTED}."
            ) from None
    if isinstance(picture, np.ndarray):
        picture = _image_of(picture)
    if isinstance(picture, Image.Image):
        return _as_opened(picture) or _png(picture)
    return _content(picture)


def _content(file: object) -> bytes:
    try:
        content = file.read() if hasattr(file, "read") else None
    except (OSError, ValueError):
        raise InvalidImage(
            "The file cannot be read; give a file that is open for reading."
        ) from None
    if not isinstance(content, bytes):
        raise InvalidImage(
            f"The picture came as {type(file).__name__}; give a path, bytes, a file "
            "opened in binary mode, a Pillow image or an array of pixels."
        )
    return content


def _image_of(pixels: npt.NDArray[Any]) -> Image.Image:
    """Return an array as a Pillow image.

    Raises:
        InvalidImage: The array has another type or shape, or is empty.
    """
    if pixels.dtype == np.bool_:
        pixels = pixels * np.uint8(_BITS_8)
    if pixels.dtype.newbyteorder("=") == np.uint16:
        if pixels.ndim != 2 and pixels.shape[2:] != (1,):
            pixels = (pixels >> 8).astype(np.uint8)
        elif pixels.size:
            return Image.fromarray(pixels.astype(np.uint16).reshape(pixels.shape[:2]))
    if pixels.dtype.kind in "fiu" and pixels.dtype != np.uint8 and pixels.size:
        raise _unclear(f"The pixels came as {pixels.dtype}", pixels, "pixels")
    return picture_of(pixels)


def _unclear(what: str, values: npt.NDArray[Any], name: str) -> InvalidImage:
    """Return the error for values that do not state what white is."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        return InvalidImage(
            f"{what} with values that are infinite or no numbers. Replace them, and "
            "scale the others to 0 to 255, as uint8."
        )
    share = values.dtype.kind == "f" and low >= 0 and high <= 1
    white = f"{name} * 255" if share else name
    advice = f"Image.fromarray(np.clip({white}, 0, 255).astype(np.uint8))"
    if not 0 <= low <= high <= _BITS_8:
        advice = (
            f"Image.fromarray((({name} - low) / (high - low) * 255).astype(np.uint8)), "
            "with low and high as the values of black and white"
        )
    return InvalidImage(
        f"{what} with values from {low:g} to {high:g}, which do not state the value of "
        f"white. Scale them to 0 to 255: {advice}."
    )


def _as_opened(picture: Image.Image) -> bytes | None:
    """Return the bytes of a file that Pillow opened and nobody has loaded yet.

    They give the same answer as the path. None for any other image.
    """
    if not isinstance(picture, ImageFile.ImageFile) or picture.format not in _FILES:
        return None
    # A WebP has no tile before it is loaded, and no file afterwards.
    is_loaded = not picture.tile and picture.format != "WEBP"
    if is_loaded or picture.fp is None or picture.tell() != 0:
        return None
    try:
        place = picture.fp.tell()
        picture.fp.seek(0)
        content = picture.fp.read()
        picture.fp.seek(place)
    except (OSError, ValueError):
        return None
    return content


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    try:
        picture.load()
        sent = _sendable(picture)
        options: dict[str, Any] = {"compress_level": 1, "icc_profile": None}
        orientation = _orientation(picture)
        if orientation != 1:
            exif = Image.Exif()
            exif[_ORIENTATION] = orientation
            options["exif"] = exif
        sent.save(file, "PNG", **options)
    except InvalidImage:
        raise
    except (OSError, ValueError, SyntaxError, AttributeError):
        raise InvalidImage(
            "The Pillow image is empty, or its file is truncated; give a whole image."
        ) from None
    return file.getvalue()


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation of an image as it was opened; 1 for any other."""
    exif = picture.info.get("exif")
    if not isinstance(picture, ImageFile.ImageFile) or not isinstance(exif, bytes):
        return 1
    return orientation_of(exif)


def _sendable(picture: Image.Image) -> Image.Image:
    """Return the image in a mode that a PNG stores."""
    mode = _SENT_AS.get(picture.mode)
    if picture.mode == "F":
        values = np.asarray(picture)
        if not values.size:
            raise ValueError("no pixels")
        raise _unclear("The Pillow image has mode F", values, "np.asarray(picture)")
    if mode is None:
        raise InvalidImage(
            f"A Pillow image of mode {picture.mode} cannot be sent; convert it to RGB "
            "and look at it before you send it."
        )
    if mode == picture.mode:
        return picture
    return picture.convert(mode) if mode != "I;16" else _of_16_bits(picture)


def _of_16_bits(picture: Image.Image) -> Image.Image:
    """Return a grey image of 16 or 32 bits in a mode that a PNG stores."""
    values = np.asarray(picture)
    if not values.size:
        raise ValueError("no pixels")
    low, high = int(values.min()), int(values.max())
    if not 0 <= low <= high <= _BITS_16:
        raise _unclear(
            f"The Pillow image has mode {picture.mode}", values, "np.asarray(picture)"
        )
    bits_8 = picture.mode == "I" and high <= _BITS_8
    sent = Image.fromarray(values.astype(np.uint8 if bits_8 else np.uint16))
    transparency = picture.info.get("transparency")
    if isinstance(transparency, int):
        sent.info["transparency"] = transparency
    return sent
