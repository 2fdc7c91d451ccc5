# SPDX-License-Identifier: Apache-2.0
"""Reads the first frame of a GIF (version 89a), the picture that a still viewer shows.

Pillow's decoder gets the compressed pixels of this frame only; comments, further frames
and the blocks of programs do not reach it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image

from inkling.image.formats.canvas import Canvas
from inkling.image.formats.containers import damaged, too_many_parts

if TYPE_CHECKING:
    from inkling.image.budget import Spend

__all__ = ["Gif", "read_gif"]

_SCREEN = struct.Struct("<6xHHBBB")
_FRAME = struct.Struct("<xHHHHB")
_EXTENSION, _IMAGE, _CONTROL = 0x21, 0x2C, 0xF9
_HAS_PALETTE, _INTERLACED, _PALETTE_BITS = 0x80, 0x40, 0x07
_HAS_TRANSPARENCY = 0x01
_COLOURS = 256
_MAX_CODE_BITS = 8
# The pixels may come in blocks of one to 255 bytes; in small ones they cost too much.
_LEAST_BLOCK = 32
# CPU time in nanoseconds, measured: to decode a pixel; a byte of the file, and at most
# so much more per pixel; to read the length of a block; to convert a pixel, by the mode
# that it gets; per picture.
_PIXEL, _BYTE, _CODES, _BLOCK = 4.0, 12.0, 8.0, 150
_CONVERT = {"RGB": 2.0, "RGBA": 4.0}
_PICTURE = 100_000


@dataclass
class Gif:
    """A GIF file, reduced to its first frame.

    Attributes:
        canvas: The size of the picture, and the place of the frame.
        palette: Four bytes per colour: red, green, blue and opacity; 256 colours.
        is_clear: True if pixels may be transparent.
        interlaced: True if the rows come in four passes.
        code_bits: The size of the first codes (LZW), 1 to 8 bits.
        data: The compressed pixels, in blocks.
        blocks: The number of these blocks.
        size: Bytes of the file up to the end of the frame.
        orientation: Always 1, since a GIF has no EXIF data.
    """

    canvas: Canvas
    palette: bytes
    is_clear: bool
    interlaced: bool
    code_bits: int
    data: memoryview = field(repr=False)
    blocks: int
    size: int
    orientation: int = 1
    name: str = "GIF"
    mode: str = "P"

    @property
    def width(self) -> int:
        """Columns of the picture, in pixels."""
        return self.canvas.width

    @property
    def height(self) -> int:
        """Rows of the picture, in pixels."""
        return self.canvas.height

    def held_bytes(self, _: Spend) -> int:
        """Return the memory for what is decoded as a whole: a byte per pixel."""
        return self.canvas.columns * self.canvas.rows + 2 * len(self.data)

    def least_cost(self) -> int:
        """Return the CPU time, in nanoseconds, that decoding takes."""
        pixels = self.canvas.columns * self.canvas.rows
        convert = _CONVERT["RGBA" if self.is_clear else "RGB"]
        codes = min(_BYTE * len(self.data), _CODES * pixels)
        total = (_PIXEL + convert) * pixels + codes + _BLOCK * self.blocks
        return round(total + self.canvas.cost()) + _PICTURE

    def strips(self, multiple: int, spend: Spend) -> Iterator[Image.Image]:
        """Yield the picture from top to bottom, as pictures of its full width.

        Args:
            multiple: All strips but the last have a multiple of this many rows.
            spend: A function that is told the CPU time before it is used.

        Raises:
            InvalidImage: The pixels are damaged or end before the last row.
            TooLarge: `spend` raised it.
        """
        spend(self.least_cost())
        size = (self.canvas.columns, self.canvas.rows)
        options = (self.code_bits, int(self.interlaced))
        try:
            # It fails if the codes end before the last row.
            frame = Image.frombytes("P", size, self.data, "gif", *options)
        except ValueError:
            raise damaged("GIF") from None
        frame.putpalette(self.palette, "RGBA")
        mode = "RGBA" if self.is_clear else "RGB"
        yield from self.canvas.strips(frame, multiple, lambda rows: rows.convert(mode))


def read_gif(image: bytes, max_parts: int) -> Gif:
    """Return the first frame of a GIF.

    Raises:
        InvalidImage: The file ends before its first frame, or the frame has no colours.
        TooLarge: The file has more than `max_parts` blocks before its first frame, or
            the frame comes in blocks that are too small.
    """
    if len(image) < _SCREEN.size:
        raise damaged("GIF")
    width, height, flags, _, _ = _SCREEN.unpack_from(image)
    palette, position = _palette(image, _SCREEN.size, flags)
    transparent, count = -1, 0
    while image[position : position + 1] == bytes((_EXTENSION,)):
        if image[position + 1 : position + 2] == bytes((_CONTROL,)):
            transparent = _transparent(image, position + 3)
        position, blocks = _blocks_end(image, position + 2, max_parts - count)
        count += blocks
    if image[position : position + 1] != bytes((_IMAGE,)):
        raise damaged("GIF")
    return _frame(image, position, (width, height), (palette, transparent), max_parts)


def _frame(
    image: bytes,
    position: int,
    screen: tuple[int, int],
    colours: tuple[bytes, int],
    max_parts: int,
) -> Gif:
    if len(image) < position + _FRAME.size:
        raise damaged("GIF")
    left, top, columns, rows, flags = _FRAME.unpack_from(image, position)
    palette, start = _palette(image, position + _FRAME.size, flags)
    palette, transparent = palette or colours[0], colours[1]
    code_bits = int.from_bytes(image[start : start + 1], "big")
    if not (columns and rows and palette and 1 <= code_bits <= _MAX_CODE_BITS):
        raise damaged("GIF")
    # Browsers widen the screen for a frame that lies beyond its edge, too.
    canvas = Canvas(
        max(screen[0], left + columns),
        max(screen[1], top + rows),
        left,
        top,
        columns,
        rows,
    )
    most = max_parts + (len(image) - start) // _LEAST_BLOCK
    end, blocks = _blocks_end(image, start + 1, most)
    return Gif(
        canvas,
        _with_opacity(palette, transparent),
        transparent >= 0 or not canvas.is_filled,
        bool(flags & _INTERLACED),
        code_bits,
        memoryview(image)[start + 1 : end],
        blocks,
        end,
    )


def _palette(image: bytes, start: int, flags: int) -> tuple[bytes, int]:
    """Return the colours that stand at a place, if any, and the place behind them."""
    if not flags & _HAS_PALETTE:
        return b"", start
    end = start + 3 * (2 << (flags & _PALETTE_BITS))
    return image[start:end], end


def _transparent(image: bytes, start: int) -> int:
    """Return the transparent colour in a graphic control; -1 if there is none."""
    content = image[start : start + 4]
    return content[3] if len(content) == 4 and content[0] & _HAS_TRANSPARENCY else -1


def _blocks_end(image: bytes, position: int, most: int) -> tuple[int, int]:
    """Return the place behind the blocks that start at a place, and their number.

    Raises:
        TooLarge: There are more than `most` blocks.
    """
    count = 0
    while position < len(image) and image[position]:
        position += image[position] + 1
        count += 1
        if count > most:
            raise too_many_parts("GIF", most)
    return min(position + 1, len(image)), count + 1


def _with_opacity(palette: bytes, transparent: int) -> bytes:
    colours = [palette[place : place + 3] for place in range(0, len(palette), 3)]
    colours += [bytes(3)] * (_COLOURS - len(colours))
    return b"".join(
        colour + (b"\x00" if place == transparent else b"\xff")
        for place, colour in enumerate(colours)
    )
