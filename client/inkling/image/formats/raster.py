# SPDX-License-Identifier: Apache-2.0
"""What the files of all formats but JPEG have in common: a picture in rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL import Image

    from inkling.image.budget import Spend

__all__ = ["Raster"]


class Raster(Protocol):
    """A file whose picture is read from top to bottom."""

    @property
    def name(self) -> str:
        """The name of its format."""

    @property
    def mode(self) -> str:
        """Pillow's name for the pixels of the file."""

    @property
    def width(self) -> int:
        """Columns of the picture, in pixels."""

    @property
    def height(self) -> int:
        """Rows of the picture, in pixels."""

    @property
    def orientation(self) -> int:
        """The EXIF orientation, 1 to 8; 1 if the file has none."""

    @property
    def size(self) -> int:
        """Bytes of the file up to the end of the picture."""

    @property
    def is_clear(self) -> bool:
        """True if the decoded picture may have transparent parts."""

    def held_bytes(self, spend: Spend, /) -> int:
        """Return the memory for what is decoded as a whole, in bytes.

        Args:
            spend: A function that is told the CPU time of every step before it is done.

        Raises:
            InvalidImage: The file is damaged.
            TooLarge: `spend` raised it.
        """

    def least_cost(self) -> int:
        """Return the CPU time, in nanoseconds, that decoding takes at least."""

    def strips(self, multiple: int, spend: Spend) -> Iterator[Image.Image]:
        """Yield the picture from top to bottom, as pictures of its full width.

        All strips but the last have a multiple of `multiple` rows. Their mode is `L`,
        `RGB`, or `RGBA` if the picture may have transparent parts.

        Args:
            multiple: The factor by which the picture is reduced.
            spend: A function that is told the CPU time of every step before it is done.

        Raises:
            InvalidImage: The pixels are damaged or end before the last row.
            TooLarge: `spend` raised it.
        """
