"""Encoded image bytes -> a decoded picture, within limits that hold before decoding.

Only PNG and JPEG are decoded, told apart by their first bytes; nearly all the known
holes of image decoders are in other formats. Sizes are read from the header and
checked before a single pixel is decoded.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from inkling.errors import InvalidImage, TooLarge, UnsupportedMediaType

__all__ = ["DECODER_ERRORS", "DEFAULT_LIMITS", "Budget", "Limits", "decode"]

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"

# What people send besides PNG and JPEG, by its first bytes, to name it in the answer.
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

# What Pillow raises on a damaged file: its own fuzz tests expect most of these.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    MemoryError,
    ValueError,
    NotImplementedError,
    OverflowError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class Limits:
    """What one image may cost.

    Attributes:
        max_bytes: Size of the encoded image.
        max_pixels: Pixels that are decoded, after a JPEG's reduced-scale decoding.
        max_jpeg_pixels: Pixels of a JPEG as the camera wrote them. Only a JPEG that
            is decoded row by row may have more than `max_pixels`; one that has to be
            held in memory as a whole (progressive, or a scan per colour) may not.
        max_side: Width or height as written.
        max_png_chunks: Parts of a PNG file; tens of thousands cost CPU for nothing.
        max_jpeg_scans: Passes over a JPEG, of which each costs time for all pixels.
        max_request_pixels: Pixels of all images of a request together; those that a
            JPEG's reduced-scale decoding skips count a fifth, as they cost that.
    """

    max_bytes: int = 8 * 1024 * 1024
    max_pixels: int = 2048 * 2048
    max_jpeg_pixels: int = 25_000_000
    max_side: int = 8192
    max_png_chunks: int = 1024
    max_jpeg_scans: int = 16
    max_request_pixels: int = 2 * 2048 * 2048


DEFAULT_LIMITS = Limits()
_SKIPPED_PIXELS_COST = 5


class Budget:
    """What the images of one request may cost together; not for several threads."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._pixels_left = limits.max_request_pixels

    def spend(self, pixels: int) -> None:
        """Take `pixels` off what is left.

        Raises:
            TooLarge: Less was left.
        """
        self._pixels_left -= pixels
        if self._pixels_left < 0:
            raise TooLarge(
                "The images of this request have more pixels together than the limit "
                f"of {self.limits.max_request_pixels:,}. Send them in several requests."
            )


def decode(image: bytes, jpeg_min_side: int, budget: Budget) -> Image.Image:
    """Return the decoded picture, in the mode and orientation in which it came.

    A JPEG is decoded at 1/2, 1/4 or 1/8 scale where both sides keep at least
    `jpeg_min_side` pixels.

    Raises:
        InvalidImage: The bytes are no PNG or JPEG, or a damaged one.
        UnsupportedMediaType: They are a picture in another format.
        TooLarge: A limit is exceeded; nothing was decoded.
    """
    limits = budget.limits
    if len(image) > limits.max_bytes:
        raise TooLarge(
            f"The image has {len(image):,} bytes; the limit is {limits.max_bytes:,}. "
            "Send a smaller picture."
        )
    if image.startswith(_PNG):
        return _decode_png(image, budget)
    if image.startswith(_JPEG):
        return _decode_jpeg(image, jpeg_min_side, budget)
    raise _not_a_picture(image)


def _not_a_picture(image: bytes) -> InvalidImage | UnsupportedMediaType:
    for offset, magic, name in _FOREIGN:
        if image.startswith(magic, offset):
            return UnsupportedMediaType(
                f"The picture is {name}; only PNG and JPEG are read. Convert it first."
            )
    came = (
        f"is {len(image):,} bytes that are neither PNG nor JPEG"
        if image
        else "is empty"
    )
    return InvalidImage(f"The image {came}. Send the bytes of a picture file.")


def _decode_png(image: bytes, budget: Budget) -> Image.Image:
    limits = budget.limits
    _check_png_chunks(image, limits.max_png_chunks)
    picture = _open(PngImagePlugin.PngImageFile, image, "PNG")
    _check_size(picture.size, limits.max_pixels, limits, "PNG")
    budget.spend(picture.width * picture.height)
    return _load(picture, "PNG")


def _check_png_chunks(image: bytes, max_chunks: int) -> None:
    """Count the chunks by their lengths alone; nothing is inflated."""
    position, chunks = len(_PNG), 0
    while position + 8 <= len(image):
        chunks += 1
        if chunks > max_chunks:
            raise TooLarge(
                f"The PNG has more than {max_chunks:,} chunks. Save it again without "
                "its metadata."
            )
        position += 12 + int.from_bytes(image[position : position + 4], "big")


def _decode_jpeg(image: bytes, min_side: int, budget: Budget) -> Image.Image:
    limits, row_by_row = budget.limits, _decodes_row_by_row(image)
    scans = image.count(b"\xff\xda")
    if scans > limits.max_jpeg_scans and not row_by_row:
        raise TooLarge(
            f"The JPEG has {scans} scans; the limit is {limits.max_jpeg_scans}. Save "
            "it again as a baseline JPEG."
        )
    picture = _open(JpegImagePlugin.JpegImageFile, image, "JPEG")
    if row_by_row:
        _check_size(picture.size, limits.max_jpeg_pixels, limits, "JPEG")
    else:
        _check_size(picture.size, limits.max_pixels, limits, "progressive JPEG")
    written = picture.width * picture.height
    picture.draft(None, (min_side, min_side))
    _check_size(picture.size, limits.max_pixels, limits, "JPEG, at reduced scale,")
    decoded = picture.width * picture.height
    budget.spend(decoded + (written - decoded) // _SKIPPED_PIXELS_COST)
    return _load(picture, "JPEG")


def _decodes_row_by_row(image: bytes) -> bool:
    """Whether a decoder needs only some rows of this JPEG in memory at a time.

    That is so for a sequential frame (SOF0, SOF1) whose first scan holds all its
    colours; anything else is collected as a whole before the first row comes out.
    """
    position, colours = 2, 0
    while position + 10 <= len(image) and image[position] == 0xFF:
        marker = image[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker > 0xC1:
                return False
            colours = image[position + 9]
        elif marker == 0xDA:
            return colours > 0 and image[position + 4] == colours
        position += 2 + int.from_bytes(image[position + 2 : position + 4], "big")
    return False


def _open(
    reader: type[ImageFile.ImageFile], image: bytes, name: str
) -> ImageFile.ImageFile:
    try:
        return reader(io.BytesIO(image))
    except DECODER_ERRORS:
        raise _damaged(name) from None


def _load(picture: ImageFile.ImageFile, name: str) -> Image.Image:
    try:
        picture.load()
    except DECODER_ERRORS:
        raise _damaged(name) from None
    return picture


def _damaged(name: str) -> InvalidImage:
    return InvalidImage(
        f"The image starts like a {name} but is damaged or cut short. Send the whole "
        "file, unchanged."
    )


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
        raise _damaged(what)
