# SPDX-License-Identifier: Apache-2.0
import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from inkling.errors import (
    InklingError,
    InvalidImage,
    TooLarge,
    UnsupportedMediaType,
)
from inkling.image import decoding
from inkling.image.budget import Budget, Limits
from inkling.image.decoding import Decoded, decode
from inkling.image.formats import png
from tests.support.machine import within

Encode = Callable[..., bytes]
_MIN_SIDE = 512


def _decode(image: bytes, **limits: int) -> Image.Image:
    return decode(image, _MIN_SIDE, Budget(Limits(**limits))).picture


def _png(
    width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8
) -> bytes:
    """Return a PNG of the given chunks, which may be wrong."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data))
        + name
        + data
        + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("image", [b"", b"\x89", b"hello", b"\x00" * 100, b"\xff\xd8"])
def test_bytes_that_are_no_picture(image: bytes) -> None:
    """Bytes that do not start like a picture are an invalid image."""
    with pytest.raises(InvalidImage, match="no PNG, JPEG|empty"):
        _decode(image)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_at_every_thirty_second(
    kind: str, encode: Encode, sample: np.ndarray
) -> None:
    """A picture that was cut short is refused, or decodes to all of its pixels."""
    whole = encode(np.kron(sample, np.ones((4, 4), np.uint8)), kind)
    expected = np.asarray(_decode(whole))
    for part in range(32):
        cut = whole[: len(whole) * part // 32]
        try:
            found = np.asarray(_decode(cut))
        except InvalidImage:
            continue
        assert np.array_equal(expected, found)


@pytest.mark.parametrize("size", [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (8193, 1)])
def test_huge_headers_cost_nothing(size: tuple[int, int]) -> None:
    """A header of 74 bytes that states gigapixels is refused before pixels are decoded."""
    image = _png(*size, (b"IDAT", zlib.compress(b"")))
    started = time.process_time()

    with pytest.raises((TooLarge, InvalidImage)):
        _decode(image)

    within(time.process_time() - started, 0.25)


def test_bombs_are_refused_by_their_size() -> None:
    """A real picture of a gigapixel is refused before it is decoded."""
    rows = zlib.compressobj(9)
    row = bytes(1 + 32_000 // 8)
    data = b"".join(rows.compress(row) for _ in range(32_000)) + rows.flush()
    image = _png(32_000, 32_000, (b"IDAT", data), depth=1)
    tracemalloc.start()
    started = time.process_time()

    with pytest.raises(TooLarge):
        _decode(image)

    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()
    within(time.process_time() - started, 0.25)


@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_pixel_limit_is_exact(excess: int, encode: Encode) -> None:
    """One pixel less than the limit and the limit itself pass; one more does not."""
    image = encode(np.zeros((1, 1000 + excess), np.uint8))
    if excess > 0:
        with pytest.raises(TooLarge):
            _decode(image, max_pixels=1000)
    else:
        assert _decode(image, max_pixels=1000).size == (1000 + excess, 1)


@pytest.mark.parametrize("excess", [0, 1])
def test_byte_limit_is_exact(excess: int, encode: Encode, sample: np.ndarray) -> None:
    """The limit on encoded bytes counts them all."""
    image = encode(sample)
    if excess:
        with pytest.raises(TooLarge, match="bytes"):
            _decode(image, max_bytes=len(image) - 1)
    else:
        assert _decode(image, max_bytes=len(image)).size == (28, 28)


def test_notes_cost_nothing(encode: Encode, sample: np.ndarray) -> None:
    """Text that inflates to 70 MiB is not inflated; 50,000 text chunks are refused."""
    bomb = b"k\x00\x00" + zlib.compress(b"\x00" * (70 * 2**20), 9)
    image = _png(4, 4, (b"zTXt", bomb), (b"IDAT", zlib.compress(b"\x00" * 20)))
    notes = PngImagePlugin.PngInfo()
    for number in range(50_000):
        notes.add_text(f"k{number}", "v")
    many = encode(sample, pnginfo=notes)
    started = time.process_time()

    assert _decode(image).size == (4, 4)
    with pytest.raises(TooLarge, match="parts"):
        _decode(many)

    within(time.process_time() - started, 0.25)


@pytest.mark.parametrize("filling", [b"\xff\xfe\x00\x02", b"\xff\xd0"])
def test_endless_jpeg_headers_are_refused(
    filling: bytes, encode: Encode, sample: np.ndarray
) -> None:
    """A JPEG with a million comments or stray markers is refused in little time."""
    image = encode(sample, "JPEG")
    started = time.process_time()

    with pytest.raises((TooLarge, InvalidImage)):
        _decode(image[:2] + filling * 1_000_000 + image[2:])

    within(time.process_time() - started, 0.25)


def test_a_second_header_is_refused(encode: Encode, sample: np.ndarray) -> None:
    """A PNG with a second header counts as damaged."""
    image = encode(sample)
    header = image[8:33]

    with pytest.raises(InvalidImage):
        _decode(image[:33] + header + image[33:])


def test_what_follows_the_end_is_not_read(encode: Encode, sample: np.ndarray) -> None:
    """Bytes behind the end of a PNG are ignored."""
    image = encode(sample) + b"\x00" * 100_000

    assert np.array_equal(sample, np.asarray(_decode(image)))


def test_damaged_notes_are_no_damaged_picture(
    encode: Encode, sample: np.ndarray
) -> None:
    """A damaged EXIF block is ignored, and the picture is decoded."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG"):
        image = encode(sample, kind, exif=exif)
        assert decode(image, _MIN_SIDE, Budget()).orientation == 6
        for start in (image.index(b"MM\x00*"), image.index(b"MM\x00*") + 4):
            broken = image[:start] + b"\xee" * 4 + image[start + 4 :]
            assert decode(broken, _MIN_SIDE, Budget()).orientation == 1


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "ICO", "JPEG2000", "PDF"])
def test_other_formats_are_named(kind: str, encode: Encode, sample: np.ndarray) -> None:
    """A picture in another format is refused without being decoded, and its format is named."""
    with pytest.raises(UnsupportedMediaType, match="expected PNG, JPEG, WebP"):
        _decode(encode(sample, kind))


@pytest.mark.parametrize("image", [b"%!PS-Adobe", b"<svg/>", b"\x00\x00\x00 ftypheic"])
def test_other_formats_without_an_encoder_here(image: bytes) -> None:
    """PostScript, SVG and a phone's HEIC are refused, too."""
    with pytest.raises(UnsupportedMediaType):
        _decode(image)


def test_frames_after_the_first_are_not_decoded(
    encode: Encode, sample: np.ndarray
) -> None:
    """An animated PNG is decoded to its first frame."""
    frames = [Image.fromarray(255 - sample)] * 100
    image = encode(sample, save_all=True, append_images=frames)

    assert np.array_equal(sample, np.asarray(_decode(image)))


def test_no_pixels(encode: Encode) -> None:
    """A picture with a width of 0 counts as damaged."""
    with pytest.raises((InvalidImage, TooLarge)):
        _decode(_png(0, 4, (b"IDAT", zlib.compress(b"\x00" * 4))))


def test_phone_pictures_are_reduced_while_decoding(encode: Encode) -> None:
    """A 12-megapixel JPEG decodes at a scale that keeps both sides at 512 or more."""
    grey = np.zeros((3000, 4000), np.uint8)

    assert _decode(encode(grey, "JPEG")).size == (1000, 750)


def test_progressive_jpegs_are_bounded_by_their_coefficients(encode: Encode) -> None:
    """A progressive JPEG of 12 megapixels is decoded; one that needs more memory is not."""
    colour = Image.new("RGB", (4032, 3024), (90, 120, 200))
    tracemalloc.start()

    assert _decode(encode(colour, "JPEG", progressive=True)).size == (1008, 756)
    with pytest.raises(TooLarge, match="progressive"):
        _decode(encode(colour, "JPEG", progressive=True, subsampling=0))

    tracemalloc.stop()


def test_many_scans_are_refused(encode: Encode) -> None:
    """A progressive JPEG of a thousand scans is refused; each costs time for a few bytes."""
    image = encode(np.zeros((640, 640, 3), np.uint8), "JPEG", progressive=True)
    start = image.rindex(b"\xff\xda")
    started = time.process_time()

    with pytest.raises(TooLarge, match="too long"):
        _decode(image[:-2] + image[start:-2] * 1000 + b"\xff\xd9")

    within(time.process_time() - started, 0.25)


def test_images_of_a_request_share_a_budget(encode: Encode) -> None:
    """Pictures that are each within the limit are refused where their sum is over it."""
    image = encode(np.zeros((1500, 1500, 3), np.uint8))
    budget = Budget()

    def decode_many() -> None:
        for _ in range(100):
            decode(image, _MIN_SIDE, budget)

    assert decode(image, _MIN_SIDE, budget)
    with pytest.raises(TooLarge, match="several requests"):
        decode_many()


@pytest.mark.parametrize("mask", [0x01, 0x20, 0xFF])
def test_the_short_way_for_samples_is_no_other_way(
    sample: np.ndarray, encode: Callable[..., bytes], mask: int
) -> None:
    """The reader for grey samples gives the pixels, or the error, of the reader for all PNGs."""
    image = encode(sample)
    assert png.sample(image) is not None
    with_note = PngImagePlugin.PngInfo()
    with_note.add_text("Comment", "so that it goes the common way")
    common = decode(encode(sample, pnginfo=with_note), 512, Budget())

    assert decode(image, 512, Budget()).came_as == common.came_as
    assert np.array_equal(np.asarray(common.picture), sample)
    for place in range(len(image)):
        damaged = bytearray(image)
        damaged[place] ^= mask
        assert _outcome(decode, bytes(damaged)) == _outcome(_common_way, bytes(damaged))
    for length in range(len(image)):
        assert _outcome(decode, image[:length]) == _outcome(_common_way, image[:length])


def _common_way(image: bytes, min_side: int, budget: Budget) -> Decoded:
    if not image.startswith(decoding.PNG):
        return decode(image, min_side, budget)
    container = decoding.read_png(image, budget.limits.max_parts)
    return decoding._decode_rows(png.PngRows(container), min_side, budget)


def _outcome(way: Callable[..., Decoded], image: bytes) -> object:
    try:
        decoded = way(image, 512, Budget())
    except InklingError as error:
        return error.code, error.message
    return decoded.picture.mode, decoded.picture.tobytes(), decoded.came_as


_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_KINDS = [
    (colour, depth)
    for colour, depths in {
        0: (1, 2, 4, 8, 16),
        2: (8, 16),
        3: (1, 2, 4, 8),
        4: (8, 16),
        6: (8, 16),
    }.items()
    for depth in depths
]


def _filtered(width: int, height: int, depth: int, colour: int) -> bytes:
    """Return a PNG of noise in which the rows have filters of every kind."""
    dice = np.random.default_rng(width)
    length = (width * depth * _SAMPLES[colour] + 7) // 8
    rows = dice.integers(0, 128, (height, 1 + length), np.uint8) * np.uint8(2)
    rows[:, 0] = dice.integers(0, 5, height)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = [(b"PLTE", dice.bytes(768))] if colour == 3 else []
    parts = [(b"IHDR", header), *palette, (b"IDAT", zlib.compress(rows.tobytes(), 1))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + name
        + data
        + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*parts, (b"IEND", b"")]
    )


@pytest.mark.parametrize("size", [(7, 5), (301, 1200), (1031, 1047)])
@pytest.mark.parametrize(("colour", "depth"), _KINDS)
def test_strips_are_pillows_picture(
    colour: int, depth: int, size: tuple[int, int]
) -> None:
    """A PNG that is read some rows at a time is what Pillow reads as a whole, reduced."""
    image = _filtered(*size, depth, colour)
    expected = Image.open(io.BytesIO(image))
    if expected.mode == "I;16":
        expected = Image.fromarray((np.asarray(expected) >> 8).astype(np.uint8))
    mode = {0: "L", 2: "RGB", 3: "RGB", 4: "RGBA", 6: "RGBA"}[colour]
    expected = expected.convert(mode)
    if min(size) >= 2 * _MIN_SIDE:
        expected = expected.reduce(2)

    found = _decode(image)

    assert (found.mode, found.size) == (expected.mode, expected.size)
    assert np.array_equal(np.asarray(expected), np.asarray(found))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((8064, 6048), (1008, 756)),
        ((3840, 2160), (960, 540)),
        ((1440, 3088), (720, 1544)),
        ((1000, 9000), (500, 4500)),
        ((60_000, 100), (30_000, 50)),
        ((4960, 7016), (620, 877)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_pictures_are_reduced_while_they_are_read(
    kind: str, size: tuple[int, int], expected: tuple[int, int], encode: Encode
) -> None:
    """Photos, scans and screenshots of any size are read into little memory."""
    image = encode(Image.new("L", size, 200), kind)
    tracemalloc.start()

    found = _decode(image)

    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()
    assert found.size == expected
    assert found.getextrema() == (200, 200)
