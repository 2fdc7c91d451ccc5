# SPDX-License-Identifier: Apache-2.0
"""Decodes a PNG some rows at a time, in a mode that the preparation understands.

Pillow undoes the filters and unpacks the pixels; this module inflates the rows, so that
only a few of them are in memory, and so that it sees where their data end. An
interlaced PNG is decoded as a whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from inkling.image.formats.containers import damaged

if TYPE_CHECKING:
    from inkling.image.budget import Spend
    from inkling.image.formats.containers import Png

__all__ = ["PngRows", "sample"]

_GREY, _RGB, _PALETTE = 0, 2, 3
# Pillow's names for the pixels of a PNG, by depth and colour type: the mode, and the
# layout of the bytes.
_LAYOUTS = {
    (1, 0): ("1", "1"),
    (2, 0): ("L", "L;2"),
    (4, 0): ("L", "L;4"),
    (8, 0): ("L", "L"),
    (16, 0): ("I;16", "I;16B"),
    (8, 2): ("RGB", "RGB"),
    (16, 2): ("RGB", "RGB;16B"),
    (1, 3): ("P", "P;1"),
    (2, 3): ("P", "P;2"),
    (4, 3): ("P", "P;4"),
    (8, 3): ("P", "P"),
    (8, 4): ("LA", "LA"),
    (16, 4): ("RGBA", "LA;16B"),
    (8, 6): ("RGBA", "RGBA"),
    (16, 6): ("RGBA", "RGBA;16B"),
}
# The modes in which Pillow undoes the filters, by the bytes of a pixel.
_BYTES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
# The layout of a sample: a PNG of three chunks (IHDR, one IDAT, IEND; PNG, section 11),
# 8-bit grey without interlacing.
_SAMPLE_PIXELS = 64 * 64
_SAMPLE_HEAD = struct.Struct(">8x8sII5s")
_PLAIN_GREY = b"\x00\x00\x00\x0dIHDR" + bytes([8, 0, 0, 0, 0])
_IDAT = struct.Struct(">I4s")
_IDAT_CRC = zlib.crc32(b"IDAT")
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_SAMPLE_DATA = 41
_SAMPLE_LEAST = _SAMPLE_DATA + 4 + len(_PNG_END)
_STRIP_BYTES = 1 << 18
_INPUT_BYTES = 1 << 14
# A stored block of deflate: its kind, its length and the complement of its length.
_STORED = struct.Struct("<BHH")
_STORED_BYTES = 0xFFFF
_ZLIB_HEADER = b"\x78\x01"
_LOW_BYTES = "RGB;16L"
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
# CPU time in nanoseconds, measured: to inflate a byte of the file, at most, and a byte
# of the rows; to undo the filter of a byte, by filter; to drop the low byte of 16 bits;
# to compare a pixel with the transparent colour; to unpack and convert a pixel, by the
# mode that it gets.
_INFLATE_IN, _INFLATE_OUT, _COPY_OUT = 20, 3.2, 0.5
_UNFILTER = (1.4, 1.4, 1.4, 1.9, 5.6)
_HALVE, _COMPARE = 1.0, 12.0
_CONVERT = {"L": 1.5, "RGB": 2.0, "RGBA": 6.0}
_ROW, _STRIP = 150, 60_000
# Rows of the seven passes are inflated twice, and unpacked pixel by pixel.
_SLOW_PASSES = 1.6


def sample(image: bytes) -> Image.Image | None:
    """Return the picture in a small grey PNG of three chunks; None for other PNGs.

    Most images at a busy gateway are such samples, and the general way takes four times
    as long. For a damaged file the result is None, so that the general way refuses it.
    """
    if len(image) < _SAMPLE_LEAST or not image.endswith(_PNG_END):
        return None
    header, width, height, kind = _SAMPLE_HEAD.unpack_from(image)
    end = len(image) - len(_PNG_END) - 4
    idat = image[_SAMPLE_DATA:end]
    if header + kind != _PLAIN_GREY or not 0 < width * height <= _SAMPLE_PIXELS:
        return None
    if image[_SAMPLE_DATA - 8 : _SAMPLE_DATA] != _IDAT.pack(len(idat), b"IDAT"):
        return None
    whole = zlib.crc32(image[12:29]).to_bytes(4, "big") == image[29:33]
    whole &= zlib.crc32(idat, _IDAT_CRC).to_bytes(4, "big") == image[end : end + 4]
    if not whole:
        return None
    length = height * (1 + width)
    try:
        # Pillow takes data that end with a row for a whole picture.
        if len(zlib.decompressobj().decompress(idat, length)) < length:
            return None
        return Image.frombytes("L", (width, height), idat, "zip", "L", 0)
    except (ValueError, zlib.error):
        return None


@dataclass(frozen=True)
class PngRows:
    """The picture of a PNG; `inkling.image.formats.raster` says what all such have."""

    png: Png
    name: str = "PNG"

    @property
    def mode(self) -> str:
        """Pillow's name for the pixels of the file."""
        return _LAYOUTS[self.png.depth, self.png.colour][0]

    @property
    def width(self) -> int:
        """Columns of the picture, in pixels."""
        return self.png.width

    @property
    def height(self) -> int:
        """Rows of the picture, in pixels."""
        return self.png.height

    @property
    def orientation(self) -> int:
        """The EXIF orientation, 1 to 8; 1 if the file has none."""
        return self.png.orientation

    @property
    def size(self) -> int:
        """Bytes of the file up to the end of the picture."""
        return self.png.size

    @property
    def is_clear(self) -> bool:
        """True if the decoded picture may have transparent parts."""
        return _pixel_mode(self.png) == "RGBA"

    def held_bytes(self, _: Spend, /) -> int:
        """Return 0; an interlaced file is held, but has a limit on its pixels."""
        return 0

    def least_cost(self) -> int:
        """Return the CPU time, in nanoseconds, that decoding takes at least."""
        png = self.png
        least = _COPY_OUT + _UNFILTER[0] / (2 if png.depth == 16 else 1)
        pixels = _ROW + _CONVERT[_pixel_mode(png)] * png.width
        return round(png.height * (least * png.row_bytes + pixels))

    def strips(self, multiple: int, spend: Spend) -> Iterator[Image.Image]:
        """Yield the picture from top to bottom, as pictures of its full width.

        Args:
            multiple: All strips but the last have a multiple of this many rows.
            spend: A function that is told the CPU time of every step before it is done.

        Raises:
            InvalidImage: The data are damaged or end before the last row.
            TooLarge: `spend` raised it.
        """
        try:
            if self.png.interlaced:
                yield _decoded(*_interlaced(self.png, spend), self.png)
            else:
                for high, low in _in_order(self.png, multiple, spend):
                    yield _decoded(high, low, self.png)
        except (ValueError, zlib.error):
            raise damaged("PNG") from None


def _pixel_mode(png: Png) -> str:
    """Return the mode of the decoded picture: `L`, `RGB` or `RGBA`."""
    if png.colour >= 4 or png.transparency is not None:
        return "RGBA"
    return "L" if png.colour == _GREY else "RGB"


class _Rows:
    """The filtered rows of a PNG, inflated as they are read."""

    def __init__(self, pieces: Iterable[memoryview]) -> None:
        self._pieces = (
            piece[start : start + _INPUT_BYTES]
            for piece in pieces
            for start in range(0, len(piece), _INPUT_BYTES)
        )
        self._inflate = zlib.decompressobj()
        self._rest: memoryview | bytes | None = b""
        self.bytes_in = 0  # bytes of the file that the last read took

    def read(self, length: int) -> bytes:
        """Return `length` bytes.

        Raises:
            ValueError: The data end before.
            zlib.error: The data are damaged.
        """
        self.bytes_in = 0
        found = self._inflate.decompress(b"", length)
        parts = [found]
        left = length - len(found)
        while left:
            if not self._rest:
                self._rest = next(self._pieces, None)
                if self._rest is None or self._inflate.eof:
                    raise ValueError("the rows end too early")
                self.bytes_in += len(self._rest)
            parts.append(self._inflate.decompress(self._rest, left))
            self._rest = self._inflate.unconsumed_tail
            left -= len(parts[-1])
        return b"".join(parts)


def _needs_low_bytes(png: Png) -> bool:
    """Return whether one colour of 16 bits is transparent; the next one is opaque."""
    return png.depth == 16 and png.transparency is not None and png.colour <= _PALETTE


def _in_order(
    png: Png, multiple: int, spend: Spend
) -> Iterator[tuple[Image.Image, Image.Image | None]]:
    """Yield the rows with their filters undone, as pictures of whole bytes.

    Of 16-bit samples these are the high bytes, and the low bytes if they are needed.
    """
    rows, stride, above = _Rows(png.data), png.row_bytes + 1, [b"", b""]
    parts = 1 + _needs_low_bytes(png)
    height = multiple * max(1, _STRIP_BYTES // (stride * multiple))
    for top in range(0, png.height, height):
        count = min(height, png.height - top)
        raw = rows.read(count * stride)
        spend(_cost(png, raw, stride, rows.bytes_in))
        strips = []
        for part in range(parts):
            half = _every_other(raw, stride, part) if png.depth == 16 else raw
            strip = _unfiltered(half, above[part], png)
            if top + count < png.height:
                above[part] = strip.crop((0, count - 1, strip.width, count)).tobytes()
            strips.append(strip)
        yield strips[0], strips[1] if parts == 2 else None


def _every_other(raw: bytes, stride: int, first: int) -> bytes:
    """Return the high (0) or the low bytes (1) of rows of 16-bit samples, as rows.

    Filters work on each byte of a pixel by itself.
    """
    table = np.frombuffer(raw, np.uint8).reshape(-1, stride)
    half = np.empty((len(table), 1 + stride // 2), np.uint8)
    half[:, 0], half[:, 1:] = table[:, 0], table[:, 1 + first :: 2]
    return half.tobytes()


def _unfiltered(raw: bytes, above: bytes, png: Png) -> Image.Image:
    """Return the bytes of the rows, without their filters.

    Args:
        raw: The rows, each behind the byte that names its filter.
        above: The row above them without its filter; empty at the top.
        png: The file.
    """
    unit = max(1, png.pixel_bits // max(8, png.depth))
    width = png.row_bytes // (unit * max(8, png.depth) // 8)
    mode, first = _BYTES[unit], bool(above)
    height = len(raw) // (1 + unit * width) + first
    # The row above becomes a row without a filter.
    data = _stored(b"\x00" + above if above else b"", raw)
    rows = Image.frombytes(mode, (width, height), data, "zip", mode, 0)
    return rows.crop((0, 1, width, height)) if first else rows


def _stored(*parts: bytes) -> bytes:
    """Return bytes in the format of zlib, without compressing them."""
    pieces: list[bytes | memoryview] = [_ZLIB_HEADER]
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(part), _STORED_BYTES):
            block = view[start : start + _STORED_BYTES]
            pieces += [_STORED.pack(0, len(block), len(block) ^ _STORED_BYTES), block]
    return b"".join(pieces)


def _interlaced(png: Png, spend: Spend) -> tuple[Image.Image, Image.Image | None]:
    """Return the pixels as `_in_order`; the rows are counted first."""
    rows = _Rows(png.data)
    for across, down, step_across, step_down in _PASSES:
        width = (png.width - across + step_across - 1) // step_across
        height = (png.height - down + step_down - 1) // step_down
        if width <= 0 or height <= 0:
            continue
        stride = 1 + (width * png.pixel_bits + 7) // 8
        many = max(1, _STRIP_BYTES // stride)
        for top in range(0, height, many):
            raw = rows.read(min(many, height - top) * stride)
            spend(round(_SLOW_PASSES * _cost(png, raw, stride, rows.bytes_in)))
    mode, layout = _LAYOUTS[png.depth, png.colour]
    size, data = (png.width, png.height), b"".join(png.data)
    pixels = Image.frombytes(mode, size, data, "zip", layout, 1)
    if pixels.mode == "I;16":
        # Pillow's own conversion from 16 bits would clip nearly all to white.
        values = np.asarray(pixels)
        pixels = Image.fromarray((values >> 8).astype(np.uint8))
        low = Image.fromarray((values & 0xFF).astype(np.uint8))
        return pixels, low if _needs_low_bytes(png) else None
    if not _needs_low_bytes(png):
        return pixels, None
    # Pillow keeps the last byte of a sample whose order it is told is the other one.
    return pixels, Image.frombytes(mode, size, data, "zip", _LOW_BYTES, 1)


def _cost(png: Png, raw: bytes, stride: int, bytes_in: int) -> int:
    """Return the CPU time, in nanoseconds, that filtered rows take at most."""
    filters, length = raw[::stride], stride - 1
    undo = sum(filters.count(kind) * cost for kind, cost in enumerate(_UNFILTER))
    pixels = len(filters) * length * 8 // png.pixel_bits
    inflate = min(_INFLATE_IN * bytes_in, _INFLATE_OUT * len(raw)) + _COPY_OUT * len(
        raw
    )
    wide = png.depth == 16
    low = _needs_low_bytes(png)
    halve = _HALVE * len(raw) * (1 + low) if wide else 0
    return round(
        inflate
        + halve
        + undo * length * (1 + low) / (2 if wide else 1)
        + (_CONVERT[_pixel_mode(png)] + low * _COMPARE) * pixels
        + _ROW * len(filters)
        + _STRIP
    )


def _decoded(pixels: Image.Image, low: Image.Image | None, png: Png) -> Image.Image:
    """Return unfiltered rows, or an interlaced picture, in the mode of `_pixel_mode`.

    Args:
        pixels: The pixels, of 16-bit samples the high bytes.
        low: The low bytes, if they are needed.
        png: The file.
    """
    mode, layout = _LAYOUTS[png.depth, png.colour]
    if png.depth < 8 and not png.interlaced:
        size = (png.width, pixels.height)
        pixels = Image.frombytes(mode, size, pixels.tobytes(), "raw", layout)
    if pixels.mode == "1":
        pixels = pixels.convert("L")
    if png.colour == _PALETTE:
        pixels.putpalette(png.palette)
    if low is not None:
        clear = pixels.convert("RGBA")
        clear.putalpha(_opacity(pixels, low, png))
        return clear
    if png.transparency is not None and png.colour <= _PALETTE:
        pixels.info["transparency"] = _transparency(png, png.transparency)
    wanted = _pixel_mode(png)
    # A conversion to the same mode would cost a copy.
    return pixels if pixels.mode == wanted else pixels.convert(wanted)


def _opacity(high: Image.Image, low: Image.Image, png: Png) -> Image.Image:
    """Return the opacity of pixels of 16 bits: 0 for the transparent colour, or 255."""
    opaque = np.zeros((high.height, high.width), bool)
    bands = zip(_clear_colour(png), high.split(), low.split(), strict=True)
    for value, above, below in bands:
        opaque |= np.asarray(above) != value >> 8
        opaque |= np.asarray(below) != value & 0xFF
    return Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))


def _transparency(png: Png, content: bytes) -> bytes | int | tuple[int, ...]:
    """Return the transparent colour in 8 bits, or the opacities of the palette."""
    if png.colour == _PALETTE:
        return content[: len(png.palette) // 3]
    most = (1 << png.depth) - 1
    scaled = tuple((value & most) * 255 // most for value in _clear_colour(png))
    return scaled if len(scaled) == 3 else scaled[0]


def _clear_colour(png: Png) -> tuple[int, ...]:
    samples = 3 if png.colour == _RGB else 1
    content = png.transparency or b""
    if len(content) < 2 * samples:
        raise ValueError("the transparent colour is cut off")
    return struct.unpack_from(f">{samples}H", content)
