"""The forms in which people have pictures, as the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from inkling.errors import InklingError, InvalidImage
from inkling.image.preprocess import picture_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.types import Prediction

    # A path, encoded bytes, a file that is open for reading bytes, a Pillow picture,
    # or uint8 pixels of shape (rows, columns) or (rows, columns, 1, 3 or 4).
    Picture: TypeAlias = (
        str | PathLike[str] | bytes | IO[bytes] | Image.Image | npt.NDArray[np.uint8]
    )

# What a PNG holds, and means what it meant.
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")

__all__ = ["encoded", "raising"]


def encoded(picture: Picture) -> bytes:
    """Return a picture as the bytes of a PNG or JPEG file; bytes are taken as they are.

    Raises:
        InvalidImage: It cannot be read, or is no picture of a kind listed above.
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


def raising(outcomes: Iterable[Prediction | InklingError]) -> Iterator[Prediction]:
    """Yield the predictions up to the first error, and raise that."""
    for outcome in outcomes:
        if isinstance(outcome, InklingError):
            raise outcome
        yield outcome


def _content(file: object) -> bytes:
    try:
        content = file.read() if hasattr(file, "read") else None
    except (OSError, ValueError):
        raise InvalidImage("The file cannot be read; is it open?") from None
    if not isinstance(content, bytes):
        raise InvalidImage(
            f"A {type(file).__name__} is no picture; give a path, bytes, a file opened "
            "in binary mode, a Pillow image or a uint8 array."
        )
    return content


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    if picture.mode not in _MODES:
        raise InvalidImage(
            f"A Pillow image of mode {picture.mode} cannot be sent; convert it to RGB."
        )
    try:
        # The orientation that the camera noted goes along with the pixels.
        picture.save(file, "PNG", compress_level=1, exif=picture.getexif())
    except (OSError, ValueError, SyntaxError, AttributeError):
        raise InvalidImage(
            "The Pillow image cannot be read to its end, or has no pixels."
        ) from None
    return file.getvalue()
