"""Reduces PNG and JPEG files to the parts that make the picture.

The decoder gets only these parts. In comments, colour profiles, thumbnails and further
frames, a file of a few kilobytes can hide a hundred megabytes, or loops that cost
seconds. The EXIF orientation is the only metadata that Inkling uses; this module reads
it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from inkling.errors import InvalidImage, TooLarge

__all__ = ["JPEG", "PNG", "Container", "damaged", "read_jpeg", "read_png"]

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"

_PNG_PARTS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MAX_TRANSPARENCY = 256
_EXIF = b"Exif\x00\x00"
_ORIENTATION = 0x0112
_SHORT = 3
_MAX_ENTRIES = 512
# JPEG markers: start of a scan, comment, and the markers that have no length.
_SCAN, _COMMENT = 0xDA, 0xFE
_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})
# The segments of JFIF (APP0) and Adobe (APP14) define the colour space; the other APPn
# segments are metadata.
_APP0, _APP1, _APP14, _APP15 = 0xE0, 0xE1, 0xEE, 0xEF
_NO_FRAME = frozenset({0xC4, 0xC8, 0xCC})
_SEQUENTIAL = frozenset({0xC0, 0xC1})


@dataclass(frozen=True)
class Container:
    """A picture file, reduced to the parts that make the picture.

    Attributes:
        content: The bytes of the file without metadata and further frames.
        orientation: The EXIF orientation, 1 to 8; 1 if the file has none.
        row_by_row: True if a decoder needs only some rows in memory at a time.
        scans: Number of scans of a JPEG, each of which costs time for all pixels; 1
            for a PNG.
    """

    content: bytes
    orientation: int = 1
    row_by_row: bool = True
    scans: int = 1


def read_png(image: bytes, max_parts: int) -> Container:
    """Return the parts of a PNG that make the picture.

    Raises:
        InvalidImage: The file is damaged.
        TooLarge: The file has more than `max_parts` chunks.
    """
    kept: list[tuple[int, int]] = [(0, len(PNG))]
    orientation, position, count, kind = 1, len(PNG), 0, b""
    while kind != b"IEND" and position + 12 <= len(image):
        length = int.from_bytes(image[position : position + 4], "big")
        kind, end = image[position + 4 : position + 8], position + length + 12
        count += 1
        if count > max_parts:
            raise _too_many("PNG", max_parts)
        # A PNG has one header, at the start; a second would replace the size.
        if (kind == b"IHDR") != (count == 1):
            raise damaged("PNG")
        if kind == b"tRNS" and length > _MAX_TRANSPARENCY:
            raise damaged("PNG")
        if kind in _PNG_PARTS:
            kept.append((position, min(end, len(image))))
        elif kind == b"eXIf":
            orientation = _orientation(image[position + 8 : end - 4])
        position = end
    return Container(_joined(image, kept), orientation)


def read_jpeg(image: bytes, max_parts: int) -> Container:
    """Return the parts of a JPEG that make the picture.

    Raises:
        InvalidImage: The file is damaged.
        TooLarge: The file has more than `max_parts` segments before its first scan.
    """
    kept: list[tuple[int, int]] = [(0, 2)]
    orientation, position, count, colours, sequential = 1, 2, 0, 0, False
    while position + 4 <= len(image):
        marker = image[position + 1]
        if image[position] != 0xFF or marker in _ALONE or marker in (0x00, 0xFF):
            break
        count += 1
        if count > max_parts:
            raise _too_many("JPEG", max_parts)
        end = position + 2 + int.from_bytes(image[position + 2 : position + 4], "big")
        body = image[position + 4 : end]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            sequential, colours = marker in _SEQUENTIAL, (body[5] if body[5:] else 0)
        elif marker == _SCAN:
            kept.append((position, len(image)))
            return Container(
                _joined(image, kept),
                orientation,
                row_by_row=sequential and body[:1] == bytes([colours]),
                scans=image.count(b"\xff\xda", position),
            )
        if not _is_note(marker):
            kept.append((position, end))
        elif marker == _APP1 and body.startswith(_EXIF) and orientation == 1:
            orientation = _orientation(body[len(_EXIF) :])
        position = end
    raise damaged("JPEG")


def _is_note(marker: int) -> bool:
    return marker == _COMMENT or (_APP0 < marker <= _APP15 and marker != _APP14)


def _joined(image: bytes, kept: list[tuple[int, int]]) -> bytes:
    """Return the `kept` stretches of the image; the image itself if they cover it."""
    if sum(end - start for start, end in kept) == len(image):
        return image
    view = memoryview(image)
    return b"".join(view[start:end] for start, end in kept)


def _orientation(tiff: bytes) -> int:
    """Return the orientation in the first directory of EXIF data; 1 if it has none."""
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


def _too_many(name: str, max_parts: int) -> TooLarge:
    return TooLarge(
        f"The {name} has more than {max_parts:,} parts. Save it again without its "
        "metadata."
    )
