# SPDX-License-Identifier: Apache-2.0
"""Reduces a PNG file to the chunks that make the picture, and reads EXIF data.

The decoder gets only these chunks. In comments, colour profiles and further frames, a
file of a few kilobytes can hide a hundred megabytes, or loops that cost seconds. The
EXIF orientation is the only metadata that Inkling uses.
"""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field

from PIL import Image

from inkling.errors import InvalidImage, TooLarge

__all__ = [
    "DECODER_ERRORS",
    "PNG",
    "Png",
    "damaged",
    "orientation_of",
    "read_png",
    "too_many_parts",
]

PNG = b"\x89PNG\r\n\x1a\n"

# The exceptions that Pillow raises on a damaged file. Pillow's own fuzz tests expect
# most of them.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    MemoryError,
    ValueError,
    NotImplementedError,
    OverflowError,
    EOFError,
    AssertionError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

_HEADER = struct.Struct(">IIBBBBB")
# The depths that a PNG may have, and the samples of a pixel, by colour type (PNG,
# section 11.2.1).
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE_COLOUR = 3
_MAX_PALETTE = 256
_EXIF = b"Exif\x00\x00"
_ORIENTATION = 0x0112
_SHORT = 3
_MAX_ENTRIES = 512


@dataclass
class Png:
    """A PNG file, reduced to the parts that make its first picture.

    Attributes:
        width: Columns, in pixels, 1 or more.
        height: Rows, in pixels, 1 or more.
        depth: Bits of a sample: 1, 2, 4, 8 or 16.
        colour: The colour type: 0 grey, 2 RGB, 3 palette, 4 grey and opacity, 6 RGB and
            opacity.
        interlaced: True if the rows come in the seven passes of Adam7.
        palette: Three bytes per colour; empty if the file has no palette.
        transparency: The content of the chunk `tRNS`; None if the file has none.
        data: The pieces of the compressed pixels.
        orientation: The EXIF orientation, 1 to 8; 1 if the file has none.
        size: Bytes of the file up to the end of the picture.
    """

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    palette: bytes = b""
    transparency: bytes | None = None
    data: list[memoryview] = field(default_factory=list)
    orientation: int = 1
    size: int = 0

    @property
    def pixel_bits(self) -> int:
        """Bits of a pixel."""
        return self.depth * _SAMPLES[self.colour]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row behind the byte that names its filter."""
        return (self.width * self.pixel_bits + 7) // 8


def read_png(image: bytes, max_parts: int) -> Png:
    """Return the parts of a PNG that make its first picture.

    Every chunk that makes the picture must have the right checksum. Other chunks are
    ignored, and so is whatever follows the pixels.

    Raises:
        InvalidImage: The file is damaged: a chunk that makes the picture is cut off,
            contradicts the header or has another checksum.
        TooLarge: The file has more than `max_parts` chunks.
    """
    view, position = memoryview(image), len(PNG)
    if not image.startswith(PNG) or image[position + 4 : position + 8] != b"IHDR":
        raise damaged("PNG")
    png, kind, count = _header(_checked(view, position)), b"IHDR", 0
    while kind != b"IEND" and position + 12 <= len(image):
        length = int.from_bytes(image[position : position + 4], "big")
        kind, end = image[position + 4 : position + 8], position + length + 12
        count += 1
        if count > max_parts:
            raise too_many_parts("PNG", max_parts)
        # A PNG has one header, at the start; a second would replace the size.
        if (kind == b"IHDR") != (count == 1):
            raise damaged("PNG")
        if kind in _TAKEN:
            _TAKEN[kind](png, view, position)
        position = end
    png.size = min(position, len(image))
    if not png.data or (png.colour == _PALETTE_COLOUR and not png.palette):
        raise damaged("PNG")
    return png


def _header(content: memoryview) -> Png:
    if len(content) != _HEADER.size:
        raise damaged("PNG")
    width, height, depth, colour, method, filters, lacing = _HEADER.unpack(content)
    known = depth in _DEPTHS.get(colour, ()) and (method, filters) == (0, 0)
    if not (width and height and known and lacing <= 1):
        raise damaged("PNG")
    return Png(width, height, depth, colour, lacing == 1)


def _take_data(png: Png, view: memoryview, position: int) -> None:
    png.data.append(_checked(view, position))


def _take_palette(png: Png, view: memoryview, position: int) -> None:
    content = bytes(_checked(view, position))
    fits = 3 <= len(content) <= 3 * _MAX_PALETTE and len(content) % 3 == 0
    if png.palette or png.data or not fits:
        raise damaged("PNG")
    png.palette = content


def _take_transparency(png: Png, view: memoryview, position: int) -> None:
    content = bytes(_checked(view, position))
    if len(content) > _MAX_PALETTE:
        raise damaged("PNG")
    if png.transparency is None and not png.data:
        png.transparency = content


def _take_exif(png: Png, view: memoryview, position: int) -> None:
    # Damaged EXIF data does not damage the picture.
    with suppress(InvalidImage):
        png.orientation = orientation_of(bytes(_checked(view, position)))


_TAKEN = {
    b"IDAT": _take_data,
    b"PLTE": _take_palette,
    b"tRNS": _take_transparency,
    b"eXIf": _take_exif,
}


def _checked(view: memoryview, position: int) -> memoryview:
    """Return the content of the chunk at `position`; its checksum must be right."""
    length = int.from_bytes(view[position : position + 4], "big")
    end = position + 8 + length
    checksum = int.from_bytes(view[end : end + 4], "big")
    if end + 4 > len(view) or zlib.crc32(view[position + 4 : end]) != checksum:
        raise damaged("PNG")
    return view[position + 8 : end]


def orientation_of(exif: bytes) -> int:
    """Return the orientation that EXIF data states, 1 to 8; 1 if they state none."""
    tiff = exif.removeprefix(_EXIF)
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        [directory] = struct.unpack_from(order + "I", tiff, 4)
        [entries] = struct.unpack_from(order + "H", tiff, directory)
        for place in range(min(entries, _MAX_ENTRIES)):
            tag, kind, _, value = struct.unpack_from(
                order + "HHIH", tiff, directory + 2 + 12 * place
            )
            if tag == _ORIENTATION and kind == _SHORT:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # damaged EXIF data does not damage the picture
    return 1


def damaged(name: str) -> InvalidImage:
    """Return the error for a damaged or truncated file; `name` is its format."""
    return InvalidImage(
        f"The image starts like a {name} but is damaged or truncated. Send the whole "
        "file, unchanged."
    )


def too_many_parts(name: str, max_parts: int) -> TooLarge:
    """Return the error for a file of more parts than `max_parts`."""
    return TooLarge(
        f"The {name} has more than {max_parts:,} parts. Save it again without its "
        "metadata."
    )
