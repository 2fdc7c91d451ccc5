# SPDX-License-Identifier: Apache-2.0
"""Bytes, paths, Pillow images and arrays give one answer for one picture."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from inkling.contract import Contract
from inkling.errors import InvalidImage
from inkling.image.budget import Budget
from inkling.image.decoding import decode
from inkling.image.pictures import encoded
from inkling.image.preprocess import to_input

Encode = Callable[..., bytes]
_ORIENTATION = 0x0112


def _opened(path: Path) -> Image.Image:
    """Return the image as Pillow opens it, without an open file to close."""
    return Image.open(io.BytesIO(path.read_bytes()))


@pytest.fixture(scope="module")
def page(sample: np.ndarray) -> np.ndarray:
    """A written page, grey, uint8; the ink has several levels."""
    return 250 - np.kron(sample, np.ones((8, 8), np.uint8)) // 2


def _in_lab(grey: Image.Image) -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    change = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    return ImageCms.applyTransform(grey.convert("RGB"), change)


def _in_16_bits(mode: str) -> Callable[[Image.Image], Image.Image]:
    order = ">u2" if mode == "I;16B" else "<u2"

    def made(grey: Image.Image) -> Image.Image:
        values = np.asarray(grey).astype(order) * 257
        return Image.frombytes(mode, grey.size, values.tobytes())

    return made


_MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    **{
        mode: lambda grey, mode=mode: grey.convert(mode)
        for mode in ("L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
    },
    **{mode: _in_16_bits(mode) for mode in ("I;16", "I;16B", "I;16L", "I;16N")},
    "La": lambda grey: grey.convert("LA").convert("La"),
    "RGBa": lambda grey: grey.convert("RGBA").convert("RGBa"),
    "PA": lambda grey: grey.convert("P").convert("PA"),
    "LAB": _in_lab,
    "I of 16 bits": lambda grey: Image.fromarray(np.asarray(grey).astype(np.int32) * 257),
    "I of 8 bits": lambda grey: Image.fromarray(np.asarray(grey).astype(np.int32)),
}  # fmt: skip


@pytest.mark.parametrize("mode", _MODES)
def test_every_pillow_mode_is_the_same_picture(
    mode: str, digit_contract: Contract, page: np.ndarray
) -> None:
    """An image of any mode is answered as its grey self."""
    grey = Image.fromarray(page)
    expected = to_input(encoded(grey), digit_contract)
    found = to_input(encoded(_MODES[mode](grey)), digit_contract)

    assert expected.max() == 1
    # Conversions by a profile round.
    assert np.abs(expected - found).max() <= (8 / 255 if mode == "LAB" else 0)


def test_bilevel_images(digit_contract: Contract, page: np.ndarray) -> None:
    """Mode 1 is answered as its pixels of 0 and 255."""
    grey = Image.fromarray(page).point(lambda value: 255 * (value > 180))

    assert np.array_equal(
        to_input(encoded(grey.convert("1")), digit_contract),
        to_input(encoded(grey), digit_contract),
    )


_ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uint16": lambda page: page.astype(np.uint16) * 257,
    "big-endian": lambda page: (page.astype(np.uint16) * 257).astype(">u2"),
    "(h, w, 1)": lambda page: (page.astype(np.uint16) * 257)[..., None],
    "(h, w, 3)": lambda page: np.dstack([page.astype(np.uint16) * 257] * 3),
}


@pytest.mark.parametrize("form", _ARRAYS)
def test_arrays_of_16_bits(
    form: str, digit_contract: Contract, page: np.ndarray
) -> None:
    """An array of 16 bits is answered as the same pixels in 8 bits."""
    assert np.array_equal(
        to_input(encoded(_ARRAYS[form](page)), digit_contract),
        to_input(encoded(page), digit_contract),
    )


def test_arrays_of_bool(digit_contract: Contract, page: np.ndarray) -> None:
    """In an array of bool, True is white."""
    white = page > 180

    assert np.array_equal(
        to_input(encoded(white), digit_contract),
        to_input(encoded(white.astype(np.uint8) * 255), digit_contract),
    )


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda page: (page / 255).astype(np.float32), r"pixels \* 255"),
        (lambda page: page.astype(np.float64), r"np.clip\(pixels, 0, 255\)"),
        (lambda page: page.astype(np.int64), r"np.clip\(pixels, 0, 255\)"),
        (lambda page: page * 9.5 - 40, "low and high"),
        (lambda page: page * np.nan, "no numbers"),
        (lambda page: Image.fromarray((page / 255).astype(np.float32)), r"\* 255"),
        (lambda page: Image.fromarray(page.astype(np.int32) * 9999), "low and high"),
        (lambda page: Image.fromarray(page.astype(np.int32) - 300), "low and high"),
    ],
)
def test_values_without_a_white_are_refused(
    make: Callable[[np.ndarray], object], advice: str, page: np.ndarray
) -> None:
    """Floats and other ranges are refused with how to convert them, never made white."""
    with pytest.raises(InvalidImage, match=advice) as refused:
        encoded(make(page))

    assert "convert it to RGB" not in refused.value.message


def test_the_advice_for_floats_works(
    digit_contract: Contract, page: np.ndarray
) -> None:
    """Floats that are converted as the message says are answered as the picture."""
    floats = (page / 255).astype(np.float64)
    with pytest.raises(InvalidImage) as refused:
        encoded(floats)
    advice = refused.value.message.partition("to 255: ")[2].rstrip(".")
    names = {"Image": Image, "np": np, "pixels": floats}
    converted = eval(advice, names)

    found = to_input(encoded(converted), digit_contract)
    assert np.abs(found - to_input(encoded(page), digit_contract)).max() <= 8 / 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_nothing_is_turned_twice(
    orientation: int,
    kind: str,
    digit_contract: Contract,
    page: np.ndarray,
    encode: Encode,
    tmp_path: Path,
) -> None:
    """An opened image is turned as its file; one that was turned by hand is not turned."""
    upright = Image.fromarray(page).convert("RGB")
    back = {3: 180, 6: 90, 8: 270}[orientation]
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    path = tmp_path / "page"
    stored = upright.rotate(back, expand=True)
    path.write_bytes(encode(stored, kind, exif=exif, quality=100))
    forms = {
        "opened": _opened(path),
        "loaded": _opened(path),
        "exif_transpose": ImageOps.exif_transpose(_opened(path)),
        "in place": _opened(path),
    }
    forms["loaded"].load()
    ImageOps.exif_transpose(forms["in place"], in_place=True)
    if kind != "TIFF":  # which Pillow turns when it loads it
        forms["rotated"] = _opened(path).rotate(-back, expand=True)
        forms["seen"] = _opened(path).rotate(-back, expand=True).convert("L")
    if kind != "TIFF":
        forms["path"] = path

    expected = to_input(encoded(upright), digit_contract)
    for form, picture in forms.items():
        found = to_input(encoded(picture), digit_contract)
        assert np.abs(expected - found).mean() < 0.02, form


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_an_opened_file_is_sent_as_it_is(
    kind: str, encode: Encode, page: np.ndarray
) -> None:
    """An image that Pillow opened is sent as its file, and can be used afterwards."""
    image = encode(page, kind)
    opened = Image.open(io.BytesIO(image))

    assert encoded(opened) == image
    assert encoded(opened) == image
    assert np.array_equal(np.asarray(opened), np.asarray(Image.open(io.BytesIO(image))))
    opened.putpixel((3, 3), 7)
    changed = Image.open(io.BytesIO(encoded(opened)))
    # A WebP has colours, and the number of a pixel is its red.
    expected = (7, 0, 0) if kind == "WEBP" else 7
    assert changed.getpixel((3, 3)) == expected


def test_a_cut_file_that_pillow_opened_is_refused(
    digit_contract: Contract, encode: Encode, page: np.ndarray
) -> None:
    """An image of a cut file is refused as damaged, whether it was loaded or not."""
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF"):
        image = encode(page, kind)
        with pytest.raises(InvalidImage, match=r"damaged|truncated"):
            to_input(
                encoded(Image.open(io.BytesIO(image[: len(image) // 2]))),
                digit_contract,
            )


def _grey_png(depth: int, rows: bytes, transparent: int) -> bytes:
    """Return a PNG of 8 x 8 grey pixels with a transparent value."""
    header = struct.pack(">IIBBBBB", 8, 8, depth, 0, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"tRNS", struct.pack(">H", transparent)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data
        + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )  # fmt: skip


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_greys_of_every_depth(
    depth: int, digit_contract: Contract, tmp_path: Path
) -> None:
    """A transparent grey is transparent in every depth, as a path and as an image."""
    most = (1 << depth) - 1
    # The upper half of the picture is white, the lower half is black and transparent.
    size = max(1, depth // 8)
    per_row = 8 * depth // 8
    white = b"\0" + (
        most.to_bytes(size, "big") * 8 if depth >= 8 else b"\xff" * per_row
    )
    image = _grey_png(depth, white * 4 + bytes(1 + per_row) * 4, 0)
    path = tmp_path / "half.png"
    path.write_bytes(image)
    shown = np.asarray(decode(image, 512, Budget()).picture)

    assert shown.shape == (8, 8, 4)
    assert (shown[:4] == 255).all()
    assert (shown[4:, :, 3] == 0).all()
    for picture in (_opened(path), path):
        assert np.array_equal(
            to_input(encoded(picture), digit_contract), to_input(image, digit_contract)
        )
