# SPDX-License-Identifier: Apache-2.0
"""Decodes an image within limits on memory and CPU time.

Inkling decodes the formats of `inkling.image.formats.catalogue`, which it recognises by
their first bytes; docs/formats.md states why it decodes no other. A picture is reduced
while it is read, so the limits are on the decoded picture and on the time that it
takes, and not on the size of the file's picture. A WebP and the frame of a GIF are in
memory as a whole, and have a limit on that.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, JpegImagePlugin

from inkling.errors import InvalidImage, TooLarge, UnsupportedMediaType
from inkling.image.budget import Budget, Limits
from inkling.image.formats.bmp import read_bmp
from inkling.image.formats.catalogue import EXPECTED, foreign_name, format_of
from inkling.image.formats.containers import DECODER_ERRORS, PNG, damaged, read_png
from inkling.image.formats.gif import read_gif
from inkling.image.formats.jpeg import Jpeg, Scan, read_jpeg
from inkling.image.formats.png import PngRows, sample
from inkling.image.formats.raster import Raster
from inkling.image.formats.webp import read_webp

__all__ = ["Decoded", "decode", "png_size"]

# The signature, length and type of the first chunk take 16 bytes; the size follows.
_PNG_HEADER = struct.Struct(">16xII")

# A picture that would keep more pixels is reduced further. The value is no setting, so
# that a picture gives the same input everywhere.
_MOST_PIXELS = 2048 * 2048
_FACTORS = (8, 4, 2, 1)
# CPU time in nanoseconds, measured: to decode a JPEG, per block and per byte of a scan:
# of a file that is not progressive; of means; of other coefficients, and of their
# further bits. Then per pixel of the decoded picture; and per picture.
_SEQUENTIAL, _MEANS, _FIRST_BITS, _FURTHER_BITS = (16, 13), (26, 20), (12, 22), (45, 38)
_BLOCK_BYTES = 128
_PIXEL, _PICTURE = 5, 200_000
_SAMPLE = 40_000
# To compose a decoded pixel over a ground.
_COMPOSE = 14


@dataclass(frozen=True)
class Decoded:
    """A decoded picture.

    Attributes:
        picture: Mode `L`, `RGB` or `RGBA`, in the stored orientation.
        orientation: The EXIF orientation, 1 to 8.
        came_as: Format, mode and size of the file, as a text for people.
    """

    picture: Image.Image
    orientation: int
    came_as: str


def decode(image: bytes, min_side: int, budget: Budget) -> Decoded:
    """Return the decoded picture.

    The picture is reduced to 1/2, 1/4 or 1/8 scale if both sides keep at least
    `min_side` pixels, and further if it would keep more than 4,194,304 pixels. A JPEG
    is decoded at that scale; the rows of other files are averaged.

    A picture is damaged if a part of it is missing or has a wrong checksum: a PNG whose
    header, palette, transparency or pixels do not match their checksums or whose pixels
    end before the last row; a JPEG that has no scan for one of its colours, whose scan
    ends before the last row, or whose scans do not fit its size; a WebP that is shorter
    than it states; a GIF or BMP whose pixels end before the last row. Bytes that make
    no pixel may be missing or wrong: metadata, and all that follows the pixels, such as
    the marker of the end. Of several frames, the first is the picture.

    Args:
        image: The bytes of a file in a format of the catalogue.
        min_side: The smallest side after the reduction, in pixels.
        budget: The limits, and the CPU time that the request may still take.

    Raises:
        InvalidImage: The bytes are damaged, or are no picture.
        UnsupportedMediaType: The bytes are a picture in another format.
        TooLarge: The image exceeds a limit.
    """
    small = sample(image) if image.startswith(PNG) else None
    if small is not None:
        return _decoded_sample(small, image, min_side, budget)
    try:
        file = _read(image, budget.limits)
    except InvalidImage:
        # Where no end is found, all bytes count.
        _check_bytes(len(image), budget.limits)
        raise
    _check_bytes(file.size, budget.limits)
    if isinstance(file, Jpeg):
        return _decode_jpeg(file, min_side, budget)
    return _decode_rows(file, min_side, budget)


def _read(image: bytes, limits: Limits) -> Raster | Jpeg:
    kind = format_of(image)
    if kind is None:
        raise _not_a_picture(image)
    if kind.name == "JPEG":
        return read_jpeg(image, limits.max_parts)
    return _READERS[kind.name](image, limits.max_parts)


def _read_png(image: bytes, max_parts: int) -> Raster:
    return PngRows(read_png(image, max_parts))


_READERS: dict[str, Callable[[bytes, int], Raster]] = {
    "PNG": _read_png,
    "WebP": read_webp,
    "GIF": read_gif,
    "BMP": read_bmp,
}


def png_size(image: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels from a PNG's header; None for other bytes."""
    if not image.startswith(PNG) or len(image) < _PNG_HEADER.size:
        return None
    width, height = _PNG_HEADER.unpack_from(image)
    return width, height


def _not_a_picture(image: bytes) -> InvalidImage | UnsupportedMediaType:
    name = foreign_name(image)
    if name:
        return UnsupportedMediaType(
            f"The picture is {name}; expected {EXPECTED}. Convert it first."
        )
    came = f"is {len(image):,} bytes that are no {EXPECTED}" if image else "is empty"
    return InvalidImage(f"The image {came}. Send the bytes of a picture file.")


def _decoded_sample(
    picture: Image.Image, image: bytes, min_side: int, budget: Budget
) -> Decoded:
    _check_bytes(len(image), budget.limits)
    _check_size(picture.size, picture.size, budget.limits, "PNG")
    budget.spend(_SAMPLE)
    came_as = f"PNG, mode L, {picture.width} x {picture.height}"
    factor = _factor(picture.size, min_side)
    return Decoded(picture.reduce(factor) if factor > 1 else picture, 1, came_as)


def _decode_rows(file: Raster, min_side: int, budget: Budget) -> Decoded:
    written, limits = (file.width, file.height), budget.limits
    factor = _factor(written, min_side)
    if isinstance(file, PngRows) and file.png.interlaced:
        _check_size(written, written, limits, "interlaced PNG")
    size = _reduced_size(written, factor)
    _check_size(written, size, limits, file.name)
    if file.is_clear:
        budget.spend(_COMPOSE * size[0] * size[1])
    budget.check(file.least_cost())
    if file.held_bytes(budget.spend) > limits.max_held_bytes:
        raise TooLarge(
            f"The {file.name} has {file.width} x {file.height} pixels, all of which "
            "are in memory while it is decoded. Scale it down, or send PNG or JPEG."
        )
    came_as = f"{file.name}, mode {file.mode}, {file.width} x {file.height}"
    return Decoded(_joined(file, factor, size, budget), file.orientation, came_as)


def _joined(
    file: Raster, factor: int, size: tuple[int, int], budget: Budget
) -> Image.Image:
    """Return the strips of a file as one picture of the given size."""
    whole, top = None, 0
    for strip in file.strips(factor, budget.spend):
        part = strip.reduce(factor) if factor > 1 else strip
        if part.size == size:
            return part
        whole = whole or Image.new(part.mode, size)
        whole.paste(part, (0, top))
        top += part.height
    if whole is None:
        raise damaged(file.name)
    return whole


def _decode_jpeg(jpeg: Jpeg, min_side: int, budget: Budget) -> Decoded:
    written, limits = (jpeg.width, jpeg.height), budget.limits
    factor = _factor(written, min_side)
    size = _reduced_size(written, factor)
    _check_size(written, size, limits, "JPEG")
    if not jpeg.row_by_row and jpeg.coefficient_bytes > limits.max_held_bytes:
        raise TooLarge(
            f"The JPEG has {jpeg.width} x {jpeg.height} pixels and is progressive, so "
            "that all of it is in memory while it is decoded. Save it as a baseline "
            "JPEG, or scale it down."
        )
    endings = jpeg.endings()
    budget.spend(len(endings) * _jpeg_cost(jpeg, size))
    pictures = [_jpeg_picture(jpeg, ending, factor) for ending in endings]
    if any(one.tobytes() != pictures[0].tobytes() for one in pictures[1:]):
        raise damaged("JPEG")
    [picture, *_] = pictures
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[len(jpeg.components)]
    came_as = f"JPEG, mode {mode}, {jpeg.width} x {jpeg.height}"
    return Decoded(picture, jpeg.orientation, came_as)


def _jpeg_cost(jpeg: Jpeg, size: tuple[int, int]) -> int:
    """Return the CPU time, in nanoseconds, that decoding takes at most."""
    total = _PIXEL * size[0] * size[1] + _PICTURE
    for scan in jpeg.scans:
        block, byte = _scan_costs(scan) if jpeg.progressive else _SEQUENTIAL
        total += block * scan.blocks + byte * scan.size
    if not jpeg.row_by_row:
        total += _SEQUENTIAL[0] * jpeg.coefficient_bytes // _BLOCK_BYTES
    return total


def _scan_costs(scan: Scan) -> tuple[int, int]:
    if scan.last == 0:
        return _MEANS
    return _FURTHER_BITS if scan.refines else _FIRST_BITS


def _jpeg_picture(jpeg: Jpeg, ending: bytes, factor: int) -> Image.Image:
    """Decode a JPEG at 1/factor of its size to mode `L` or `RGB`."""
    try:
        file = JpegImagePlugin.JpegImageFile(io.BytesIO(jpeg.content(ending)))
        if factor > 1:
            file.draft(None, (file.width // factor, file.height // factor))
        file.load()
        # A conversion to the same mode would cost a copy.
        return file.convert("RGB") if file.mode == "CMYK" else file
    except DECODER_ERRORS:
        raise damaged("JPEG") from None


def _factor(size: tuple[int, int], min_side: int) -> int:
    """Return the factor of the reduction: 8, 4, 2 or 1, as JPEG decoders support."""
    possible = min(size) // min_side
    factor = next((one for one in _FACTORS if possible >= one), 1)
    while (
        factor < _FACTORS[0] and math.prod(_reduced_size(size, factor)) > _MOST_PIXELS
    ):
        factor *= 2
    return factor


def _reduced_size(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return -(-size[0] // factor), -(-size[1] // factor)


def _check_bytes(size: int, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise TooLarge(
            f"The image has {size:,} bytes; the limit is {limits.max_bytes:,}. Send a "
            "smaller picture."
        )


def _check_size(
    written: tuple[int, int], decoded: tuple[int, int], limits: Limits, what: str
) -> None:
    if math.prod(decoded) > limits.max_pixels or max(written) > limits.max_side:
        raise TooLarge(
            f"The {what} has {written[0]} x {written[1]} pixels. The limits are "
            f"{limits.max_pixels:,} pixels after its reduction to {decoded[0]} x "
            f"{decoded[1]}, and {limits.max_side:,} a side. Scale it down before "
            "sending."
        )
