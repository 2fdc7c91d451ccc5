# SPDX-License-Identifier: Apache-2.0
"""Reduces a JPEG file to the segments that make the picture, and counts their cost.

The decoder gets only these segments, up to the end of the image. Comments, profiles,
thumbnails, the video of a motion photo, further pictures of an MPO file and gain maps
do not reach it. The markers are found as libjpeg finds them (ITU T.81, B.1.1.2): fill
bytes before a marker, and bytes between two segments, are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from inkling.errors import UnsupportedMediaType
from inkling.image.formats.containers import damaged, orientation_of, too_many_parts

__all__ = ["JPEG", "Component", "Jpeg", "Scan", "read_jpeg"]

JPEG = b"\xff\xd8\xff"

# Markers: TEM and RST have no length; the others are those of T.81, table B.1.
_TEM, _RST0, _RST7 = 0x01, 0xD0, 0xD7
_ALONE = frozenset({_TEM, *range(_RST0, _RST7 + 1)})
_START, _END, _SCAN, _COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
_FIRST_MARKER = 0xC0
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_BASELINE, _SEQUENTIAL, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
# The segments of JFIF (APP0) and Adobe (APP14) define the colour space; the other APPn
# segments are metadata.
_APP0, _APP1, _APP15 = 0xE0, 0xE1, 0xEF
_COLOUR_SPACES = {0xE0: b"JFIF", 0xEE: b"Adobe"}
_EXIF = b"Exif\x00\x00"
# Bytes of the image in which one pass looks for markers: few at first, because most
# segments are short.
_FIRST_LOOK, _LONGEST_LOOK = 1 << 12, 1 << 18
# Bytes of all tables; a JFIF segment may have a thumbnail of 64 KiB in it. Pillow reads
# tables in Python.
_MAX_TABLES = 1 << 17
_BLOCK = 8
_COEFFICIENTS = 64
_END_OF_IMAGE = b"\xff\xd9"
# Bytes with all bits set, as the standard pads a scan (T.81, F.1.2.3). The decoder
# looks ahead by up to eight bytes.
_ONES, _ZEROS = b"\xff\x00" * 16, b"\x00" * 16


@dataclass(frozen=True)
class Component:
    """One colour of a JPEG: its number, and its sampling factors."""

    number: int
    across: int
    down: int


@dataclass(frozen=True)
class Scan:
    """One pass over the picture.

    Attributes:
        components: The places of its components in the frame, from 0.
        first: Its first coefficient, 0 to 63.
        last: Its last coefficient, 0 to 63.
        refines: True if it adds a bit to coefficients of an earlier scan.
        low_bit: The lowest bit of a coefficient that it holds, 0 to 13.
        blocks: The blocks of 8 x 8 samples that it covers.
        size: Bytes of its compressed data.
    """

    components: tuple[int, ...]
    first: int
    last: int
    refines: bool
    low_bit: int
    blocks: int
    size: int


@dataclass
class Jpeg:
    """A JPEG file, reduced to the parts that make the picture.

    Attributes:
        image: The bytes of the file.
        tables: The segments before and between the scans, and the heads of scans, in
            bytes.
        pieces: The parts of the file that make the picture.
        orientation: The EXIF orientation, 1 to 8; 1 if the file has none.
        width: Columns, in pixels.
        height: Rows, in pixels.
        progressive: True if the scans refine each other.
        components: The colours.
        scans: The passes over the picture.
        ended: True if the file states the end of the image.
        size: Bytes of the file up to the end of the picture.
    """

    image: bytes
    tables: int = 0
    pieces: list[bytes | memoryview] = field(default_factory=lambda: [JPEG[:2]])
    orientation: int = 1
    width: int = 0
    height: int = 0
    progressive: bool = False
    components: tuple[Component, ...] = ()
    scans: list[Scan] = field(default_factory=list)
    ended: bool = False
    size: int = 0

    @property
    def row_by_row(self) -> bool:
        """True if a decoder needs only some rows in memory at a time."""
        return not self.progressive and self.scans[:1] != [] and self._holds_all()

    def _holds_all(self) -> bool:
        return len(self.scans[0].components) == len(self.components)

    def blocks(self, places: Sequence[int]) -> int:
        """Return how many blocks of 8 x 8 samples a scan of these components has."""
        chosen = [self.components[place] for place in places]
        across = max(one.across for one in self.components)
        down = max(one.down for one in self.components)
        if len(chosen) == 1:
            return _up(self.width * chosen[0].across, _BLOCK * across) * _up(
                self.height * chosen[0].down, _BLOCK * down
            )
        units = _up(self.width, _BLOCK * across) * _up(self.height, _BLOCK * down)
        return units * sum(one.across * one.down for one in chosen)

    @property
    def coefficient_bytes(self) -> int:
        """Bytes of all coefficients, which a decoder holds unless `row_by_row`."""
        return self.blocks(range(len(self.components))) * _COEFFICIENTS * 2

    def is_whole(self) -> bool:
        """Return whether the scans can hold the whole picture.

        Every coefficient of every component comes to its last bit in some scan, and no
        scan is shorter than the shortest codes for its blocks.
        """
        missing = {
            (place, n)
            for place in range(len(self.components))
            for n in range(_COEFFICIENTS)
        }
        for scan in self.scans:
            # A block takes at least one bit for its mean, and in a file that is not
            # progressive another bit for its end.
            bits = 1 if self.progressive else 2
            if scan.first == 0 and 8 * scan.size < bits * scan.blocks:
                return False
            if scan.low_bit == 0:
                span = range(scan.first, scan.last + 1)
                missing -= {(place, n) for place in scan.components for n in span}
        return not missing

    def content(self, padding: bytes = b"") -> bytes:
        """Return the parts that make the picture; `padding` follows the last scan."""
        return b"".join([*self.pieces, padding])

    def endings(self) -> tuple[bytes, ...]:
        """Return what to put behind the last scan so that a decoder finds a cut.

        A decoder that meets the end of the image too early fills the rest with grey and
        does not tell. Row by row, it needs no end: it finds too few bytes and fails,
        if only a few bits of padding follow. Otherwise it reads on to the end of the
        image, and a cut is found by two paddings that lead to different pictures.
        """
        if self.row_by_row:
            return (_ONES,)
        if self.ended:
            return (_END_OF_IMAGE,)
        return (_ONES + _END_OF_IMAGE, _ZEROS + _END_OF_IMAGE)


def read_jpeg(image: bytes, max_parts: int) -> Jpeg:
    """Return the parts of a JPEG that make the picture.

    Raises:
        InvalidImage: The file is damaged, or its scans are too short for the picture.
        TooLarge: The file has more than `max_parts` segments.
        UnsupportedMediaType: The file is a kind of JPEG that browsers do not show.
    """
    jpeg, position, count = Jpeg(image), 2, 0
    while not (jpeg.scans and jpeg.row_by_row):
        at = _next_marker(image, position, in_scan=False)
        if at < 0:
            position = len(image)
            break
        marker, position = image[at + 1], at + 2
        if marker == _END:
            jpeg.ended = True
            break
        count += 1
        if count > max_parts:
            raise too_many_parts("JPEG", max_parts)
        if marker not in _ALONE:
            position = _take(jpeg, marker, at)
    jpeg.size = position
    if not jpeg.scans or not jpeg.is_whole():
        raise damaged("JPEG")
    return jpeg


def _take(jpeg: Jpeg, marker: int, at: int) -> int:
    """Add one segment to the picture, or ignore it; return the place behind it."""
    length = int.from_bytes(jpeg.image[at + 2 : at + 4], "big")
    end = at + 2 + length
    if marker < _FIRST_MARKER or marker == _START or length < 2:
        raise damaged("JPEG")
    if end > len(jpeg.image):
        # A segment that is cut off damages the picture only if its scans depend on it.
        return len(jpeg.image)
    body = jpeg.image[at + 4 : end]
    if marker == _COMMENT or _APP0 <= marker <= _APP15:
        if marker == _APP1 and body.startswith(_EXIF) and jpeg.orientation == 1:
            jpeg.orientation = orientation_of(body)
        if not body.startswith(_COLOUR_SPACES.get(marker, b"-")):
            return end
    if marker in _FRAMES:
        _take_frame(jpeg, marker, body)
    jpeg.pieces.append(jpeg.image[at:end])
    jpeg.tables += end - at
    if jpeg.tables > _MAX_TABLES:
        raise damaged("JPEG")
    return _take_scan(jpeg, body, end) if marker == _SCAN else end


def _take_scan(jpeg: Jpeg, head: bytes, start: int) -> int:
    """Add the data of a scan, which begin at `start`; return the place behind them."""
    end = _next_marker(jpeg.image, start, in_scan=True)
    end = len(jpeg.image) if end < 0 else end
    data: memoryview | bytes = memoryview(jpeg.image)[start:end]
    if jpeg.image.find(b"\xff\xff", start, end + 1) >= 0:
        # Fill bytes, through which a decoder that gets its data piece by piece goes
        # again and again.
        values = np.frombuffer(jpeg.image, np.uint8, end - start, start)
        followed = np.append(values[1:] == 0xFF, False)
        data = values[~((values == 0xFF) & followed)].tobytes()
    jpeg.scans.append(_scan(jpeg, head, len(data)))
    jpeg.pieces.append(data)
    return end


def _take_frame(jpeg: Jpeg, marker: int, body: bytes) -> None:
    if marker not in (_BASELINE, _SEQUENTIAL, _PROGRESSIVE):
        raise UnsupportedMediaType(
            "The JPEG is coded in a way that browsers and phones do not show "
            "(arithmetic, lossless or hierarchical). Save it again as a baseline JPEG."
        )
    if jpeg.components or len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise damaged("JPEG")
    jpeg.progressive = marker == _PROGRESSIVE
    jpeg.height, jpeg.width = _short(body, 1), _short(body, 3)
    jpeg.components = tuple(
        Component(body[n], body[n + 1] >> 4, body[n + 1] & 15)
        for n in range(6, len(body), 3)
    )
    sampled = all(
        1 <= one.across <= 4 and 1 <= one.down <= 4 for one in jpeg.components
    )
    if body[0] != 8 or body[5] not in (1, 3, 4) or not sampled:
        raise damaged("JPEG")
    if not (jpeg.width and jpeg.height):
        raise damaged("JPEG")


def _scan(jpeg: Jpeg, body: bytes, size: int) -> Scan:
    count = body[0] if body else 0
    if not jpeg.components or not 1 <= count <= 4 or len(body) != 4 + 2 * count:
        raise damaged("JPEG")
    left = list(enumerate(one.number for one in jpeg.components))
    places = []
    for number in body[1 : 1 + 2 * count : 2]:
        # Some files give all components the same number; then their order counts.
        found = next((place for place, name in left if name == number), -1)
        if found < 0:
            raise damaged("JPEG")
        places.append(found)
        left = [(place, name) for place, name in left if place != found]
    first, last, bits = body[-3:]
    if not jpeg.progressive:
        first, last, bits = 0, _COEFFICIENTS - 1, 0
    if not first <= last < _COEFFICIENTS:
        raise damaged("JPEG")
    blocks = jpeg.blocks(places)
    return Scan(tuple(places), first, last, bits >> 4 > 0, bits & 15, blocks, size)


def _next_marker(image: bytes, position: int, *, in_scan: bool) -> int:
    """Return the place of the next marker's 0xFF; -1 if there is none.

    0xFF 0x00 is a byte of data, and of several 0xFF the last one begins the marker. In
    a scan, the markers RST0 to RST7 belong to its data.
    """
    here = image[position : position + 2]
    if not in_scan and here[:1] == b"\xff" and here[1:] not in (b"", b"\x00", b"\xff"):
        return position
    look = _FIRST_LOOK
    while position + 1 < len(image):
        part = np.frombuffer(
            image, np.uint8, min(look, len(image) - position), position
        )
        after = part[1:]
        begins = (part[:-1] == 0xFF) & (after != 0x00) & (after != 0xFF)
        if in_scan:
            begins &= (after < _RST0) | (after > _RST7)
        place = int(begins.argmax())
        if begins[place]:
            return position + place
        position, look = position + len(part) - 1, min(4 * look, _LONGEST_LOOK)
    return -1


def _short(body: bytes, place: int) -> int:
    return int.from_bytes(body[place : place + 2], "big")


def _up(length: int, unit: int) -> int:
    """Return how many units cover a length."""
    return -(-length // unit)
