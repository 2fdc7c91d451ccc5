"""Decodes an image within limits that are checked before decoding.

Inkling decodes only PNG and JPEG, which it recognises by their first bytes: nearly all
known vulnerabilities of image decoders are in other formats. The size is read from the
header and checked before the first pixel is decoded.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from inkling.errors import InvalidImage, TooLarge, UnsupportedMediaType
from inkling.image.containers import JPEG, PNG, Container, damaged, read_jpeg, read_png

__all__ = ["DEFAULT_LIMITS", "Budget", "Decoded", "Limits", "decode", "png_size"]

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
# The layout of a sample: a PNG of three chunks (IHDR, one IDAT, IEND; PNG, section 11),
# 8-bit grey without interlacing.
_SAMPLE_HEAD = struct.Struct(">8x8sII5s")
_PLAIN_GREY = b"\x00\x00\x00\x0dIHDR" + bytes([8, 0, 0, 0, 0])
_IDAT = struct.Struct(">I4s")
_IDAT_CRC = zlib.crc32(b"IDAT")
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_SAMPLE_DATA = 41
_SAMPLE_LEAST = _SAMPLE_DATA + 4 + len(_PNG_END)

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
        max_bytes: Size of the encoded image, in bytes.
        max_pixels: Pixels of a picture that is decoded at full scale.
        max_jpeg_pixels: Pixels of a baseline JPEG at full scale. It may be larger
            because it is decoded row by row and at a reduced scale.
        max_side: Width or height at full scale, in pixels.
        max_parts: PNG chunks or JPEG segments of a file; tens of thousands cost CPU.
        max_scan_pixels: Pixels of a JPEG times its scans, because each scan costs time
            for all pixels.
        max_request_pixels: Pixels of all images of a request. A pixel that decoding at
            a reduced scale skips counts as 1/5, which is its cost. A picture of more
            than 64 x 64 pixels counts as at least 655,360, which is the cost of the
            search for ink.
    """

    max_bytes: int = 8 * 1024 * 1024
    max_pixels: int = 2048 * 2048
    max_jpeg_pixels: int = 25_000_000
    max_side: int = 8192
    max_parts: int = 1024
    max_scan_pixels: int = 45_000_000
    max_request_pixels: int = 2 * 2048 * 2048


DEFAULT_LIMITS = Limits()
_SKIPPED_PIXELS_COST = 5
_LEAST_PIXELS = 1024 * 640
# Pictures of up to this many pixels have no least cost: a sample costs far less than a
# picture in which Inkling searches for ink.
_SAMPLE_PIXELS = 64 * 64


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


class Budget:
    """The pixels that the images of one request may still use; not thread-safe."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._pixels_left = limits.max_request_pixels

    def spend(self, pixels: int) -> None:
        """Subtract `pixels` from the rest.

        Raises:
            TooLarge: The rest is smaller than `pixels`.
        """
        self._pixels_left -= pixels
        if self._pixels_left < 0:
            raise TooLarge(
                "The images of this request have more pixels together than the limit "
                f"of {self.limits.max_request_pixels:,}. Send them in several requests."
            )


def decode(image: bytes, min_side: int, budget: Budget) -> Decoded:
    """Return the decoded picture.

    The picture is reduced to 1/2, 1/4 or 1/8 scale if both sides keep at least
    `min_side` pixels. A JPEG is decoded at that scale; a PNG is averaged.

    Args:
        image: The bytes of a PNG or JPEG file.
        min_side: The smallest side after the reduction, in pixels.
        budget: The limits, and the pixels that the request may still use.

    Raises:
        InvalidImage: The bytes are damaged, or are neither PNG nor JPEG.
        UnsupportedMediaType: The bytes are a picture in another format.
        TooLarge: The image exceeds a limit; no pixel was decoded.
    """
    limits = budget.limits
    if len(image) > limits.max_bytes:
        raise TooLarge(
            f"The image has {len(image):,} bytes; the limit is {limits.max_bytes:,}. "
            "Send a smaller picture."
        )
    if image.startswith(PNG):
        sample = _sample(image)
        if sample is not None:
            _check_size(sample.size, limits.max_pixels, limits, "PNG")
            budget.spend(_cost(sample.size, sample.size))
            came_as = f"PNG, mode L, {sample.width} x {sample.height}"
            return Decoded(_reduced(sample, min_side), 1, came_as)
        return _decode_png(read_png(image, limits.max_parts), min_side, budget)
    if image.startswith(JPEG):
        return _decode_jpeg(read_jpeg(image, limits.max_parts), min_side, budget)
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


def _decode_png(container: Container, min_side: int, budget: Budget) -> Decoded:
    file = _open(PngImagePlugin.PngImageFile, container.content, "PNG")
    _check_size(file.size, budget.limits.max_pixels, budget.limits, "PNG")
    budget.spend(_cost(file.size, file.size))
    came_as = _described(file)
    picture = _reduced(_plain(file, "PNG"), min_side)
    return Decoded(picture, container.orientation, came_as)


def _sample(image: bytes) -> Image.Image | None:
    """Return the picture in a small grey PNG of three chunks; None for other bytes.

    Most images at a busy gateway are such samples. Pillow's PNG reader takes twice as
    long, because it parses the file in Python; the decoder below it is the same. For a
    damaged file the result is None, so that the general reader refuses it.
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
    try:
        return Image.frombytes("L", (width, height), idat, "zip", "L", 0)
    except ValueError:
        return None


def _reduced(picture: Image.Image, min_side: int) -> Image.Image:
    factor = _factor(picture.size, min_side)
    return picture.reduce(factor) if factor > 1 else picture


def _decode_jpeg(container: Container, min_side: int, budget: Budget) -> Decoded:
    limits = budget.limits
    file = _open(JpegImagePlugin.JpegImageFile, container.content, "JPEG")
    written = file.size
    if container.row_by_row:
        _check_size(written, limits.max_jpeg_pixels, limits, "JPEG")
    else:
        _check_size(written, limits.max_pixels, limits, "progressive JPEG")
    if written[0] * written[1] * container.scans > limits.max_scan_pixels:
        raise TooLarge(
            f"The JPEG has {container.scans} scans of {written[0]} x {written[1]} "
            "pixels, which take too long to decode. Save it again as a baseline JPEG."
        )
    came_as = _described(file)
    file.draft(None, (min_side, min_side))
    _check_size(file.size, limits.max_pixels, limits, "JPEG, at reduced scale,")
    budget.spend(_cost(written, file.size))
    return Decoded(_plain(file, "JPEG"), container.orientation, came_as)


def _described(file: ImageFile.ImageFile) -> str:
    return f"{file.format}, mode {file.mode}, {file.width} x {file.height}"


def _cost(written: tuple[int, int], decoded: tuple[int, int]) -> int:
    pixels = decoded[0] * decoded[1]
    if pixels <= _SAMPLE_PIXELS:
        return pixels
    skipped = (written[0] * written[1] - pixels) // _SKIPPED_PIXELS_COST
    return max(_LEAST_PIXELS, pixels + skipped)


def _factor(size: tuple[int, int], min_side: int) -> int:
    """Return the factor of the reduction: 8, 4, 2 or 1, as JPEG decoders support."""
    possible = min(size) // min_side
    return next((factor for factor in (8, 4, 2) if possible >= factor), 1)


def _open(
    reader: type[ImageFile.ImageFile], content: bytes, name: str
) -> ImageFile.ImageFile:
    try:
        return reader(io.BytesIO(content))
    except _DECODER_ERRORS:
        raise damaged(name) from None


def _plain(file: ImageFile.ImageFile, name: str) -> Image.Image:
    """Decode the pixels and convert the picture to mode `L`, `RGB` or `RGBA`."""
    try:
        file.load()
        if file.mode.startswith("I"):
            # Pillow's own conversion from 16 bits would clip nearly all to white.
            pixels = np.asarray(file)
            return Image.fromarray((pixels >> 8).astype(np.uint8))
        mode = "L" if file.mode in ("1", "L") else "RGB"
        if file.has_transparency_data:
            mode = "RGBA"
        # A conversion to the same mode would cost a copy.
        return file if file.mode == mode else file.convert(mode)
    except _DECODER_ERRORS:
        raise damaged(name) from None


def _check_size(
    size: tuple[int, int], max_pixels: int, limits: Limits, what: str
) -> None:
    width, height = size
    if width * height > max_pixels or max(size) > limits.max_side:
        raise TooLarge(
            f"The {what} has {width} x {height} pixels; the limit is {max_pixels:,} "
            f"pixels and {limits.max_side:,} a side. Scale it down before sending."
        )
    if not (width and height):
        raise damaged(what)
