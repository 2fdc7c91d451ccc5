# SPDX-License-Identifier: Apache-2.0
"""Oddities of PNG and JPEG that Pillow and browsers accept, and damage that nobody does."""

import io
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from inkling.errors import InvalidImage, TooLarge, UnsupportedMediaType
from inkling.image.budget import Budget, Limits
from inkling.image.decoding import decode
from tests.support.machine import within

Encode = Callable[..., bytes]


def _pixels(image: bytes, min_side: int = 512) -> np.ndarray:
    return np.asarray(decode(image, min_side, Budget()).picture)


@pytest.fixture(scope="module")
def page(sample: np.ndarray) -> np.ndarray:
    """A written page, in colour, with some noise; uint8."""
    grey = 255 - np.kron(sample, np.ones((8, 8), np.uint8))
    noise = np.random.default_rng(0).integers(0, 8, (*grey.shape, 3), np.uint8)
    return np.minimum(grey[..., None], 247) + noise


@pytest.fixture(scope="module")
def jpeg(page: np.ndarray, encode: Encode) -> bytes:
    """That page as a baseline JPEG."""
    return encode(page, "JPEG")


def _segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(content)) + content


def _behind_the_start(jpeg: bytes, addition: bytes) -> bytes:
    return jpeg[:2] + addition + jpeg[2:]


def _before_the_scan(jpeg: bytes, addition: bytes) -> bytes:
    place = jpeg.rindex(b"\xff\xda")
    return jpeg[:place] + addition + jpeg[place:]


_THUMBNAIL = b"\xff\xd8\xff\xda\0\x08\1\1\0\0\x3f\0abc\xff\xd9"
_ODD_JPEGS: dict[str, Callable[[bytes], bytes]] = {
    "video behind the end": lambda jpeg: jpeg + b"\0\0\0 ftypmp42" + b"\xff\xda\0" * 999,
    "second JPEG behind the end": lambda jpeg: jpeg + jpeg,
    "zeros behind the end": lambda jpeg: jpeg + bytes(9999),
    "a JPEG in a profile": lambda jpeg: _behind_the_start(
        jpeg, _segment(0xE2, b"MPF\0" + _THUMBNAIL)
    ),
    "a thumbnail in EXIF": lambda jpeg: _behind_the_start(
        jpeg, _segment(0xE1, b"Exif\0\0" + _THUMBNAIL * 9)
    ),
    "scan markers in a comment": lambda jpeg: _behind_the_start(
        jpeg, _segment(0xFE, b"\xff\xda" * 999)
    ),
    "fill bytes in the head": lambda jpeg: jpeg.replace(b"\xff\xdb", b"\xff" * 9 + b"\xdb"),
    "fill bytes before the scan": lambda jpeg: _before_the_scan(jpeg, b"\xff" * 9),
    "fill bytes before the end": lambda jpeg: jpeg[:-2] + b"\xff" * 9 + b"\xd9",
    "bytes between segments": lambda jpeg: _before_the_scan(jpeg, b"\0\1\2hello"),
    "escaped bytes between segments": lambda jpeg: _before_the_scan(jpeg, b"\xff\0" * 9),
    "a restart marker in the head": lambda jpeg: _before_the_scan(jpeg, b"\xff\xd3"),
    "no last byte": lambda jpeg: jpeg[:-1],
    "no end of image": lambda jpeg: jpeg[:-2],
    "a comment behind the scan": lambda jpeg: jpeg[:-2] + _segment(0xFE, b"x") + jpeg[-2:],
    "a cut segment behind the scan": lambda jpeg: jpeg[:-2] + b"\xff\xfe\xff\xffx",
}  # fmt: skip


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("odd", _ODD_JPEGS)
def test_odd_jpegs_are_read(
    odd: str, progressive: bool, page: np.ndarray, encode: Encode
) -> None:
    """What Pillow and browsers show of an odd JPEG is what Inkling reads."""
    plain = encode(page, "JPEG", progressive=progressive)

    assert np.array_equal(_pixels(plain), _pixels(_ODD_JPEGS[odd](plain)))


@pytest.mark.parametrize(
    "options",
    [
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 1},
        {"optimize": True},
        {"subsampling": 0},
        {"subsampling": 1},
        {"progressive": True, "restart_marker_rows": 1},
        {"progressive": True, "subsampling": 0},
        {"quality": 1},
        {"quality": 100},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_are_read_as_pillow_reads_them(
    mode: str, options: dict[str, int], page: np.ndarray, encode: Encode
) -> None:
    """Every way in which Pillow writes a JPEG is read to the bit."""
    image = encode(Image.fromarray(page).convert(mode), "JPEG", **options)
    expected = Image.open(io.BytesIO(image))

    assert np.array_equal(
        np.asarray(expected.convert("RGB") if mode == "CMYK" else expected),
        _pixels(image),
    )


@pytest.mark.parametrize("place", ["head", "scan", "data", "end"])
def test_fill_bytes_cost_little(place: str, jpeg: bytes) -> None:
    """Eight million fill bytes are skipped in little time, wherever they stand."""
    fill = b"\xff" * (8 * 2**20 - len(jpeg))
    image = {
        "head": _behind_the_start(jpeg, fill),
        "scan": _before_the_scan(jpeg, fill),
        "data": jpeg.replace(b"\xff\0", fill + b"\0", 1),
        "end": jpeg[:-2] + fill + jpeg[-2:],
    }[place]
    started = time.process_time()

    assert np.array_equal(_pixels(jpeg), _pixels(image))

    within(time.process_time() - started, 0.1)


@pytest.mark.parametrize(
    "filling",
    [b"\xff\xff\0", b"\xff\0", b"\xff\xd0", b"\xff\xff\xd0", b"\0"],
    ids=lambda filling: filling.hex(),
)
@pytest.mark.parametrize("progressive", [False, True])
def test_long_scans_cost_little(
    filling: bytes, progressive: bool, page: np.ndarray, encode: Encode
) -> None:
    """Eight million bytes that a scan does not need cost little time."""
    image = encode(page, "JPEG", progressive=progressive)
    number = (8 * 2**20 - len(image)) // len(filling)
    image = image[:-2] + filling * number + image[-2:]
    started = time.process_time()

    with suppress(InvalidImage, TooLarge):
        _pixels(image)

    within(time.process_time() - started, 0.25)


def test_only_the_picture_counts_as_bytes(jpeg: bytes) -> None:
    """A video behind the picture does not count for the limit on bytes."""
    budget = Budget(Limits(max_bytes=len(jpeg)))

    assert decode(jpeg + bytes(2 * len(jpeg)), 512, budget)
    with pytest.raises(TooLarge, match="bytes"):
        decode(_behind_the_start(jpeg, _segment(0xFE, b"x")), 512, budget)


@pytest.mark.parametrize("place", range(8))
def test_a_wrong_signature_is_no_png(
    place: int, sample: np.ndarray, encode: Encode
) -> None:
    """A sample whose signature has a wrong byte is no picture."""
    image = bytearray(encode(sample))
    image[place] ^= 1

    with pytest.raises(InvalidImage, match="no PNG, JPEG|damaged"):
        _pixels(bytes(image))


def _without_a_scan(jpeg: bytes) -> bytes:
    return jpeg[: jpeg.rindex(b"\xff\xda")] + b"\xff\xd9"


def _of_size(jpeg: bytes, width: int, height: int) -> bytes:
    place = jpeg.index(b"\xff\xc0")
    return jpeg[: place + 5] + struct.pack(">HH", height, width) + jpeg[place + 9 :]


def _scan_cut(jpeg: bytes, share: float, end: bytes = b"\xff\xd9") -> bytes:
    start = jpeg.rindex(b"\xff\xda") + 14
    return jpeg[: start + int(share * (len(jpeg) - 2 - start))] + end


_DAMAGED_JPEGS: dict[str, Callable[[bytes], bytes]] = {
    "24 megapixels without a scan": lambda jpeg: _of_size(
        _without_a_scan(jpeg), 6000, 4000
    ),
    "24 megapixels in a small scan": lambda jpeg: _of_size(jpeg, 6000, 4000),
    "one row of blocks too many": lambda jpeg: _of_size(jpeg, 224, 240),
    "an empty scan": lambda jpeg: _scan_cut(jpeg, 0),
    "half of a scan": lambda jpeg: _scan_cut(jpeg, 0.5),
    "nearly a whole scan": lambda jpeg: _scan_cut(jpeg, 0.97),
    "half of a scan and no end": lambda jpeg: _scan_cut(jpeg, 0.5, b""),
    "another marker in the scan": lambda jpeg: _scan_cut(jpeg, 0.5, b"\xff\x37abc"),
    "a second frame": lambda jpeg: _before_the_scan(
        jpeg, jpeg[jpeg.index(b"\xff\xc0") :][:19]
    ),
    "a scan before the frame": lambda jpeg: _behind_the_start(
        jpeg, _segment(0xDA, b"\1\1\0\0\x3f\0")
    ),
    "no frame": lambda jpeg: jpeg.replace(b"\xff\xc0\0\x11", b"\xff\xfe\0\x11"),
    "no rows, which DNL would state": lambda jpeg: _of_size(jpeg, 224, 0),
    "a second start": lambda jpeg: _before_the_scan(jpeg, b"\xff\xd8"),
    "a length of 1": lambda jpeg: _before_the_scan(jpeg, b"\xff\xfe\0\1"),
    "an unknown component": lambda jpeg: jpeg.replace(
        b"\xff\xda\0\x0c\3\1", b"\xff\xda\0\x0c\3\7"
    ),
}


@pytest.mark.parametrize("damage", _DAMAGED_JPEGS)
def test_damaged_jpegs_are_refused(damage: str, jpeg: bytes) -> None:
    """A JPEG that lacks rows, a scan or its frame is refused as damaged, in little time."""
    image = _DAMAGED_JPEGS[damage](jpeg)
    assert image != jpeg
    started = time.process_time()

    with pytest.raises(InvalidImage, match="damaged"):
        _pixels(image)

    within(time.process_time() - started, 0.25)


def test_progressive_jpegs_without_their_last_scans_are_refused(
    page: np.ndarray, encode: Encode
) -> None:
    """A progressive JPEG that lacks scans is refused, with and without an end."""
    image = encode(page, "JPEG", progressive=True)
    starts = [n for n in range(len(image)) if image.startswith(b"\xff\xda", n)]

    for start in starts:
        for end in (b"", b"\xff\xd9"):
            with pytest.raises(InvalidImage):
                _pixels(image[:start] + end)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_progressive_jpeg_cut_in_its_last_scan(
    share: float, page: np.ndarray, encode: Encode
) -> None:
    """A progressive JPEG that was cut is refused, or decodes to all of its pixels."""
    image = encode(page, "JPEG", progressive=True)
    cut = _scan_cut(image, share, b"")

    with pytest.raises(InvalidImage):
        _pixels(cut)
    # At 1/8 of the size, only the means of the blocks count, and none of these is cut.
    assert np.array_equal(_pixels(image, 16), _pixels(cut, 16))


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC9, 0xCA, 0xCF])
def test_jpegs_that_browsers_do_not_show(marker: int, jpeg: bytes) -> None:
    """Arithmetic, lossless and hierarchical JPEGs are refused with what to do."""
    image = jpeg.replace(b"\xff\xc0", bytes((0xFF, marker)))

    with pytest.raises(UnsupportedMediaType, match="baseline"):
        _pixels(image)


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def _png(
    pixels: np.ndarray, cut: Callable[[bytes], list[bytes]], *more: bytes
) -> bytes:
    """Return a grey PNG whose compressed pixels `cut` divides into chunks."""
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = np.pad(pixels, ((0, 0), (1, 0))).tobytes()
    data = b"".join(_chunk(b"IDAT", piece) for piece in cut(zlib.compress(rows)))
    end = b"".join(more) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + data + end


@pytest.mark.parametrize(
    "image",
    [
        lambda p: _png(p, lambda data: [data[:9], data[9:]]),
        lambda p: _png(p, lambda data: [data[n : n + 1] for n in range(len(data))]),
        lambda p: _png(p, lambda data: [b"", data, b""]),
        lambda p: _png(p, lambda data: [data + b"more"]),
        lambda p: _png(p, lambda data: [data[:-4]]),
        lambda p: _png(p, lambda data: [data], _chunk(b"tEXt", b"k\0v")),
        lambda p: _png(p, lambda data: [data], _chunk(b"tRNS", b"\0\0")),
        lambda p: _png(p, lambda data: [data], b"\0\0\0\1tEXtx\0\0\0\0"),
        lambda p: _png(p, lambda data: [data], b"\xff\0\0\0tEXt"),
        lambda p: _png(p, lambda data: [data])[:-12],
        lambda p: _png(p, lambda data: [data])[:-1],
        lambda p: _png(p, lambda data: [data]) + b"video" * 99,
    ],
    ids=[
        "two IDAT", "an IDAT per byte", "empty IDAT", "bytes behind the pixels",
        "no checksum of the pixels", "text behind the pixels",
        "transparency behind the pixels", "text with a wrong checksum", "cut text",
        "no IEND", "half an IEND", "bytes behind the end",
    ],
)  # fmt: skip
def test_odd_pngs_are_read(
    image: Callable[[np.ndarray], bytes], sample: np.ndarray
) -> None:
    """What Pillow and browsers show of an odd PNG is what Inkling reads."""
    assert np.array_equal(sample, _pixels(image(sample)))


@pytest.mark.parametrize(
    "image",
    [
        lambda p: _png(p[:14], lambda data: [data]).replace(
            *(_chunk(b"IHDR", struct.pack(">II5B", 28, n, 8, 0, 0, 0, 0)) for n in (14, 28))
        ),
        lambda p: _png(p, lambda data: [data[: len(data) // 2]]),
        lambda p: _png(p, lambda data: [zlib.compress(b"")]),
        lambda p: _png(p, lambda data: [zlib.compress(bytes(29 * 27)) + b"more"]),
        lambda p: _png(p, lambda data: []),
        lambda p: _png(p, lambda data: [data])[:-40],
        lambda p: _png(p, lambda data: [b"\0" + data]),
    ],
    ids=[
        "half the rows", "half the data", "no row", "a row too few", "no data",
        "cut data", "no stream",
    ],
)  # fmt: skip
@pytest.mark.parametrize("scale", [1, 5])
def test_pngs_without_all_rows_are_refused(
    image: Callable[[np.ndarray], bytes], scale: int, sample: np.ndarray
) -> None:
    """A PNG whose pixels end before its last row is refused as damaged."""
    if scale > 1 and image(sample).count(struct.pack(">II", 28, 28)) == 0:
        return
    with pytest.raises(InvalidImage, match="damaged"):
        _pixels(image(sample))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_flipped_bit_never_gives_another_picture(
    mode: str, sample: np.ndarray, encode: Encode
) -> None:
    """A PNG with one wrong bit is refused, or decodes to the same pixels."""
    if mode == "I;16":
        image = encode(Image.fromarray(sample.astype(np.uint16) * 257))
    else:
        image = encode(Image.fromarray(sample).convert(mode))
    expected = _pixels(image)
    for bit in range(8 * len(image)):
        flipped = bytearray(image)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = _pixels(bytes(flipped))
        except InvalidImage:
            continue
        assert np.array_equal(expected, found), bit
