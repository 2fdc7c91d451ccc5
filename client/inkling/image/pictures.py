"""Turns every form of picture that the client accepts into the bytes of a file."""

from __future__ import annotations

import io
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from inkling.errors import InvalidImage
from inkling.image.preprocess import picture_of

if TYPE_CHECKING:
    import numpy.typing as npt

    # A path, encoded bytes, a file opened in binary mode, a Pillow image, or uint8
    # pixels of shape (rows, columns) or (rows, columns, 1, 3 or 4).
    Picture: TypeAlias = (
        str | PathLike[str] | bytes | IO[bytes] | Image.Image | npt.NDArray[np.uint8]
    )

# The Pillow modes that a PNG stores without a change of meaning.
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")

__all__ = ["encoded"]


def encoded(picture: Picture) -> bytes:
    """Return a picture as the bytes of a file.

    Bytes and the content of a file are returned unchanged; a Pillow image and pixels
    become a PNG.

    Args:
        picture: A path, bytes, a file opened in binary mode, a Pillow image, or uint8
            pixels of shape (rows, columns) or (rows, columns, 1, 3 or 4).

    Raises:
        InvalidImage: The picture cannot be read, or has another form.
    """
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if isinstance(picture, str | PathLike):
        try:
            return Path(picture).read_bytes()
        except (OSError, ValueError):
            raise InvalidImage(
                f"{str(picture)[:200]} cannot be read; name a PNG or JPEG file."
            ) from None
    if isinstance(picture, np.ndarray):
        picture = picture_of(picture)
    if isinstance(picture, Image.Image):
        return _png(picture)
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
            "opened in binary mode, a Pillow image or a uint8 array."
        )
    return content


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    if picture.mode not in _MODES:
        raise InvalidImage(
            f"A Pillow image of mode {picture.mode} cannot be sent; convert it to RGB."
        )
    try:
        # The EXIF data holds the orientation, which the pixels do not.
        picture.save(file, "PNG", compress_level=1, exif=picture.getexif())
    except (OSError, ValueError, SyntaxError, AttributeError):
        raise InvalidImage(
            "The Pillow image is empty, or its file is truncated; give a whole image."
        ) from None
    return file.getvalue()
