# SPDX-License-Identifier: Apache-2.0
"""WebP, GIF and BMP: the same pixels as a PNG, and nothing half decoded."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from inkling.errors import InklingError, InvalidImage, TooLarge, UnsupportedMediaType
from inkling.image.budget import Budget, Limits
from inkling.image.decoding import Decoded, decode
from inkling.image.formats.catalogue import FORMATS, format_of
from inkling.image.formats.webp import read_webp
from tests.support.picture_files import (
    animated_webp,
    bmp,
    chunk,
    encoded,
    frame_of,
    gif,
    gif_blocks,
    lossless_webp_of_sets,
    webp,
)

_MIN_SIDE = 28
_SIZES = [(1, 1), (28, 28), (41, 30), (300, 257), (523, 400)]
_DICE = np.random.default_rng(0)


def _decoded(image: bytes, **limits: int) -> Decoded:
    return decode(image, _MIN_SIDE, Budget(Limits(**limits)))


def _pixels(image: bytes) -> np.ndarray:
    """Return what is decoded, as RGBA."""
    return np.asarray(_decoded(image).picture.convert("RGBA"))


def _refusal(image: bytes) -> str:
    with pytest.raises(InklingError) as caught:
        _decoded(image)
    return type(caught.value).__name__


def _picture(mode: str, size: tuple[int, int]) -> Image.Image:
    bands = {"RGB": 3, "RGBA": 4, "LA": 2}.get(mode, 1)
    pixels = _DICE.integers(0, 256, (size[1], size[0], bands), np.uint8)
    if mode == "1":
        return Image.fromarray(pixels[:, :, 0] > 127)
    if mode in ("P", "P with opacity"):
        picture = Image.fromarray(pixels[:, :, 0] // 4, "L").convert("P")
        picture.putpalette(_DICE.integers(0, 256, 768, np.uint8).tobytes())
        return picture
    return Image.fromarray(pixels[:, :, 0] if bands == 1 else pixels)


def _webp(picture: Image.Image, **options: object) -> bytes:
    return encoded(picture, "WEBP", lossless=True, exact=True, method=1, **options)


def _with_alpha_bmp(picture: Image.Image) -> bytes:
    pixels = np.asarray(picture)[:, :, [2, 1, 0, 3]].tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    size = (picture.width, -picture.height)
    return bmp(size, 32, pixels, compression=3, masks=masks, header=108)


_SAME = [
    *(("WebP", mode, _webp) for mode in ("RGB", "RGBA")),
    *(("BMP", mode, lambda p: encoded(p, "BMP")) for mode in ("1", "L", "P", "RGB")),
    ("BMP", "RGBA", _with_alpha_bmp),
    *(("GIF", mode, lambda p: encoded(p, "GIF")) for mode in ("1", "L", "P")),
    ("GIF", "P", lambda p: encoded(p, "GIF", interlace=0)),
    ("GIF", "P with opacity", lambda p: encoded(p, "GIF", transparency=7)),
]


@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize(
    ("name", "mode", "encode"), _SAME, ids=[f"{one[0]} {one[1]}" for one in _SAME]
)
def test_same_pixels_as_a_png(
    name: str,
    mode: str,
    encode: Callable[[Image.Image], bytes],
    size: tuple[int, int],
) -> None:
    """A file without loss gives the pixels of the PNG, also where it is reduced."""
    picture = _picture(mode, size)
    options = {"transparency": 7} if mode == "P with opacity" else {}
    found = _decoded(encode(picture))

    assert np.array_equal(
        np.asarray(found.picture.convert("RGBA")),
        _pixels(encoded(picture, "PNG", **options)),
    )
    assert found.came_as.startswith(f"{name}, mode ")


def test_lossy_webp_is_what_pillow_shows() -> None:
    """A lossy WebP, with opacity or without, has the pixels that Pillow decodes."""
    for mode in ("RGB", "RGBA"):
        soft = _picture(mode, (9, 7)).resize((90, 70), Image.Resampling.BICUBIC)
        file = encoded(soft, "WEBP", quality=60)
        shown = Image.open(io.BytesIO(file)).convert("RGBA")
        found = decode(file, 70, Budget()).picture
        assert found.mode == mode
        assert np.array_equal(np.asarray(found.convert("RGBA")), np.asarray(shown))


@pytest.mark.parametrize("form", range(1, 9))
def test_orientation_of_a_webp(form: int) -> None:
    """The EXIF data of a WebP, which stand behind its pixels, turn it."""
    exif = Image.Exif()
    exif[0x0112] = form

    assert _decoded(_webp(_picture("RGB", (40, 30)), exif=exif)).orientation == form


def test_colour_profiles_do_not_count() -> None:
    """A profile changes nothing, as in a PNG."""
    picture = _picture("RGB", (40, 30))
    with_profile = _webp(picture, icc_profile=b"no profile" * 99)

    assert b"ICCP" in with_profile
    assert np.array_equal(_pixels(with_profile), _pixels(encoded(picture, "PNG")))


_WHOLE = {
    "WebP, lossless": _webp,
    "WebP, lossy": lambda p: encoded(p, "WEBP"),
    "WebP, with EXIF": lambda p: _webp(p, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
    "WebP, animated": lambda p: _webp(p, save_all=True, append_images=[p.rotate(90)]),
    "GIF": lambda p: encoded(p.convert("P"), "GIF"),
    "GIF, interlaced": lambda p: encoded(p.convert("L"), "GIF", interlace=1),
    "GIF, animated": lambda p: encoded(
        p, "GIF", save_all=True, append_images=[p.rotate(90)]
    ),
    "BMP": lambda p: encoded(p, "BMP"),
    "BMP, palette": lambda p: encoded(p.convert("P"), "BMP"),
}


@pytest.mark.parametrize("name", _WHOLE)
def test_cut_at_every_length(name: str) -> None:
    """A file that was cut off is refused, or has all of its pixels."""
    whole = _WHOLE[name](_picture("RGB", (9, 7)).resize((31, 22)))
    expected = _pixels(whole).tobytes()
    answered = 0
    for length in range(len(whole)):
        try:
            found = _pixels(whole[:length])
        except (InvalidImage, TooLarge):
            continue
        answered += 1
        assert found.tobytes() == expected, length
    # Only what follows the pixels may be missing, and of a WebP not even that.
    assert answered == 0 or "GIF" in name


@pytest.mark.parametrize("kind", ["WEBP", "GIF"])
def test_the_first_frame_is_the_picture(kind: str) -> None:
    """Of an animation, the first frame is classified, as a still viewer shows it."""
    first = _picture("L", (40, 30)).convert("P" if kind == "GIF" else "RGB")
    others = [first.rotate(90 * turn) for turn in (1, 2, 3)]
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(first, kind, save_all=True, append_images=others, **options)

    assert Image.open(io.BytesIO(file)).n_frames == 4
    assert np.array_equal(_pixels(file), _pixels(encoded(first, "PNG")))


@pytest.mark.parametrize("kind", ["WebP", "GIF"])
def test_a_frame_on_a_larger_canvas(kind: str) -> None:
    """The rest of the canvas is transparent, also where the picture is reduced."""
    frame = _picture("L", (40, 30)).convert("RGB")
    if kind == "WebP":
        file = animated_webp((300, 200), [(frame_of(_webp(frame)), (20, 10, 40, 30))])
    else:
        small = encoded(frame.convert("L"), "GIF", interlace=0)
        start = small.index(b"\x2c", 13 + 768) + 11
        pixels = small[start:-1]
        palette = small[13 : 13 + 768]
        place = (20, 10, 40, 30)
        file = gif((300, 200), place, pixels, palette=palette)
    canvas = Image.new("RGBA", (300, 200))
    canvas.paste(frame, (20, 10))

    assert np.array_equal(_pixels(file), _pixels(encoded(canvas, "PNG")))


def test_a_gif_frame_beyond_the_screen_widens_it() -> None:
    """Browsers show such a frame in full."""
    picture = _picture("L", (40, 30))
    file = bytearray(encoded(picture, "GIF"))
    file[6:10] = struct.pack("<HH", 0, 7)

    assert np.array_equal(_pixels(bytes(file)), _pixels(encoded(picture, "PNG")))


def _rows(bits: int, size: tuple[int, int]) -> bytes:
    stride = (size[0] * bits + 31) // 32 * 4
    return _DICE.integers(0, 256, stride * size[1], np.uint8).tobytes()


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize("bits", [1, 4, 8, 16, 24, 32])
def test_bmps_are_what_pillow_shows(bits: int, upwards: bool) -> None:
    """Every depth, from the top or from the bottom, has the pixels that Pillow shows."""
    size = (41, 30)
    palette = _DICE.integers(0, 256, 4 << bits, np.uint8).tobytes() if bits < 9 else b""
    height = size[1] if upwards else -size[1]
    file = bmp((size[0], height), bits, _rows(bits, size), palette=palette)
    shown = Image.open(io.BytesIO(file)).convert("RGBA")

    assert np.array_equal(_pixels(file), np.asarray(shown))


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, (0xF800, 0x7E0, 0x1F)),
        (16, (0x7C00, 0x3E0, 0x1F)),
        (32, (0xFF0000, 0xFF00, 0xFF)),
        (32, (0xFF000000, 0xFF0000, 0xFF00)),
    ],
)
def test_bmps_with_masks(bits: int, masks: tuple[int, ...]) -> None:
    """The orders of colours that programs write have the pixels that Pillow shows."""
    file = bmp((41, 30), bits, _rows(bits, (41, 30)), compression=3, masks=masks)

    shown = Image.open(io.BytesIO(file)).convert("RGBA")
    assert np.array_equal(_pixels(file), np.asarray(shown))


def test_bmps_with_red_first() -> None:
    """An order that Pillow's own reader lacks is read, too."""
    rows = _rows(32, (41, 30))
    orders = ((0xFF, 0xFF00, 0xFF0000), (0xFF0000, 0xFF00, 0xFF))
    red, blue = (
        _pixels(bmp((41, 30), 32, rows, compression=3, masks=masks)) for masks in orders
    )

    assert np.array_equal(red, blue[:, :, [2, 1, 0, 3]])


def test_a_bmp_whose_opacity_is_0_everywhere_is_opaque() -> None:
    """Some programs leave the opacity out and mean an opaque picture."""
    pixels = np.dstack([np.asarray(_picture("RGB", (41, 30))), np.zeros((30, 41))])
    picture = Image.fromarray(pixels.astype(np.uint8))

    found = _decoded(_with_alpha_bmp(picture)).picture

    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), pixels[:, :, :3])


def _of(name: str) -> bytes:
    picture = _picture("L", (40, 30))
    return _webp(picture.convert("RGB")) if name == "WebP" else encoded(picture, name)


def _patched(image: bytes, place: int, value: bytes) -> bytes:
    return image[:place] + value + image[place + len(value) :]


_LOSSLESS = _webp(_picture("RGB", (40, 30)))
_FRAME = frame_of(_LOSSLESS)
_PIXELS_OF_GIF = gif_blocks(bytes(99))
_ODD = {
    "WebP, longer than its file": (_patched(_LOSSLESS, 4, b"\xff\xff\xff\x7f"), "InvalidImage"),
    "WebP, chunk longer than its file": (
        _patched(_LOSSLESS, 16, b"\xff\xff\xff\xff"), "InvalidImage"),
    "WebP, no chunk": (webp(), "InvalidImage"),
    "WebP, unknown chunk": (webp(chunk(b"abcd", bytes(99))), "InvalidImage"),
    "WebP, other size than its canvas": (
        animated_webp((41, 30), [], _FRAME, flags=0), "InvalidImage"),
    "WebP, animation without a frame": (animated_webp((40, 30), []), "InvalidImage"),
    "WebP, frame beyond its canvas": (
        animated_webp((40, 30), [(_FRAME, (2, 0, 40, 30))]), "InvalidImage"),
    "WebP, frame of another size": (
        animated_webp((40, 30), [(_FRAME, (0, 0, 38, 30))]), "InvalidImage"),
    "WebP, 16383 x 16383": (
        webp(chunk(b"VP8L", b"\x2f\xfe\xbf\xff\x0f" + bytes(99))), "TooLarge"),
    "WebP, lossy, 16383 x 16383": (
        webp(chunk(b"VP8 ", b"\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(99))),
        "TooLarge"),
    "WebP, canvas of 16 million a side": (
        animated_webp((1 << 24, 1 << 24), [(_FRAME, (0, 0, 40, 30))]), "TooLarge"),
    "WebP, canvas of 16,384 a side": (
        animated_webp((16_384, 16_384), [(_FRAME, (0, 0, 40, 30))]), "TooLarge"),
    "WebP, 5,000 frames": (
        animated_webp((40, 30), [(_FRAME, (0, 0, 40, 30))] * 5000), "TooLarge"),
    "WebP, 2,601 sets of tables": (lossless_webp_of_sets(256, 2601), "TooLarge"),
    "WebP, 65,536 sets of tables": (lossless_webp_of_sets(1024, 65_536), "TooLarge"),
    "GIF, no frame": (gif((40, 30), (0, 0, 40, 30), b"")[:-20], "InvalidImage"),
    "GIF, no colours": (
        gif((40, 30), (0, 0, 40, 30), _PIXELS_OF_GIF, palette=b""), "InvalidImage"),
    "GIF, codes of 12 bits": (
        gif((40, 30), (0, 0, 40, 30), _PIXELS_OF_GIF, code_bits=12), "InvalidImage"),
    "GIF, no pixels": (gif((40, 30), (0, 0, 40, 30), b"\0"), "InvalidImage"),
    "GIF, no columns": (gif((40, 30), (0, 0, 0, 30), _PIXELS_OF_GIF), "InvalidImage"),
    "GIF, screen of 65,535 a side": (
        gif((65_535, 65_535), (0, 0, 40, 30), _PIXELS_OF_GIF), "TooLarge"),
    "GIF, frame of 65,535 a side": (
        gif((1, 1), (0, 0, 65_535, 65_535), _PIXELS_OF_GIF), "TooLarge"),
    "GIF, 5,000 comments": (
        gif((40, 30), (0, 0, 40, 30), b"\0", b"\x21\xfe\1a\0" * 5000), "TooLarge"),
    "GIF, blocks of one byte": (
        gif((40, 30), (0, 0, 40, 30), gif_blocks(bytes(20_000), 1)), "TooLarge"),
    "BMP, runs": (bmp((40, 30), 8, bytes(1200), compression=1), "UnsupportedMediaType"),
    "BMP, a PNG in it": (
        bmp((40, 30), 0, bytes(1200), compression=5), "UnsupportedMediaType"),
    "BMP, odd masks": (
        bmp((40, 30), 32, bytes(4800), compression=3, masks=(1, 2, 4)),
        "UnsupportedMediaType"),
    "BMP, unknown compression": (
        bmp((40, 30), 24, bytes(4800), compression=77), "InvalidImage"),
    "BMP, 3 bits": (bmp((40, 30), 3, bytes(4800)), "UnsupportedMediaType"),
    "BMP, no rows": (bmp((40, 0), 24, bytes(4800)), "InvalidImage"),
    "BMP, negative width": (bmp((-40, 30), 24, bytes(4800)), "InvalidImage"),
    "BMP, least height": (bmp((40, -(1 << 31)), 24, bytes(4800)), "InvalidImage"),
    "BMP, 2,000,000,000 pixels a side": (
        bmp((2_000_000_000, 2_000_000_000), 1, bytes(99), palette=bytes(8)),
        "InvalidImage"),
    "BMP, pixels in its header": (
        _patched(bmp((40, 30), 24, bytes(4800)), 10, bytes(4)), "InvalidImage"),
    "BMP, pixels behind its end": (
        _patched(bmp((40, 30), 24, bytes(4800)), 10, b"\xff\xff\xff\xff"),
        "InvalidImage"),
    "BMP, no colours": (bmp((40, 30), 8, bytes(1200)), "InvalidImage"),
}  # fmt: skip


@pytest.mark.parametrize("name", _ODD)
def test_odd_files_are_refused(name: str) -> None:
    """A file that contradicts itself, or costs too much, is refused with a sentence."""
    image, expected = _ODD[name]

    assert (name, expected) == (name, _refusal(image))


def test_a_lossless_webp_may_have_many_sets_of_tables() -> None:
    """What an encoder makes is decoded, and the number of sets is read right."""
    image = lossless_webp_of_sets(200, 700)

    assert read_webp(image, 99).held_bytes(lambda _: None) > 700 * 12_000
    assert not _pixels(image)[:, :, :3].any()


def test_tables_of_pictures_by_an_encoder_are_read() -> None:
    """Every transform and size of what libwebp writes is understood."""
    pictures = [_picture("RGB", (90, 70)), _picture("P", (90, 70)).convert("RGB")]
    for colours in (2, 4, 16):
        few = _picture("L", (90, 70)).point(lambda v, n=colours: v % n * 15)
        pictures.append(few.convert("RGB"))
    pictures += [one.resize((300, 200), Image.Resampling.BICUBIC) for one in pictures]
    for picture in pictures:
        for method in (0, 3, 6):
            file = encoded(picture, "WEBP", lossless=True, method=method, quality=90)
            found = decode(file, picture.height, Budget()).picture
            assert np.array_equal(np.asarray(found), np.asarray(picture))


@pytest.mark.parametrize("name", ["WebP", "GIF"])
def test_pictures_that_a_decoder_holds_have_a_limit_on_memory(name: str) -> None:
    """The limit holds before anything is decoded, and names the remedy."""
    with pytest.raises(TooLarge, match="in memory while it is decoded. Scale it down"):
        _decoded(_of(name), max_held_bytes=1000)


def test_bytes_after_the_picture_do_not_count() -> None:
    """What follows a GIF's first frame, or a BMP's pixels, has no limit and no use."""
    for name in ("GIF", "BMP"):
        image = _of(name)
        found = decode(image + bytes(9999), _MIN_SIDE, Budget(Limits(max_bytes=5000)))
        assert np.array_equal(np.asarray(found.picture.convert("RGBA")), _pixels(image))


def test_every_format_is_recognised_by_its_first_bytes() -> None:
    """The table names each format that is read, and words that begin alike are none."""
    for one in FORMATS:
        name = one.pillow_names[0]
        assert format_of(encoded(_picture("L", (40, 30)), name)) == one
    for text in (
        b"BMW makes cars, and no pictures",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"GIF90a",
    ):
        assert format_of(text) is None
        assert _refusal(text) == "InvalidImage"


def test_a_pillow_without_webp_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a Pillow is no fault of the picture, and the message says what to do."""
    monkeypatch.setattr("PIL.WebPImagePlugin.SUPPORTED", False)

    with pytest.raises(UnsupportedMediaType, match="install Pillow from PyPI"):
        _decoded(_LOSSLESS)
