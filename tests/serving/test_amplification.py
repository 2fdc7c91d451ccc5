# SPDX-License-Identifier: Apache-2.0
"""F4: what the worst requests that are let in, or refused, cost in memory and CPU."""

import base64
import io
import json
import os
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from tests.support.machine import TooSlow, memory_bytes, within
from tests.support.picture_files import (
    animated_webp,
    bmp,
    chunk,
    frame_of,
    gif,
    gif_blocks,
    lossless_webp_of_sets,
    webp,
)

_CLASSIFY = "/v1/models/mlp:classify"
_EXPLAIN = "/v1/models/mlp:explain"
_MAX_MIB = 64
_MAX_CPU_S = 0.25
# What the yardstick takes where that was said; a slower machine may take longer, and a
# busy one half as long again.
_YARDSTICK_S = 0.0195
_BUSY = 1.5
_AS_JSON = {"Content-Type": "application/json"}
_AS_FORM = {"Content-Type": "multipart/form-data; boundary=b"}
_AS_FIELDS = {"Content-Type": "application/x-www-form-urlencoded"}
_PNG = b"\x89PNG\r\n\x1a\n"
_SIDE = 2048
_MAX_BODY = 10 * 1024 * 1024
_MAX_IMAGE = 8 * 1024 * 1024
_PART = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n'


@dataclass(frozen=True)
class Request:
    """A costly request, and the status that it gets; None is any below 500."""

    make: Callable[[], bytes]
    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)
    path: str = _CLASSIFY


def _noise(height: int, width: int, bands: int, bits: int = 8) -> np.ndarray:
    dice = np.random.default_rng(0)
    shape = (height, width, bands) if bands > 1 else (height, width)
    return (dice.integers(0, 1 << bits, shape, np.uint8) << (8 - bits)).astype(np.uint8)


def _encoded(picture: Any, kind: str, **options: Any) -> bytes:
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    assert len(file.getvalue()) <= _MAX_IMAGE, len(file.getvalue())
    return file.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + crc


def _png(
    size: tuple[int, int], depth: int, colour: int, rows: bytes, **more: Any
) -> bytes:
    """Return a PNG of filtered rows, with chunks before them."""
    header = struct.pack(
        ">IIBBBBB", *size, depth, colour, 0, 0, more.get("interlace", 0)
    )
    chunks = (
        *more.get("chunks", ()),
        (b"IDAT", zlib.compress(rows, more.get("level", 1))),
        (b"IEND", b""),
    )
    return _PNG + b"".join(_chunk(*chunk) for chunk in ((b"IHDR", header), *chunks))


def _small_png(*chunks: tuple[bytes, bytes]) -> bytes:
    return _png((28, 28), 8, 0, bytes(29 * 28), chunks=chunks)


def _padded(length: int) -> bytes:
    """Return the largest picture in a file of this many bytes."""
    picture = _flat_rgba()
    padding = _chunk(b"prVt", bytes(length - len(picture) - 12))
    return picture[:33] + padding + picture[33:]


def _paeth_rgba() -> bytes:
    """Return the largest picture with the costliest filter, compressed a little."""
    rows = np.full((_SIDE, 1 + 4 * _SIDE), 4, np.uint8)
    rows[:, 1:] = _noise(_SIDE, 4 * _SIDE, 1, 3) >> 5
    return _png((_SIDE, _SIDE), 8, 6, rows.tobytes())


def _interlaced(depth: int = 8, **more: Any) -> bytes:
    """Return the largest RGB picture in seven passes."""
    steps = [(8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2)]
    rows = b""
    for across, down in steps:
        length = 3 * depth // 8 * _SIDE // across
        rows += (b"\4" + b"\7" * length) * (_SIDE // down)
    return _png((_SIDE, _SIDE), depth, 2, rows, interlace=1, **more)


def _two(image: Callable[[], bytes]) -> Callable[[], bytes]:
    """Return a form with an image twice: all the pixels that a request may have."""
    return lambda: _form(image(), image())


def _form(*images: bytes) -> bytes:
    return (
        b"".join(_PART + b"\r\n" + image + b"\r\n" for image in images) + b"--b--\r\n"
    )


def _heads(filling: bytes) -> bytes:
    """Return a form with as many parts as are read, each with a costly head."""
    head = b"--b\r\nContent-Disposition: form-data; name=f; filename=f; " + filling
    return (head + b"\r\n\r\nx\r\n") * 72 + b"--b--\r\n"


def _json(*images: bytes) -> bytes:
    encoded = [{"b64": base64.b64encode(image).decode()} for image in images]
    return json.dumps({"images": encoded}).encode()


@cache
def _flat_rgba() -> bytes:
    return _encoded(Image.new("RGBA", (_SIDE, _SIDE), (1, 2, 3, 4)), "PNG")


@cache
def _noisy_rgba() -> bytes:
    return _encoded(_noise(_SIDE, _SIDE, 4, 2), "PNG", compress_level=1)


@cache
def _camera(height: int, width: int, quality: int) -> bytes:
    """Return a JPEG as a camera writes it, full of detail."""
    return _encoded(_noise(height, width, 3, 5), "JPEG", quality=quality)


@cache
def _progressive(bits: int = 6) -> bytes:
    picture = _noise(_SIDE, _SIDE, 3, bits)
    return _encoded(picture, "JPEG", progressive=True, subsampling=0, quality=50)


def _flat_progressive(side: int) -> bytes:
    picture = Image.new("RGB", (side, side), (200, 10, 10))
    return _encoded(picture, "JPEG", progressive=True, subsampling=0)


def _palette() -> bytes:
    picture = Image.fromarray(_noise(_SIDE, _SIDE, 1), "P")
    picture.putpalette(bytes(range(256)) * 3)
    return _encoded(picture, "PNG", transparency=bytes(range(256)), compress_level=1)


def _segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def _small_jpeg() -> bytes:
    return _encoded(np.zeros((28, 28), np.uint8), "JPEG")


def _before_all(jpeg: bytes, addition: bytes) -> bytes:
    """Return a JPEG with something right behind its first marker."""
    return jpeg[:2] + addition + jpeg[2:]


def _with_scans(jpeg: bytes, number: int) -> bytes:
    """Return a JPEG whose last scan stands `number` times more."""
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * number + b"\xff\xd9"


def _scan_per_colour() -> bytes:
    """Return a baseline JPEG that is not interleaved: decoders hold it as a whole."""
    grey = _encoded(_noise(_SIDE, _SIDE, 1, 6), "JPEG", quality=40)
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    tables = grey[frame + 2 + 11 : scan]
    size = grey[frame + 5 : frame + 9]
    colours = b"\3" + b"".join(bytes((n, 0x11, 0)) for n in (1, 2, 3))
    pixels = grey[scan + 10 : -2]
    scans = [_segment(0xDA, bytes((1, n, 0, 0, 63, 0))) + pixels for n in (1, 2, 3)]
    head = grey[:frame] + _segment(0xC0, b"\x08" + size + colours) + tables
    return head + b"".join(scans) + b"\xff\xd9"


def _disguised(jpeg: bytes) -> bytes:
    """Return a JPEG that a reader of lengths takes for a row-by-row one.

    Behind a marker that has no length stands a segment; who reads a length there
    leaps into that segment's middle, where another frame and scan are waiting.
    """
    frame = _segment(0xC0, b"\x08" + struct.pack(">HHB", 8, 8, 3) + bytes(9))
    scan = _segment(0xDA, b"\3" + bytes(9))
    leap = 2 + 2 + 0xFFE1 - 8
    trap = (bytes(leap) + frame + scan)[:65_533]
    return _before_all(jpeg, b"\xff\xd0" + _segment(0xE1, trap))


def _of_size(jpeg: bytes, width: int, height: int) -> bytes:
    place = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:place] + struct.pack(">HH", height, width) + jpeg[place + 4 :]


def _repeated(size: tuple[int, int], colour: int, depth: int = 8) -> bytes:
    """Return a small file in whose rows no processor guesses the next byte."""
    length = size[0] * depth // 8 * (4 if colour == 6 else 3)
    rows = np.full((size[1], 1 + length), 4, np.uint8)
    rows[:, 1:] = np.resize(_noise(1, 16_000, 1, 3)[0] >> 5, (size[1], length))
    return _png(size, depth, colour, rows.tobytes(), level=6)


def _dots(side: int, step: int, width: int = 1) -> np.ndarray:
    pixels = np.full((side, side), 255, np.uint8)
    for down in range(width):
        for across in range(width):
            pixels[2 + down :: step, 2 + across :: step] = 0
    return pixels


def _comb(side: int) -> np.ndarray:
    pixels = np.full((side, side), 255, np.uint8)
    pixels[2 : side - 2 : 4, 4 : side - 4] = pixels[3 : side - 2 : 4, 4 : side - 4] = 0
    pixels[2 : side - 2, 4:6] = 0
    return pixels


def _screen(width: int, height: int) -> Image.Image:
    """Return a screen or a page of text, with a picture on it."""
    pixels = np.full((height, width, 3), 250, np.uint8)
    dice = np.random.default_rng(0)
    for top in range(20, height - 40, 24):
        letters = dice.random((14, width // 2)) < 0.35
        pixels[top : top + 14, 40 : 40 + width // 2][letters] = dice.integers(0, 90)
    down, across = np.mgrid[0 : height // 3, 0 : width // 3]
    colours = np.dstack([across % 256, down % 256, (across + down) // 16 % 256])
    pixels[: height // 3, width - width // 3 :] = colours
    return Image.fromarray(pixels)


@cache
def _photo(height: int, width: int) -> Image.Image:
    """Return a photo with soft light and the noise of a sensor."""
    down, across = np.mgrid[0:height:4, 0:width:4]
    light = 128 + 60 * np.sin(across / 97) + 50 * np.cos(down / 61)
    light = light.astype(np.uint8).repeat(4, 0).repeat(4, 1)[:height, :width]
    noise = np.random.default_rng(0).integers(0, 9, (height, width), np.uint8)
    grey = light // 2 + 60 + noise
    return Image.fromarray(np.dstack([grey, grey, 255 - grey]))


def _text(kind: bytes, before: bytes, text: bytes) -> bytes:
    """Return a small PNG with texts that inflate to a megabyte each."""
    packed = zlib.compress(text, 9)
    return _small_png(*((kind, b"k%d" % n + before + packed) for n in range(63)))


def _json_of(start: bytes, filling: bytes, end: bytes) -> bytes:
    room = _MAX_BODY - len(start) - len(end)
    return start + filling * (room // len(filling)) + end


def _part_of(start: bytes, filling: bytes, end: bytes) -> bytes:
    return _json_of(_PART + start, filling, end + b"\r\n--b--\r\n")


_LEGAL_PNGS = {
    "RGBA flat": Request(_flat_rgba),
    "RGBA noise": Request(_noisy_rgba),
    "RGBA noise, Paeth": Request(_paeth_rgba),
    "RGBA flat x 2": Request(_two(_flat_rgba), 200, _AS_FORM),
    "RGB interlaced": Request(_interlaced),
    "16 bit": Request(
        lambda: _encoded((_noise(_SIDE, _SIDE, 1) & 15).astype(np.uint16) * 257, "PNG")
    ),
    "16-bit RGBA": Request(
        lambda: _png((_SIDE, _SIDE), 16, 6, (b"\4" + b"\5" * 8 * _SIDE) * _SIDE)
    ),
    "16-bit grey, one colour transparent": Request(
        lambda: _png(
            (_SIDE, _SIDE),
            *(16, 0, (b"\4" + b"\5" * 2 * _SIDE) * _SIDE),
            chunks=[(b"tRNS", b"\5\5")],
        )
    ),
    "16-bit RGB, one colour transparent": Request(
        lambda: _png(
            (1300, 1300),
            *(16, 2, (b"\4" + b"\5" * 6 * 1300) * 1300),
            chunks=[(b"tRNS", b"\5" * 6)],
        )
    ),
    "16-bit RGB interlaced, one colour transparent": Request(
        lambda: _interlaced(16, chunks=[(b"tRNS", b"\5" * 6)]), 413
    ),
    "1 bit": Request(lambda: _encoded(_noise(_SIDE, _SIDE, 1) > 127, "PNG")),
    "grey and opacity": Request(
        lambda: _png((_SIDE, _SIDE), 8, 4, (b"\4" + b"\5" * 2 * _SIDE) * _SIDE)
    ),
    "palette and tRNS": Request(_palette),
    "A4 at 600 dpi, 1 bit": Request(
        lambda: _encoded(_screen(4960, 7016).convert("1"), "PNG")
    ),
    "A4 at 300 dpi, RGB": Request(lambda: _encoded(_screen(2480, 3508), "PNG")),
    "4K, RGB": Request(lambda: _encoded(_screen(3840, 2160), "PNG")),
    "4K, RGBA": Request(lambda: _encoded(_screen(3840, 2160).convert("RGBA"), "PNG")),
    "a long page on a phone": Request(lambda: _encoded(_screen(1440, 8000), "PNG")),
    "strip": Request(lambda: _encoded(Image.new("RGBA", (8192, 512)), "PNG")),
    "1,000 chunks": Request(lambda: _small_png(*[(b"tEXt", b"k\0v")] * 1000)),
}
_LEGAL_JPEGS = {
    "24 megapixels": Request(lambda: _camera(4000, 6000, 30)),
    "25 megapixels, 8192 a side": Request(lambda: _camera(3050, 8192, 30)),
    "48 megapixels": Request(lambda: _encoded(_photo(6048, 8064), "JPEG", quality=50)),
    "12 megapixels, progressive": Request(
        lambda: _encoded(_photo(3024, 4032), "JPEG", progressive=True)
    ),
    "12 megapixels and a video": Request(
        lambda: _encoded(_photo(3024, 4032), "JPEG") + b"\xff\xda\0" * 1_500_000
    ),
    "4:4:4": Request(
        lambda: _encoded(_noise(_SIDE, _SIDE, 3, 6), "JPEG", quality=60, subsampling=0)
    ),
    "CMYK": Request(
        lambda: _encoded(
            Image.fromarray(_noise(_SIDE, _SIDE, 4, 3), "CMYK"), "JPEG", quality=40
        )
    ),
    "progressive 4:4:4": Request(_progressive),
    "progressive 4:4:4 CMYK": Request(
        lambda: _encoded(
            Image.new("CMYK", (1500, 1500), (9, 99, 33, 3)), "JPEG", progressive=True
        )
    ),
    "16 scans, too many": Request(lambda: _with_scans(_progressive(bits=4), 6), 413),
    "a scan per colour": Request(_scan_per_colour),
    "not reduced, 8192 x 511": Request(lambda: _camera(511, 8192, 50)),
}


def _webp(picture: Any, **options: Any) -> bytes:
    return _encoded(picture, "WEBP", method=1, **options)


def _of_sets(side: int, sets: int) -> Callable[[], bytes]:
    return lambda: lossless_webp_of_sets(side, sets)


@cache
def _small_webp() -> bytes:
    return _webp(_noise(28, 28, 3), lossless=True)


def _frames(size: tuple[int, int], count: int) -> bytes:
    return animated_webp(size, [(frame_of(_small_webp()), (0, 0, 28, 28))] * count)


_LEGAL_FORMATS = {
    "WebP, camera": Request(lambda: _webp(_noise(1600, 1600, 3, 5), quality=75)),
    "WebP, all detail": Request(lambda: _webp(_noise(1500, 1500, 3), quality=100)),
    "WebP, photo": Request(lambda: _webp(_photo(1600, 1632), quality=80)),
    "WebP, opacity": Request(lambda: _webp(_noise(1500, 1500, 4, 6), quality=50)),
    "WebP, lossless photo": Request(
        lambda: _webp(_photo(1500, 1500), lossless=True, quality=60)
    ),
    "WebP, lossless noise": Request(
        lambda: _webp(_noise(1500, 1500, 3, 5), lossless=True)
    ),
    "WebP, lossless RGBA": Request(
        lambda: _webp(_noise(1400, 1400, 4, 6), lossless=True)
    ),
    "WebP, screen of 1920 x 1080": Request(
        lambda: _webp(_screen(1920, 1080), lossless=True)
    ),
    "WebP, flat": Request(lambda: _webp(Image.new("RGBA", (1619, 1619)))),
    "WebP, strip": Request(lambda: _webp(Image.new("RGB", (16_383, 150)))),
    "WebP, 1,000 frames": Request(lambda: _frames((28, 28), 1000)),
    "WebP, frame on a canvas": Request(lambda: _frames((2048, 2048), 1)),
    "WebP, 1,000 sets of tables": Request(_of_sets(512, 1000)),
    "WebP, 2,600 sets of tables": Request(_of_sets(512, 2600)),
    "GIF, noise": Request(lambda: _encoded(_noise(_SIDE, _SIDE, 1), "GIF")),
    "GIF, transparent": Request(
        lambda: _encoded(_noise(_SIDE, _SIDE, 1, 4), "GIF", transparency=0)
    ),
    "GIF, flat": Request(lambda: _encoded(Image.new("L", (5000, 5000)), "GIF")),
    "GIF, repeated": Request(
        lambda: _encoded(np.resize(_noise(1, 1600, 1, 4), (2048, 2048)), "GIF")
    ),
    "BMP, 1 bit": Request(
        lambda: bmp((8000, 8000), 1, bytes(8_000_000), palette=bytes(8))
    ),
    "BMP, 8 bits": Request(lambda: _encoded(_noise(2800, 2900, 1), "BMP")),
    "BMP, 24 bits": Request(lambda: _encoded(_noise(1600, 1700, 3), "BMP")),
    "BMP, opacity": Request(
        lambda: bmp(
            (1440, 1440),
            32,
            _noise(1440, 1440, 4).tobytes(),
            compression=3,
            masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000),
            header=108,
        )
    ),
    "explain, WebP": Request(
        lambda: _webp(_noise(1500, 1500, 4, 6), quality=50), path=_EXPLAIN
    ),
    "JSON, WebP": Request(
        lambda: _json(_webp(_noise(1500, 1500, 3), quality=100)), 200, _AS_JSON
    ),
}
_FORMAT_ATTACKS = {
    "WebP, 16,384 sets of tables": Request(_of_sets(512, 16_384), 413),
    "WebP, 65,536 sets of tables": Request(_of_sets(1024, 65_536), 413),
    "32 WebPs of 400 sets": Request(
        lambda: _json(*[lossless_webp_of_sets(128, 400)] * 32), None, _AS_JSON
    ),
    "WebP, 16383 x 16383": Request(
        lambda: webp(chunk(b"VP8L", b"\x2f\xfe\xbf\xff\x0f" + bytes(99))), 413
    ),
    "WebP, 4 megapixels": Request(lambda: _webp(Image.new("RGB", (2000, 2000))), 413),
    "WebP, 1,000,000 chunks": Request(
        lambda: animated_webp((28, 28), [], b"abcd\0\0\0\0" * 1_000_000), 413
    ),
    "WebP, canvas of 16,384 a side": Request(lambda: _frames((16_384, 16_384), 1), 413),
    "WebP, 9,000 frames": Request(lambda: _frames((28, 28), 9000), 413),
    "GIF, 42 megapixels": Request(
        lambda: _encoded(Image.new("L", (6500, 6500)), "GIF"), 413
    ),
    "GIF, screen of 65,535 a side": Request(
        lambda: gif((65_535, 65_535), (0, 0, 9, 9), gif_blocks(bytes(99))), 413
    ),
    "GIF, blocks of one byte": Request(
        lambda: gif((9, 9), (0, 0, 9, 9), gif_blocks(bytes(4_000_000), 1)), 413
    ),
    "GIF, 1,000,000 comments": Request(
        lambda: gif((9, 9), (0, 0, 9, 9), b"\0", b"\x21\xfe\1a\0" * 1_000_000), 413
    ),
    "GIF of nothing": Request(
        lambda: gif((4000, 4000), (0, 0, 4000, 4000), gif_blocks(bytes(8_000_000))), 400
    ),
    "BMP, 16 megapixels with 1 bit": Request(
        lambda: bmp((65_000, 1000), 1, bytes(8_125_000), palette=bytes(8)), None
    ),
    "BMP of two billion": Request(
        lambda: bmp((2_000_000_000, 2), 1, bytes(8_000_000), palette=bytes(8)), 400
    ),
}
_LEGAL_ENVELOPES = {
    "form, 12 pictures of paper": Request(
        lambda: _form(*[_encoded(Image.new("RGBA", (512, 512)), "PNG")] * 12),
        200,
        _AS_FORM,
    ),
    "JSON, 32 samples": Request(
        lambda: _json(*[_encoded(_noise(28, 28, 1, 8), "PNG")] * 32), 200, _AS_JSON
    ),
    "JSON, 13 pictures of paper": Request(
        lambda: _json(*[_encoded(_noise(300, 300, 1, 8), "PNG")] * 13), 200, _AS_JSON
    ),
    "form, largest file": Request(lambda: _form(_padded(_MAX_IMAGE)), 200, _AS_FORM),
    "JSON, largest file": Request(lambda: _json(_padded(7_800_000)), 200, _AS_JSON),
    "JSON, largest file in lines": Request(
        lambda: json.dumps(
            {"images": [{"b64": _in_lines(_padded(7_500_000))}]}
        ).encode(),
        200,
        _AS_JSON,
    ),
    "text, largest data: URL": Request(
        lambda: b"data:image/png;base64," + base64.urlsafe_b64encode(_padded(7_800_000))
    ),
    "fields, largest picture": Request(
        lambda: urlencode(
            {"image": base64.b64encode(_padded(7_800_000)).decode()}
        ).encode(),
        200,
        _AS_FIELDS,
    ),
    "form, 31 damaged pictures": Request(
        lambda: _form(*[_small_png()[:-20].ljust(250_000)] * 31, _small_png()),
        200,
        _AS_FORM,
        _CLASSIFY + "?partial=true",
    ),
    "JSON, one emoji": Request(
        lambda: _json_of(_json(_small_png())[:-1] + ', "x": "😀'.encode(), b"a", b'"}'),
        400,
        _AS_JSON,
    ),
    "explain, RGBA flat": Request(_flat_rgba, path=_EXPLAIN),
    "explain, RGBA noise": Request(_noisy_rgba, path=_EXPLAIN),
    "explain, progressive": Request(_progressive, path=_EXPLAIN),
}


def _in_lines(content: bytes) -> str:
    return base64.encodebytes(content).decode()


_PICTURE_ATTACKS = {
    "50,000 chunks": Request(lambda: _small_png(*[(b"tEXt", b"k\0v")] * 50_000), 413),
    "60 MB of zTXt": Request(lambda: _text(b"zTXt", b"\0\0", bytes(2**20 - 9)), None),
    "60 M letters of iTXt": Request(
        lambda: _text(b"iTXt", b"\0\1\0\0\0", "😀".encode() + b"a" * (2**20 - 9)), None
    ),
    "zTXt of 70 MB": Request(
        lambda: _small_png((b"zTXt", b"k\0\0" + zlib.compress(bytes(70 * 2**20), 9))),
        None,
    ),
    "iCCP of 70 MB": Request(
        lambda: _small_png((b"iCCP", b"k\0\0" + zlib.compress(bytes(70 * 2**20), 9))),
        None,
    ),
    "gigapixel, 1 bit": Request(
        lambda: _png((32_000, 32_000), 1, 0, bytes(4001) * 32_000), 413
    ),
    "gigapixel, JPEG": Request(lambda: _of_size(_small_jpeg(), 40_000, 40_000), 400),
    "24 megapixels without a scan": Request(
        lambda: _of_size(_small_jpeg(), 6000, 4000), 400
    ),
    "small pictures of dots": Request(
        lambda: _json(*[_encoded(_dots(64, 4, 2), "PNG")] * 32), None, _AS_JSON
    ),
    "pictures of dots": Request(
        lambda: _json(*[_encoded(_dots(384, 4), "PNG")] * 32), None, _AS_JSON
    ),
    "combs": Request(
        lambda: _json(*[_encoded(_comb(128), "PNG")] * 32), None, _AS_JSON
    ),
    "RGBA, every pixel guessed wrong": Request(
        lambda: _repeated((3600, 2400), 6), None
    ),
    "16-bit RGBA, every pixel guessed wrong": Request(
        lambda: _repeated((_SIDE, _SIDE), 6, 16), None
    ),
    "refined 400 times": Request(
        lambda: _with_scans(_progressive(bits=4), 400)[:_MAX_IMAGE], None
    ),
    "JPEG of 1,000,000 comments": Request(
        lambda: _before_all(_small_jpeg(), _segment(0xFE, b"") * 1_000_000), 413
    ),
    "JPEG of 4,000,000 fill bytes": Request(
        lambda: _before_all(_small_jpeg(), b"\xff" * 4_000_000), 200
    ),
    "JPEG of 8,000,000 fill bytes in its scan": Request(
        lambda: _small_jpeg()[:-2] + b"\xff" * 8_000_000 + b"\xff\xd9", 200
    ),
    "JPEG of 100,000 EXIF pieces": Request(
        lambda: _before_all(_small_jpeg(), _segment(0xE1, b"Exif\0\0ab") * 100_000), 413
    ),
    "1,000 scans": Request(lambda: _with_scans(_flat_progressive(700), 1000), 413),
    "1,000 scans, disguised": Request(
        lambda: _disguised(_with_scans(_flat_progressive(700), 1000)), 413
    ),
    "25 megapixels progressive, disguised": Request(
        lambda: _disguised(_flat_progressive(5000)),
        413,
    ),
}
_ENVELOPE_ATTACKS = {
    "JSON of lists": Request(
        lambda: _json_of(b'{"images": [', b"[],", b"[]]}"), None, _AS_JSON
    ),
    "JSON of objects": Request(
        lambda: _json_of(b'{"images": [', b"{},", b"{}]}"), None, _AS_JSON
    ),
    "JSON of digits": Request(
        lambda: _json_of(b'{"images": [', b"1", b"]}"), None, _AS_JSON
    ),
    "JSON of a fraction": Request(
        lambda: _json_of(b'{"images": [0.', b"1", b"]}"), None, _AS_JSON
    ),
    "JSON of escapes": Request(
        lambda: _json_of(b'{"images": [{"b64": "', b"\\ud800", b'"}]}'), None, _AS_JSON
    ),
    "JSON of blanks": Request(lambda: _json_of(b"", b" ", b""), None, _AS_JSON),
    "form of line ends": Request(
        lambda: _part_of(b"\r\n", b"\r\n", b""), None, _AS_FORM
    ),
    "form of near boundaries": Request(
        lambda: _part_of(b"\r\n", b"\r\n--", b""), None, _AS_FORM
    ),
    "form that never starts": Request(
        lambda: _json_of(b"", b"\r\n", b""), None, _AS_FORM
    ),
    "form that nearly starts": Request(
        lambda: _json_of(b"", b"--b\t", b""), None, _AS_FORM
    ),
    "form with a long header": Request(
        lambda: _part_of(b"X: ", b"x", b"\r\n\r\nhello"), None, _AS_FORM
    ),
    "form with many headers": Request(
        lambda: _part_of(b"", b"a:b\r\n", b"\r\nhello"), None, _AS_FORM
    ),
    "form with a folded header": Request(
        lambda: _part_of(b"X: y", b"\r\n b", b"\r\n\r\nhello"), None, _AS_FORM
    ),
    "form with many options": Request(
        lambda: _part_of(b"Content-Disposition: form-data", b";a=b", b"\r\n\r\nhello"),
        None,
        _AS_FORM,
    ),
    "form with semicolons": Request(
        lambda: _part_of(b"Content-Disposition: form-data", b";", b"\r\n\r\nhello"),
        None,
        _AS_FORM,
    ),
    "form of boundaries": Request(
        lambda: _part_of(b"\r\n", b"\r\n--bx", b""), None, _AS_FORM
    ),
    "form with heads of options": Request(
        lambda: _heads(b"a=b;" * 900), None, _AS_FORM
    ),
    "form with heads of quotes": Request(
        lambda: _heads(b'a="' + rb"\"" * 1800 + b'";'), None, _AS_FORM
    ),
    "form with heads of headers": Request(
        lambda: _heads(b"a=b\r\n" + b"a:b\r\n" * 700 + b"X: y"), None, _AS_FORM
    ),
    "fields of percent signs": Request(
        lambda: _json_of(b"image=data:image/png;base64,", b"%41", b""), None, _AS_FIELDS
    ),
    "fields of plus signs": Request(
        lambda: _json_of(b"image=data:image/png;base64,", b"+", b""), None, _AS_FIELDS
    ),
    "fields without end": Request(
        lambda: _json_of(b"image=x", b"&a=b", b""), None, _AS_FIELDS
    ),
    "base64 of line ends": Request(
        lambda: _json_of(b"data:image/png;base64,", b"A\n", b""), None
    ),
    "form with a long boundary": Request(
        lambda: b"x",
        None,
        {"Content-Type": "multipart/form-data; boundary=" + "a." * 30_000},
    ),
    "type with many options": Request(
        lambda: b"x", None, {"Content-Type": "multipart/form-data" + ";a*0=b" * 60_000}
    ),
}


@dataclass
class Meter:
    """Reads what a gateway costs."""

    pid: int

    def cpu_s(self) -> float:
        """CPU time of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def mib(self, name: str) -> float:
        """`VmRSS`, or `VmHWM` since the last `reset`."""
        return memory_bytes(self.pid, name) / 2**20

    def reset(self) -> None:
        """Let the peak of the memory be what is in use now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@pytest.fixture
def own_gateway(
    start_gateway: Callable[..., Any],
    published: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """A gateway whose freed memory goes back at once, so that no case hides another."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    with start_gateway(published) as own:
        for image in (_small_png(), _small_jpeg(), _small_webp(), _form(_small_png())):
            own.request("POST", _CLASSIFY, image, _AS_FORM)
        yield own


def _cost(gateway: Any, send: Callable[[], int]) -> tuple[int, float, float]:
    """Return the status, the extra memory in MiB and the CPU time in s of a request."""
    meter = Meter(gateway.process.pid)
    meter.reset()
    memory, cpu = meter.mib("VmRSS"), meter.cpu_s()
    status = send()
    return status, meter.mib("VmHWM") - memory, meter.cpu_s() - cpu


@cache
def _yardstick() -> bytes:
    return _encoded(_noise(1024, 1024, 3, 6), "PNG", compress_level=1)


def _max_cpu_s() -> float:
    """Return what a request may cost, by what decoding a picture costs here and now."""
    times = []
    for _ in range(5):
        began = time.process_time()
        Image.open(io.BytesIO(_yardstick())).convert("L")
        times.append(time.process_time() - began)
    slower = sorted(times)[2] / _YARDSTICK_S
    return _BUSY * _MAX_CPU_S * max(1.0, slower)


_SOAK = pytest.mark.soak
_LEGAL = {**_LEGAL_PNGS, **_LEGAL_JPEGS, **_LEGAL_FORMATS, **_LEGAL_ENVELOPES}


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param(dict(list(_LEGAL.items())[::4]), id="a fourth of the legal ones"),
        pytest.param(_LEGAL_PNGS, id="legal PNGs", marks=_SOAK),
        pytest.param(_LEGAL_JPEGS, id="legal JPEGs", marks=_SOAK),
        pytest.param(_LEGAL_FORMATS, id="legal pictures of other formats", marks=_SOAK),
        pytest.param(_LEGAL_ENVELOPES, id="legal envelopes", marks=_SOAK),
        pytest.param(_FORMAT_ATTACKS, id="hostile pictures of other formats"),
        pytest.param(_PICTURE_ATTACKS, id="hostile pictures"),
        pytest.param(_ENVELOPE_ATTACKS, id="hostile envelopes"),
    ],
)
def test_cost_of_one_request(own_gateway: Any, requests: dict[str, Request]) -> None:
    """One request costs at most 64 MiB and a quarter of a second of CPU.

    The time is that of the machine on which it was said, by a yardstick.
    """
    over, slow = {}, {}
    for name, request in requests.items():
        body = request.make()

        def send(body: bytes = body, request: Request = request) -> int:
            path, headers = request.path, request.headers
            return int(own_gateway.request("POST", path, body, headers).status)

        status, mib, cpu_s = _cost(own_gateway, send)
        line = f"{status}, {mib:.1f} MiB, {cpu_s:.2f} s CPU, {len(body):,} bytes"
        print(f"{name:40} {line}")
        right = status == request.status if request.status else status < 500
        if not right or mib > _MAX_MIB:
            over[name] = line
        if cpu_s > _MAX_CPU_S and cpu_s > _max_cpu_s():
            slow[name] = line

    assert over == {}
    if slow:
        raise TooSlow(slow)


_HEAD = f"POST {_CLASSIFY} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
_GET = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "conversation",
    [
        pytest.param(
            _CHUNKED + b"1\r\nx\r\n" * 500_000 + b"0\r\n\r\n", id="500,000 chunks"
        ),
        pytest.param(
            _CHUNKED + b"1;" + b"a" * 20_000_000 + b"\r\nx\r\n0\r\n\r\n",
            id="long chunk extension",
        ),
        pytest.param(
            _CHUNKED + b"0\r\n" + b"X: a\r\n" * 1_000_000 + b"\r\n", id="many trailers"
        ),
        pytest.param(_GET + b"X: a\r\n" * 1_000_000 + b"\r\n", id="many headers"),
        pytest.param(
            _HEAD + b"X: " + b"a" * 20_000_000 + b"\r\n\r\n", id="long header"
        ),
        pytest.param(
            b"GET /" + b"a" * 20_000_000 + b" HTTP/1.1\r\nConnection: close\r\n\r\n",
            id="long address",
        ),
        pytest.param(
            b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 300 + _GET + b"\r\n",
            id="301 at once",
        ),
    ],
)
def test_cost_of_one_conversation(own_gateway: Any, conversation: bytes) -> None:
    """What never becomes a request that is answered is bounded, too."""

    def send() -> int:
        with socket.create_connection(
            ("127.0.0.1", own_gateway.port), 30
        ) as connection:
            try:
                connection.sendall(conversation)
                received = b""
                while part := connection.recv(65_536):
                    received += part
            except OSError:
                return 0
        return int(received[9:12] or 0)

    status, mib, cpu_s = _cost(own_gateway, send)
    print(f"{status}, {mib:.1f} MiB, {cpu_s:.2f} s CPU, {len(conversation):,} bytes")

    assert status < 500
    assert mib <= _MAX_MIB
    assert own_gateway.request("GET", "/livez").status == 200
    within(cpu_s, _max_cpu_s())
