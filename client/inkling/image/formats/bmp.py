# SPDX-License-Identifier: Apache-2.0
"""Reads a BMP some rows at a time; its pixels stand in the file as they are.

The layout is that of Microsoft's BITMAPINFOHEADER, BITMAPV4HEADER and BITMAPV5HEADER,
and of OS/2's BITMAPCOREHEADER. Compressed pixels (RLE, JPEG, PNG) are refused: the
programs that send a BMP write none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from inkling.errors import UnsupportedMediaType
from inkling.image.formats.catalogue import BMP_HEADERS
from inkling.image.formats.containers import damaged

if TYPE_CHECKING:
    from inkling.image.budget import Spend

__all__ = ["Bmp", "read_bmp"]

_FILE_HEADER = 14
_CORE = struct.Struct("<HHHH")
_CORE_SIZE = 12
_INFO = struct.Struct("<iiHHIIiiI")
_RGB, _BITFIELDS, _ALPHA_BITFIELDS = 0, 3, 6
_COMPRESSIONS = {1: "RLE8", 2: "RLE4", 4: "JPEG", 5: "PNG"}
_MASKS_AT = 40
_MASKS, _ALPHA_MASKS = 12, 16
_MAX_PALETTE = 256
# Pillow's names for the bytes of a pixel, by bits and masks of red, green and blue.
_LAYOUTS = {
    (24, None): "BGR",
    (16, None): "BGR;15",
    (32, None): "BGRX",
    (16, (0x7C00, 0x3E0, 0x1F)): "BGR;15",
    (16, (0xF800, 0x7E0, 0x1F)): "BGR;16",
    (32, (0xFF0000, 0xFF00, 0xFF)): "BGRX",
    (32, (0xFF, 0xFF00, 0xFF0000)): "RGBX",
    (32, (0xFF000000, 0xFF0000, 0xFF00)): "XBGR",
    (32, (0xFF00, 0xFF0000, 0xFF000000)): "XRGB",
}
_PALETTES = {1: "P;1", 4: "P;4", 8: "P"}
_STRIP_BYTES = 1 << 18
# CPU time in nanoseconds, measured: to unpack and convert a pixel; per strip.
_CONVERT = {"P": 2.6, "RGB": 4.5, "RGBA": 5.5}
_STRIP = 60_000


@dataclass
class Bmp:
    """A BMP file.

    Attributes:
        view: The bytes of the file.
        width: Columns, in pixels, 1 or more.
        height: Rows, in pixels, 1 or more.
        bits: Bits of a pixel: 1, 4, 8, 16, 24 or 32.
        upwards: True if the first row in the file is the lowest one.
        offset: The place of the pixels.
        layout: Pillow's name for the bytes of a pixel.
        mode: Pillow's name for the pixels: `P`, `RGB` or `RGBA`.
        palette: Three bytes per colour; empty without a palette.
        orientation: Always 1, since a BMP has no EXIF data.
    """

    view: memoryview = field(repr=False)
    width: int
    height: int
    bits: int
    upwards: bool
    offset: int = 0
    layout: str = ""
    mode: str = "P"
    palette: bytes = b""
    orientation: int = 1
    name: str = "BMP"

    @property
    def stride(self) -> int:
        """Bytes of a row, which is filled up to four bytes."""
        return (self.width * self.bits + 31) // 32 * 4

    @property
    def size(self) -> int:
        """Bytes of the file up to the end of the picture."""
        return self.offset + self.stride * self.height

    @property
    def is_clear(self) -> bool:
        """True if the decoded picture may have transparent parts."""
        return self.mode == "RGBA"

    def held_bytes(self, _: Spend) -> int:
        """Return the memory for what is decoded as a whole; a BMP comes row by row."""
        return 0

    def least_cost(self) -> int:
        """Return the CPU time, in nanoseconds, that decoding takes at least."""
        return round(_CONVERT[self.mode] * self.width * self.height)

    def strips(self, multiple: int, spend: Spend) -> Iterator[Image.Image]:
        """Yield the picture from top to bottom, as pictures of its full width.

        Args:
            multiple: All strips but the last have a multiple of this many rows.
            spend: A function that is told the CPU time of every step before it is done.

        Raises:
            TooLarge: `spend` raised it.
        """
        mode = "RGB" if self.mode == "P" else self.mode
        many = multiple * max(1, _STRIP_BYTES // (self.stride * multiple))
        for top in range(0, self.height, many):
            rows = min(many, self.height - top)
            spend(round(_CONVERT[self.mode] * self.width * rows) + _STRIP)
            first = self.height - top - rows if self.upwards else top
            start = self.offset + first * self.stride
            data = self.view[start : start + rows * self.stride]
            ahead = -1 if self.upwards else 1
            strip = Image.frombytes(
                self.mode,
                (self.width, rows),
                data,
                "raw",
                self.layout,
                self.stride,
                ahead,
            )
            if self.palette:
                strip.putpalette(self.palette)
            yield strip if strip.mode == mode else strip.convert(mode)


def read_bmp(image: bytes, max_parts: int) -> Bmp:
    """Return the headers of a BMP.

    Raises:
        InvalidImage: A header contradicts itself, or pixels are missing.
        UnsupportedMediaType: The pixels are compressed, or have masks that no program
            writes.
    """
    del max_parts  # a BMP has no parts that could be many
    size = int.from_bytes(image[_FILE_HEADER : _FILE_HEADER + 4], "little")
    end = _FILE_HEADER + size
    if size not in BMP_HEADERS or end > len(image):
        raise damaged("BMP")
    bmp, compression, colours = _header(image, size)
    bmp.offset = int.from_bytes(image[10:14], "little")
    if compression in _COMPRESSIONS:
        raise _unsupported(f"compressed by {_COMPRESSIONS[compression]}")
    has_masks = compression in (_BITFIELDS, _ALPHA_BITFIELDS)
    known = compression == _RGB or (has_masks and bmp.bits in (16, 32))
    if not (known and bmp.width > 0 and bmp.height > 0):
        raise damaged("BMP")
    if has_masks and size == _MASKS_AT:
        end += _MASKS if compression == _BITFIELDS else _ALPHA_MASKS
    if bmp.bits in _PALETTES:
        _take_palette(bmp, image, end, 3 if size == _CORE_SIZE else 4, colours)
    else:
        _take_masks(bmp, image, size if has_masks else 0, compression)
    if bmp.offset < end or len(image) < bmp.size:
        raise damaged("BMP")
    if bmp.is_clear and not _has_alpha(bmp):
        bmp.mode, bmp.layout = "RGB", bmp.layout.replace("A", "X")
    return bmp


def _header(image: bytes, size: int) -> tuple[Bmp, int, int]:
    """Return the size of the picture, its compression, and its number of colours."""
    view = memoryview(image)
    if size == _CORE_SIZE:
        width, height, _, bits = _CORE.unpack_from(image, _FILE_HEADER + 4)
        return Bmp(view, width, height, bits, True), _RGB, 0
    width, height, _, bits, compression, _, _, _, colours = _INFO.unpack_from(
        image, _FILE_HEADER + 4
    )
    return Bmp(view, width, abs(height), bits, height > 0), compression, colours


def _take_palette(bmp: Bmp, image: bytes, start: int, step: int, colours: int) -> None:
    most = 1 << bmp.bits
    count = min(colours or most, most, (bmp.offset - start) // step)
    table = image[start : start + count * step]
    if count < 1 or len(table) != count * step:
        raise damaged("BMP")
    colour = np.frombuffer(table, np.uint8).reshape(count, step)[:, 2::-1]
    bmp.palette = colour.tobytes().ljust(3 * _MAX_PALETTE, b"\0")
    bmp.layout = _PALETTES[bmp.bits]


def _take_masks(bmp: Bmp, image: bytes, size: int, compression: int) -> None:
    """Take how the colours stand in a pixel; `size` is 0 for a header without masks."""
    masks, alpha = None, 0
    if size:
        start = _FILE_HEADER + _MASKS_AT
        content = image[start : start + _ALPHA_MASKS].ljust(_ALPHA_MASKS, b"\0")
        red, green, blue, alpha = struct.unpack("<4I", content)
        masks = (red, green, blue)
        if (size == _MASKS_AT and compression == _BITFIELDS) or size == 52:
            alpha = 0
    layout = _LAYOUTS.get((bmp.bits, masks))
    if layout is None:
        raise _unsupported(f"of {bmp.bits} bits a pixel in an unusual order")
    bmp.mode, bmp.layout = "RGB", layout
    if alpha and bmp.bits == 32:
        if alpha & sum(masks or ()) or alpha.bit_count() != 8:
            raise _unsupported("of colours that overlap with their opacity")
        bmp.mode, bmp.layout = "RGBA", layout.replace("X", "A")


def _has_alpha(bmp: Bmp) -> bool:
    """Return whether any pixel is not wholly transparent.

    Some programs leave the opacity at 0 and mean an opaque picture; browsers show it.
    """
    pixels = np.frombuffer(bmp.view[bmp.offset : bmp.size], np.uint8)
    return bool(pixels[bmp.layout.index("A") :: 4].any())


def _unsupported(what: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"The BMP is {what}; expected plain pixels. Save it as PNG."
    )
