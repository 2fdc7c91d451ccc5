# SPDX-License-Identifier: Apache-2.0
"""The one table of picture formats: those that Inkling reads, and others by name.

A file's format follows from its first bytes. The suffixes serve only to find the
pictures in a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "EXPECTED",
    "FOREIGN_SUFFIXES",
    "FORMATS",
    "SUFFIXES",
    "Format",
    "foreign_name",
    "format_of",
]


@dataclass(frozen=True)
class Format:
    """A format that Inkling reads.

    Attributes:
        name: Its name, as messages have it.
        starts: The first bytes of its files, one of these.
        suffixes: The ends of its files' names, in lower case.
        pillow_names: Pillow's names for it.
    """

    name: str
    starts: tuple[bytes, ...]
    suffixes: tuple[str, ...]
    pillow_names: tuple[str, ...]

    def begins(self, image: bytes) -> bool:
        """Return whether bytes begin as a file of this format does."""
        if not image.startswith(self.starts):
            return False
        if self.name == "WebP":
            return image[8:12] == b"WEBP"
        # Two letters are a word, too; the size of the second header is not.
        return self.name != "BMP" or _dib_size(image) in BMP_HEADERS


# Sizes of the header that follows a BMP's first one, in bytes.
BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)

FORMATS = (
    Format("PNG", (b"\x89PNG",), (".png", ".apng"), ("PNG",)),
    Format(
        "JPEG",
        (b"\xff\xd8\xff",),
        (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo"),
        ("JPEG", "MPO"),
    ),
    Format("WebP", (b"RIFF",), (".webp",), ("WEBP",)),
    Format("GIF", (b"GIF87a", b"GIF89a"), (".gif",), ("GIF",)),
    Format("BMP", (b"BM",), (".bmp", ".dib"), ("BMP",)),
)
# The formats for a message: "PNG, JPEG, WebP, GIF or BMP".
EXPECTED = " or ".join((", ".join(one.name for one in FORMATS[:-1]), FORMATS[-1].name))
SUFFIXES = frozenset(suffix for one in FORMATS for suffix in one.suffixes)
# Ends of the names of pictures in formats that Inkling does not read.
FOREIGN_SUFFIXES = frozenset(
    [
        ".tif",
        ".tiff",
        ".heic",
        ".heif",
        ".hif",
        ".avif",
        ".jp2",
        ".j2k",
        ".jxl",
        ".pgm",
        ".ppm",
        ".ico",
        ".svg",
    ]
)

# Other formats that people send, by offset and first bytes.
_FOREIGN = (
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"8BPS", "PSD"),
    (0, b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"<", "SVG or HTML"),
)
# Brands of the container that HEIC, AVIF and videos share (ISO/IEC 14496-12).
_BRANDS_AT, _MOST_BRANDS = 8, 64
_AVIF, _HEIF = (b"avif", b"avis"), (b"hei", b"hev", b"mif1", b"msf1")


def format_of(image: bytes) -> Format | None:
    """Return the format that bytes begin with; None for any other."""
    return next((one for one in FORMATS if one.begins(image)), None)


def foreign_name(image: bytes) -> str:
    """Return the name of a format that Inkling does not read; empty if unknown."""
    if image.startswith(b"ftyp", 4):
        brands = list(_brands(image))
        if any(brand.startswith(_AVIF) for brand in brands):
            return "AVIF"
        is_heif = any(brand.startswith(_HEIF) for brand in brands)
        return "HEIC" if is_heif else "a video"
    return next(
        (name for offset, start, name in _FOREIGN if image.startswith(start, offset)),
        "",
    )


def _brands(image: bytes) -> Iterator[bytes]:
    end = min(int.from_bytes(image[:4], "big"), len(image), _MOST_BRANDS)
    for place in range(_BRANDS_AT, max(end, _BRANDS_AT + 4), 4):
        yield image[place : place + 4]


def _dib_size(image: bytes) -> int:
    return int.from_bytes(image[14:18], "little")
