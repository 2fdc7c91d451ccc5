# SPDX-License-Identifier: Apache-2.0
"""Decodes an image within limits on memory and CPU time.

Inkling decodes only PNG and JPEG, which it recognises by their first bytes: nearly all
known vulnerabilities of image decoders are in other formats. A picture is reduced while
it is read, so the limits are on the decoded picture and on the time that it takes, and
not on the size of the file's picture.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import dataclass

from PIL import Image, JpegImagePlugin

from inkling.errors import InvalidImage, TooLarge, UnsupportedMediaType
from inkling.image.formats.containers import PNG, Png, damaged, read_png
from inkling.image.formats.jpeg import JPEG, Jpeg, Scan, read_jpeg
from inkling.image.formats.png import composing_cost, least_cost, mode_of, sample, strips

__all__ = [
    "DEFAULT_LIMITS",
    "Budget",
    "Decoded",
    "Limits",
    "TakesLonger",
    "decode",
    "png_size",
]

# Other formats that people send, by offset and first bytes; the error message names
# the format.
_FOREIGN = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (8, b"WEBP", "WebP"),
    (4, b"ftyp", "HEIC, AVIF or video"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"8BPS", "PSD"),
    (0, b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"<", "SVG or HTML"),
)

# The signature, length and type of the first chunk take 16 bytes; the size follows.
_PNG_HEADER = struct.Struct(">16xII")

# The exceptions that Pillow raises on a damaged file. Pillow's own fuzz tests expect
# most of them.
_DECODER_ERRORS = (
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


@dataclass(frozen=True)
class Limits:
    """The limits for one image and for all images of one request.

    Attributes:
        max_bytes: Size of the file up to the end of the picture, in bytes.
        max_pixels: Pixels of a decoded picture, after it was reduced; also the pixels
            of an interlaced PNG, which cannot be reduced while it is read.
        max_side: Width or height of the file, in pixels.
        max_parts: PNG chunks or JPEG segments of a file.
        max_coefficient_bytes: Memory for a JPEG that is not decoded row by row
            (progressive, or with a scan per colour): two bytes per sample.
        max_cpu_ms: CPU time that decoding the images of one request, and searching them
            for ink, may take, in milliseconds. It is estimated from the content of the
            file, never measured, so every machine refuses the same pictures. On the
            machine where the estimate was made, the pictures take less.
    """

    max_bytes: int = 8 * 1024 * 1024
    max_pixels: int = 2048 * 2048
    max_side: int = 65_535
    max_parts: int = 4096
    max_coefficient_bytes: int = 40 * 1024 * 1024
    max_cpu_ms: int = 215


DEFAULT_LIMITS = Limits()
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


class TakesLonger(Exception):
    """The images take more CPU time than the caller gives them in this place."""


class Budget:
    """The CPU time that the images of one request may still take; not thread-safe."""

    def __init__(
        self, limits: Limits = DEFAULT_LIMITS, quick_ns: int | None = None
    ) -> None:
        """Create the budget.

        Args:
            limits: The limits of the request.
            quick_ns: The CPU time, in nanoseconds, after which the work has to go on in
                another place; None means no such limit.
        """
        self.limits = limits
        self._left_ns = limits.max_cpu_ms * 1_000_000
        self._quick_until = 0 if quick_ns is None else self._left_ns - quick_ns

    def spend(self, nanoseconds: int) -> None:
        """Subtract CPU time from the rest, before it is used.

        Raises:
            TooLarge: The rest is smaller.
            TakesLonger: The work would take more than `quick_ns`.
        """
        self._left_ns -= nanoseconds
        if self._left_ns < 0:
            raise TooLarge(
                "The images of this request take too long to decode: more than "
                f"{self.limits.max_cpu_ms} ms. Scale them down, or send several images "
                "in several requests."
            )
        if self._left_ns < self._quick_until:
            raise TakesLonger

    def check(self, nanoseconds: int) -> None:
        """Check that the rest is not smaller, and leave it as it is.

        Raises:
            TooLarge: The rest is smaller.
        """
        self.spend(nanoseconds)
        self._left_ns += nanoseconds


def decode(image: bytes, min_side: int, budget: Budget) -> Decoded:
    """Return the decoded picture.

    The picture is reduced to 1/2, 1/4 or 1/8 scale if both sides keep at least
    `min_side` pixels, and further if it would keep more than 4,194,304 pixels. A JPEG
    is decoded at that scale; the rows of a PNG are averaged as they are read.

    A picture is damaged if a part of it is missing or has a wrong checksum: a PNG whose
    header, palette, transparency or pixels do not match their checksums or whose pixels
    end before the last row; a JPEG that has no scan for one of its colours, whose scan
    ends before the last row, or whose scans do not fit its size. Bytes that make no
    pixel may be missing or wrong: metadata, and all that follows the pixels, such as
    the marker of the end.

    Args:
        image: The bytes of a PNG or JPEG file.
        min_side: The smallest side after the reduction, in pixels.
        budget: The limits, and the CPU time that the request may still take.

    Raises:
        InvalidImage: The bytes are damaged, or are neither PNG nor JPEG.
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
    if isinstance(file, Png):
        return _decode_png(file, min_side, budget)
    return _decode_jpeg(file, min_side, budget)


def _read(image: bytes, limits: Limits) -> Png | Jpeg:
    if image.startswith(PNG):
        return read_png(image, limits.max_parts)
    if image.startswith(JPEG):
        return read_jpeg(image, limits.max_parts)
    raise _not_a_picture(image)


def png_size(image: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels from a PNG's header; None for other bytes."""
    if not image.startswith(PNG) or len(image) < _PNG_HEADER.size:
        return None
    width, height = _PNG_HEADER.unpack_from(image)
    return width, height


def _not_a_picture(image: bytes) -> InvalidImage | UnsupportedMediaType:
    for offset, magic, name in _FOREIGN:
        if image.startswith(magic, offset):
            return UnsupportedMediaType(
                f"The picture is {name}; expected PNG or JPEG. Convert it first."
            )
    came = (
        f"is {len(image):,} bytes that are neither PNG nor JPEG"
        if image
        else "is empty"
    )
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


def _decode_png(png: Png, min_side: int, budget: Budget) -> Decoded:
    written = (png.width, png.height)
    factor = _factor(written, min_side)
    if png.interlaced:
        _check_size(written, written, budget.limits, "interlaced PNG")
    size = _reduced_size(written, factor)
    _check_size(written, size, budget.limits, "PNG")
    budget.spend(composing_cost(png, size))
    budget.check(least_cost(png))
    came_as = f"PNG, mode {mode_of(png)}, {png.width} x {png.height}"
    return Decoded(_joined(png, factor, size, budget), png.orientation, came_as)


def _joined(
    png: Png, factor: int, size: tuple[int, int], budget: Budget
) -> Image.Image:
    """Return the strips of a PNG as one picture of the given size."""
    whole, top = None, 0
    for strip in strips(png, factor, budget.spend):
        part = strip.reduce(factor) if factor > 1 else strip
        if part.size == size:
            return part
        whole = whole or Image.new(part.mode, size)
        whole.paste(part, (0, top))
        top += part.height
    if whole is None:
        raise damaged("PNG")
    return whole


def _decode_jpeg(jpeg: Jpeg, min_side: int, budget: Budget) -> Decoded:
    written, limits = (jpeg.width, jpeg.height), budget.limits
    factor = _factor(written, min_side)
    size = _reduced_size(written, factor)
    _check_size(written, size, limits, "JPEG")
    if not jpeg.row_by_row and jpeg.coefficient_bytes > limits.max_coefficient_bytes:
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
    except _DECODER_ERRORS:
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
