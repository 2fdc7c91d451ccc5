# SPDX-License-Identifier: Apache-2.0
"""Makes WebP, GIF and BMP files that no program writes: damaged, odd or hostile ones."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Sequence

from PIL import Image

__all__ = [
    "animated_webp",
    "bmp",
    "chunk",
    "encoded",
    "frame_of",
    "gif",
    "gif_blocks",
    "lossless_webp_of_sets",
    "webp",
]


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return a picture as a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a WebP, filled up to an even length."""
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def webp(*chunks: bytes) -> bytes:
    """Return a WebP of whole chunks."""
    content = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def frame_of(file: bytes) -> bytes:
    """Return the chunks of a simple WebP, without the file's header."""
    return file[12:]


def animated_webp(
    size: tuple[int, int],
    frames: Sequence[tuple[bytes, tuple[int, int, int, int]]],
    *more: bytes,
    flags: int = 0x12,
) -> bytes:
    """Return an animated WebP.

    Args:
        size: Width and height of the canvas.
        frames: The chunks of each frame; left, top, width and height.
        more: Further chunks.
        flags: The flags of the file.
    """
    head = bytes((flags, 0, 0, 0)) + _sides(size[0] - 1, size[1] - 1)
    parts = [chunk(b"VP8X", head), chunk(b"ANIM", bytes(6))]
    for content, (left, top, width, height) in frames:
        place = _sides(left // 2, top // 2, width - 1, height - 1, 100)
        parts.append(chunk(b"ANMF", place + b"\0" + content))
    return webp(*parts, *more)


def _sides(*sides: int) -> bytes:
    return b"".join(side.to_bytes(3, "little") for side in sides)


class _Bits:
    """Writes bits, from the lowest of each byte on."""

    def __init__(self) -> None:
        self._value, self._count = 0, 0
        self._done: list[bytes] = []

    def write(self, value: int, count: int) -> None:
        self._value |= value << self._count
        self._count += count
        while self._count >= 512:
            self._done.append((self._value & ((1 << 512) - 1)).to_bytes(64, "little"))
            self._value >>= 512
            self._count -= 512

    def content(self) -> bytes:
        return b"".join([*self._done, self._value.to_bytes(70, "little")])


def lossless_webp_of_sets(side: int, sets: int) -> bytes:
    """Return a flat lossless WebP that has other tables for each 4 x 4 pixels.

    Args:
        side: Width and height, in pixels.
        sets: The number of sets of tables, at most 65,536.
    """
    bits = _Bits()
    bits.write(0x2F, 8)
    bits.write(side - 1, 14)
    bits.write(side - 1, 14)
    bits.write(0, 4)  # no opacity, version 0
    bits.write(0, 2)  # no transform, no colour cache
    bits.write(1, 1)  # several sets of tables
    bits.write(0, 3)  # for each 4 x 4 pixels
    bits.write(0, 1)  # no colour cache in the picture of the sets' numbers
    _even_code(bits, 256 + 24)
    _even_code(bits, 256)
    for _ in range(3):
        _code_of_zero(bits)
    for place in range((-(-side // 4)) ** 2):
        number = place % sets
        bits.write(_reversed(number & 0xFF), 8)
        bits.write(_reversed(number >> 8), 8)
    for _ in range(5 * sets):
        _code_of_zero(bits)
    return webp(chunk(b"VP8L", bits.content()))


def _reversed(byte: int) -> int:
    return int(f"{byte:08b}"[::-1], 2)


def _code_of_zero(bits: _Bits) -> None:
    bits.write(0b0001, 4)  # simple, one symbol, of one bit, 0


def _even_code(bits: _Bits, symbols: int) -> None:
    """Write a code with 8 bits for each of the first 256 symbols."""
    bits.write(0, 1)
    # Two lengths of codes are used, 0 and 8, with one bit each.
    order = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8)
    bits.write(len(order) - 4, 4)
    for length in order:
        bits.write(1 if length in (0, 8) else 0, 3)
    bits.write(0, 1)
    for symbol in range(symbols):
        bits.write(1 if symbol < 256 else 0, 1)


def gif_blocks(content: bytes, size: int = 255) -> bytes:
    """Return bytes in the blocks of a GIF, with the empty block at their end."""
    parts = (content[place : place + size] for place in range(0, len(content), size))
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def gif(
    screen: tuple[int, int],
    frame: tuple[int, int, int, int],
    pixels: bytes,
    *before: bytes,
    palette: bytes = bytes(range(256)) * 3,
    code_bits: int = 8,
    control: bytes = b"",
) -> bytes:
    """Return a GIF of one frame.

    Args:
        screen: Width and height of the screen.
        frame: Left, top, width and height of the frame.
        pixels: The compressed pixels, in blocks.
        before: Whole extensions before the frame.
        palette: Three bytes for each of 2, 4, ... or 256 colours; empty for none.
        code_bits: The size of the first codes.
        control: The four bytes of a graphic control, if there is one.
    """
    colours = (len(palette) // 3).bit_length() - 2
    head = struct.pack("<HHBBB", *screen, 0x80 | colours if palette else 0, 0, 0)
    if control:
        before = (*before, b"\x21\xf9\x04" + control + b"\0")
    place = b"\x2c" + struct.pack("<HHHHB", *frame, 0)
    body = b"".join(before) + place + bytes((code_bits,)) + pixels
    return b"GIF89a" + head + palette + body + b"\x3b"


def bmp(
    size: tuple[int, int],
    bits: int,
    pixels: bytes,
    *,
    compression: int = 0,
    masks: Iterable[int] = (),
    palette: bytes = b"",
    header: int = 40,
) -> bytes:
    """Return a BMP.

    Args:
        size: Width and height; a negative height puts the first row at the top.
        bits: Bits of a pixel.
        pixels: The rows as they stand in the file.
        compression: 0 for plain pixels, 3 for masks.
        masks: The masks of red, green, blue and perhaps opacity.
        palette: Four bytes for each colour.
        header: The size of the second header, in bytes.
    """
    values = list(masks)
    info = struct.pack(
        "<IiiHHIIiiII",
        header,
        *size,
        1,
        bits,
        compression,
        0,
        0,
        0,
        len(palette) // 4,
        0,
    )
    fields = struct.pack(f"<{len(values)}I", *values)
    info = info + fields if header == 40 else (info + fields).ljust(header, b"\0")
    offset = 14 + len(info) + len(palette)
    start = b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset)
    return start + info + palette + pixels
