# SPDX-License-Identifier: Apache-2.0
"""Reads the first frame of a WebP file (RFC 9649), and counts its cost.

The decoder gets a file of this frame only: profiles, further frames and unknown chunks
do not reach it. It holds the whole picture, so that the limit on memory is a limit on
the pixels.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL import Image, WebPImagePlugin

from inkling.errors import UnsupportedMediaType
from inkling.image.formats.canvas import Canvas
from inkling.image.formats.containers import (
    DECODER_ERRORS,
    damaged,
    orientation_of,
    too_many_parts,
)
from inkling.image.formats.webp_tables import Tables, read_tables

if TYPE_CHECKING:
    from inkling.image.budget import Spend

__all__ = ["WebP", "read_webp"]

_CHUNK = struct.Struct("<4sI")
_FIRST = 12
_EXTENDED = struct.Struct("<B3x3s3s")
_ANIMATED, _ALPHA = 0x02, 0x10
_FRAME = struct.Struct("<3s3s3s3s3sB")
_LOSSY_START, _LOSSY_HEAD = b"\x9d\x01\x2a", 10
_LOSSLESS_START, _LOSSLESS_HEAD = 0x2F, 5
_SIDE = 0x3FFF
_PACKED = 1
# Bytes that the decoder and Pillow hold per pixel: at the end, and before that beside
# the tables.
_HELD, _HELD_BESIDE = 16, 9
# CPU time in nanoseconds, measured. A lossy picture: per pixel, per byte, and at most
# per pixel and byte where most blocks have detail. A lossless one: per pixel, per byte,
# and at most so much more per pixel. Opacity, also lossless: per pixel. Per picture.
_LOSSY, _LOSSY_BYTE, _DETAIL, _DETAIL_BYTE = 14.0, 45.0, 15.0, 20.0
_LOSSLESS, _LOSSLESS_BYTE, _LOSSLESS_CODES = 24.0, 14.0, 26.0
_OPACITY = 12.0
_PICTURE = 300_000


@dataclass
class WebP:
    """A WebP file, reduced to its first frame.

    Attributes:
        canvas: The size of the picture, and the place of the frame.
        kind: `VP8 ` for a lossy frame, `VP8L` for a lossless one.
        pixels: The compressed frame.
        opacity: The compressed opacity of a lossy frame; None if it has none.
        is_clear: True if pixels may be transparent.
        orientation: The EXIF orientation, 1 to 8; 1 if the file has none.
        size: Bytes of the file.
    """

    canvas: Canvas
    kind: bytes
    pixels: memoryview = field(repr=False)
    opacity: memoryview | None = field(repr=False)
    is_clear: bool
    orientation: int = 1
    size: int = 0
    name: str = "WebP"

    @property
    def width(self) -> int:
        """Columns of the picture, in pixels."""
        return self.canvas.width

    @property
    def height(self) -> int:
        """Rows of the picture, in pixels."""
        return self.canvas.height

    @property
    def mode(self) -> str:
        """Pillow's name for the pixels."""
        return "RGBA" if self.is_clear else "RGB"

    def held_bytes(self, spend: Spend) -> int:
        """Return the memory for the frame and the tables of its codes.

        Args:
            spend: A function that is told the CPU time of every step before it is done.

        Raises:
            InvalidImage: The tables of a lossless frame are damaged.
            TooLarge: They are larger than encoders make them, or `spend` raised it.
        """
        tables = self._tables(spend)
        pixels = self.canvas.columns * self.canvas.rows
        return max(_HELD * pixels, _HELD_BESIDE * pixels + tables.size)

    def _tables(self, spend: Spend) -> Tables:
        size = (self.canvas.columns, self.canvas.rows)
        if self.kind == b"VP8L":
            return read_tables(self.pixels[_LOSSLESS_HEAD:], *size, spend)
        if self.opacity is not None and self.opacity[0] & 3 == _PACKED:
            return read_tables(self.opacity[1:], *size, spend)
        return Tables(0, 0)

    def least_cost(self) -> int:
        """Return the CPU time, in nanoseconds, that decoding takes."""
        pixels, size = self.canvas.columns * self.canvas.rows, len(self.pixels)
        if self.kind == b"VP8L":
            total = _LOSSLESS * pixels + self._codes(size)
        else:
            detail = _DETAIL * pixels + _DETAIL_BYTE * size
            total = _LOSSY * pixels + min(_LOSSY_BYTE * size, detail)
        if self.opacity is not None:
            total += _OPACITY * pixels + self._codes(len(self.opacity))
        return round(total + self.canvas.cost()) + _PICTURE

    def _codes(self, size: int) -> float:
        """Return the CPU time for the codes of a lossless picture of `size` bytes."""
        most = _LOSSLESS_CODES * self.canvas.columns * self.canvas.rows
        return min(_LOSSLESS_BYTE * size, most)

    def strips(self, multiple: int, spend: Spend) -> Iterator[Image.Image]:
        """Yield the picture from top to bottom, as pictures of its full width.

        Args:
            multiple: All strips but the last have a multiple of this many rows.
            spend: A function that is told the CPU time before it is used.

        Raises:
            InvalidImage: The frame is damaged.
            TooLarge: `spend` raised it.
            UnsupportedMediaType: This Pillow was built without WebP.
        """
        spend(self.least_cost())
        frame = self._frame()
        mode = self.mode
        yield from self.canvas.strips(
            frame,
            multiple,
            lambda rows: rows if rows.mode == mode else rows.convert(mode),
        )

    def _frame(self) -> Image.Image:
        if not WebPImagePlugin.SUPPORTED:
            raise UnsupportedMediaType(
                "The Pillow that is installed here reads no WebP. Send PNG or JPEG, or "
                "install Pillow from PyPI."
            )
        try:
            file = WebPImagePlugin.WebPImageFile(io.BytesIO(self._content()))
            file.load()
        except DECODER_ERRORS:
            raise damaged("WebP") from None
        if file.size != (self.canvas.columns, self.canvas.rows):
            raise damaged("WebP")
        return file

    def _content(self) -> bytes:
        """Return a file of this frame alone."""
        chunks: list[tuple[bytes, bytes | memoryview]] = []
        if self.opacity is not None:
            sides = (self.canvas.columns - 1, self.canvas.rows - 1)
            size = b"".join(side.to_bytes(3, "little") for side in sides)
            chunks += [(b"VP8X", bytes((_ALPHA, 0, 0, 0)) + size)]
            chunks += [(b"ALPH", self.opacity)]
        chunks += [(self.kind, self.pixels)]
        parts: list[bytes | memoryview] = [b"WEBP"]
        for name, content in chunks:
            parts += [_CHUNK.pack(name, len(content)), content, bytes(len(content) % 2)]
        length = sum(map(len, parts))
        return b"".join([_CHUNK.pack(b"RIFF", length), *parts])


def read_webp(image: bytes, max_parts: int) -> WebP:
    """Return the first frame of a WebP file.

    Raises:
        InvalidImage: The file is shorter than it states, or its parts contradict each
            other.
        TooLarge: The file has more than `max_parts` chunks.
    """
    end = 8 + int.from_bytes(image[4:8], "little")
    if end > len(image):
        raise damaged("WebP")
    view, chunks = memoryview(image)[:end], dict[bytes, memoryview]()
    # The EXIF data stand behind the picture, in the last chunks.
    for count, (name, content) in enumerate(_chunks(view, _FIRST), 1):
        if count > max_parts:
            raise too_many_parts("WebP", max_parts)
        chunks.setdefault(name, content)
        if count == 1 and name != b"VP8X":
            break
    webp = _extended(chunks) if b"VP8X" in chunks else _simple(chunks)
    webp.size = end
    return webp


def _chunks(view: memoryview, position: int) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the name and the content of each chunk from a place on."""
    while position + _CHUNK.size <= len(view):
        name, length = _CHUNK.unpack_from(view, position)
        start = position + _CHUNK.size
        position = start + length
        if position > len(view):
            raise damaged("WebP")
        yield name, view[start:position]
        position += length % 2


def _simple(chunks: dict[bytes, memoryview]) -> WebP:
    kind, pixels, size, has_alpha = _bitstream(chunks)
    canvas = Canvas(*size, 0, 0, *size)
    return WebP(canvas, kind, pixels, None, has_alpha)


def _extended(chunks: dict[bytes, memoryview]) -> WebP:
    head = chunks[b"VP8X"]
    if len(head) < _EXTENDED.size:
        raise damaged("WebP")
    flags, across, down = _EXTENDED.unpack_from(head)
    width, height = (int.from_bytes(side, "little") + 1 for side in (across, down))
    if flags & _ANIMATED:
        webp = _first_frame(chunks.get(b"ANMF", memoryview(b"")), width, height)
    else:
        webp = _still(chunks, Canvas(width, height, 0, 0, width, height))
    if b"EXIF" in chunks:
        webp.orientation = orientation_of(bytes(chunks[b"EXIF"]))
    return webp


def _first_frame(content: memoryview, width: int, height: int) -> WebP:
    if len(content) < _FRAME.size:
        raise damaged("WebP")
    fields = _FRAME.unpack_from(content)[:4]
    left, top, across, down = (int.from_bytes(one, "little") for one in fields)
    chunks: dict[bytes, memoryview] = {}
    for name, part in _chunks(content, _FRAME.size):
        chunks.setdefault(name, part)
        if name in (b"VP8 ", b"VP8L"):
            break
    return _still(
        chunks, Canvas(width, height, 2 * left, 2 * top, across + 1, down + 1)
    )


def _still(chunks: dict[bytes, memoryview], canvas: Canvas) -> WebP:
    kind, pixels, size, has_alpha = _bitstream(chunks)
    if size != (canvas.columns, canvas.rows) or not canvas.holds:
        raise damaged("WebP")
    opacity = chunks.get(b"ALPH") if kind == b"VP8 " else None
    if opacity is not None and (not opacity or opacity[0] & 3 > _PACKED):
        raise damaged("WebP")
    is_clear = has_alpha or opacity is not None or not canvas.is_filled
    return WebP(canvas, kind, pixels, opacity, is_clear)


def _bitstream(
    chunks: dict[bytes, memoryview],
) -> tuple[bytes, memoryview, tuple[int, int], bool]:
    """Return kind, content and size of the frame, and whether it has opacity itself."""
    if b"VP8 " in chunks:
        pixels = chunks[b"VP8 "]
        is_shown = len(pixels) >= _LOSSY_HEAD and pixels[0] & 0x11 == 0x10
        if not is_shown or pixels[3:6] != _LOSSY_START:
            raise damaged("WebP")
        size = tuple(side & _SIDE for side in struct.unpack_from("<HH", pixels, 6))
        has_alpha = False
        kind = b"VP8 "
    else:
        kind, pixels = b"VP8L", chunks.get(b"VP8L", memoryview(b""))
        if len(pixels) < _LOSSLESS_HEAD or pixels[0] != _LOSSLESS_START:
            raise damaged("WebP")
        bits = int.from_bytes(pixels[1:5], "little")
        size = ((bits & _SIDE) + 1, (bits >> 14 & _SIDE) + 1)
        has_alpha = bits >> 28 & 1 == 1
        if bits >> 29:
            raise damaged("WebP")
    width, height = size
    if not (width and height):
        raise damaged("WebP")
    return kind, pixels, (width, height), has_alpha
