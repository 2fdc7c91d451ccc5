# SPDX-License-Identifier: Apache-2.0
"""Mutated pictures and envelopes against a live gateway; each case has a number.

To see one again: `_mutated_picture(number)`, `_mutated_json(number)` or
`_mutated_form(number)` returns the very bytes.
"""

import base64
import http.client
import io
import json
import random
import struct
import time
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.machine import TooSlow, memory_bytes
from tests.support.picture_files import chunk as riff_chunk
from tests.support.picture_files import gif_blocks

Mutant = Callable[[int], bytes]
_CLASSIFY = "/v1/models/mlp:classify"
_MAX_SECONDS = 1.0
_MAX_GROWTH_MIB = 64
_AS_FORM = {"Content-Type": "multipart/form-data; boundary=frontier"}
_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNKS = b"tRNS PLTE iCCP gAMA tEXt zTXt iTXt eXIf acTL fcTL fdAT IHDR IDAT".split()
_RIFF_CHUNKS = (*b"VP8X ALPH ANIM ANMF ICCP EXIF VP8L".split(), b"VP8 ")
_MARKERS = b"\x01\xc0\xc1\xc2\xc4\xd0\xd8\xda\xdb\xdd\xe0\xe1\xee"
_JSON_WORDS = (
    *rb'[ { } ] , : " \\ \u0000 \ud800 null NaN - 1e999 "b64": "images": ='.split(),
    *(b"9" * 5000, b"[" * 2000, b"\xff", b"\xef\xbb\xbf", b"\0", b"\xf0\x9f\x98\x80"),
)
_FORM_WORDS = (
    *b"--frontier --frontier-- : ; filename filename*=utf-8''%ff \" \\ =".split(),
    *(
        b"\0",
        b"\xff",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"--",
        b" " * 2000,
        b"charset=utf-7",
    ),
    *(b"Content-Disposition: form-data", b"Content-Type: multipart/mixed"),
    b"Content-Length: 99999999999",
)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@cache
def _samples() -> tuple[bytes, ...]:
    """Return pictures of every kind that people send, without chance in them."""
    yy, xx = np.mgrid[0:280, 0:280]
    grey = Image.fromarray(((xx * yy) % 251).astype(np.uint8))
    small, colour = grey.resize((28, 28)), Image.merge("RGB", (grey,) * 3)
    alpha = Image.merge("RGBA", (grey, grey, grey, grey.rotate(90)))
    deep = Image.fromarray((yy * 200 + xx).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    return (
        _encoded(small, "PNG"),
        _encoded(grey, "PNG"),
        _encoded(alpha, "PNG"),
        _encoded(small.convert("LA"), "PNG"),
        _encoded(small.convert("P"), "PNG", transparency=bytes(range(256))),
        _encoded(grey.convert("P"), "PNG", transparency=3),
        _encoded(small.convert("1"), "PNG"),
        _encoded(deep, "PNG"),
        _encoded(small, "PNG", exif=turned),
        _encoded(small, "PNG", save_all=True, append_images=[small.rotate(9)] * 2),
        _encoded(small, "JPEG"),
        _encoded(grey, "JPEG"),
        _encoded(colour, "JPEG", exif=turned),
        _encoded(colour, "JPEG", progressive=True),
        _encoded(colour.resize((28, 28)), "JPEG", progressive=True, subsampling=0),
        _encoded(alpha.convert("CMYK"), "JPEG"),
        _encoded(small, "WEBP", lossless=True),
        _encoded(alpha, "WEBP", lossless=True, exif=turned),
        _encoded(colour, "WEBP", exif=turned),
        _encoded(alpha.resize((28, 28)), "WEBP", quality=50),
        _encoded(small, "WEBP", save_all=True, append_images=[small.rotate(9)] * 2),
        _encoded(small, "GIF"),
        _encoded(grey, "GIF", interlace=1, transparency=3),
        _encoded(small, "GIF", save_all=True, append_images=[small.rotate(9)] * 2),
        _encoded(small, "BMP"),
        _encoded(colour.resize((28, 28)), "BMP"),
        _encoded(small.convert("1"), "BMP"),
    )


def _flipped(data: bytearray, dice: random.Random) -> bytearray:
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return data


def _cut(data: bytearray, dice: random.Random) -> bytearray:
    start = dice.randrange(len(data))
    length = dice.choice((1, 2, 4, 100, len(data)))
    return data[:start] + data[start + length :] or data


def _spliced(data: bytearray, dice: random.Random) -> bytearray:
    other = dice.choice(_samples())
    start, end = sorted(dice.randrange(len(other) + 1) for _ in range(2))
    place = dice.randrange(len(data))
    kept = place + dice.choice((0, end - start))
    return data[:place] + other[start:end] + data[kept:]


def _overwritten(data: bytearray, dice: random.Random) -> bytearray:
    place = dice.randrange(len(data))
    value = dice.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 0xFFD8FFDA, 65_535))
    data[place : place + 4] = struct.pack(dice.choice("<>") + "I", value)
    return data


def _with_a_part(data: bytearray, dice: random.Random) -> bytearray:
    """Insert a whole chunk, segment or block, right but for what is in it."""
    size = dice.choice((0, 1, 2, 4, 6, 9, 13, 26, 257, 768, 1000))
    if data.startswith(b"RIFF"):
        name, content = dice.choice(_RIFF_CHUNKS), dice.randbytes(size)
        place = dice.choice((12, 12, 30, len(data)))
        return data[:place] + riff_chunk(name, content) + data[place:]
    if data.startswith(b"GIF"):
        block = bytes((0x21, dice.choice((0xF9, 0xFE, 0xFF, 0x01))))
        block += gif_blocks(dice.randbytes(size), dice.choice((1, 4, 255)))
        return data[:13] + block + data[13:]
    if not data.startswith(_PNG):
        marker = bytes((0xFF, dice.choice(_MARKERS)))
        segment = marker + struct.pack(">H", size + 2) + dice.randbytes(size)
        return data[:2] + segment + data[2:]
    name, content = dice.choice(_CHUNKS), dice.randbytes(size)
    if name in (b"zTXt", b"iCCP"):
        content = b"k\0\0" + zlib.compress(content)
    crc = struct.pack(">I", zlib.crc32(name + content))
    place = dice.choice((8, 33, 33, 33))
    chunk = struct.pack(">I", len(content)) + name + content + crc
    return data[:place] + chunk + data[place:]


_MUTATIONS = (_flipped, _flipped, _cut, _spliced, _overwritten, _with_a_part)


def _mended(data: bytearray) -> bytearray:
    """Make the checksums of a PNG right, so that the mutation gets past them."""
    place = len(_PNG)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return data


def _mutated_picture(number: int) -> bytes:
    dice = random.Random(number)
    data = bytearray(dice.choice(_samples()))
    for _ in range(dice.choice((1, 1, 2, 4))):
        data = dice.choice(_MUTATIONS)(data, dice)
    if data.startswith(_PNG) and dice.random() < 0.7:
        data = _mended(data)
    if data.startswith(b"RIFF") and dice.random() < 0.7:
        data[4:8] = struct.pack("<I", len(data) - 8)
    return bytes(data)


def _mutated_text(data: bytes, dice: random.Random, words: tuple[bytes, ...]) -> bytes:
    """Return `data` with words put in, parts cut out, doubled or flipped."""
    mutated = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        place = dice.randrange(len(mutated) + 1)
        end = min(len(mutated), place + dice.choice((1, 3, 10, 50)))
        kind = dice.randrange(4)
        if kind == 0:
            mutated[place:place] = dice.choice(words)
        elif kind == 1:
            mutated[place:end] = b""
        elif kind == 2:
            mutated[place:place] = mutated[place:end] * dice.choice((1, 2, 40))
        elif mutated:
            mutated = _flipped(mutated, dice)
    return bytes(mutated)


def _mutated_json(number: int) -> bytes:
    dice = random.Random(number)
    images = [{"b64": base64.b64encode(_samples()[0]).decode()}] * dice.choice((1, 2))
    return _mutated_text(json.dumps({"images": images}).encode(), dice, _JSON_WORDS)


def _mutated_form(number: int) -> bytes:
    dice = random.Random(number)
    form = b""
    for name in (b'; filename="f.png"', b"")[: dice.choice((1, 2))]:
        form += b'--frontier\r\nContent-Disposition: form-data; name="f"' + name
        form += b"\r\nContent-Type: image/png\r\n\r\n" + _samples()[0] + b"\r\n"
    form += b"--frontier--\r\n"
    return _mutated_text(form, dice, _FORM_WORDS)


def _fault(connection: http.client.HTTPConnection, body: bytes, form: bool) -> str:
    """Return what is wrong with the answer to a body; empty where nothing is."""
    headers = _AS_FORM if form else {}
    began = time.monotonic()
    connection.request("POST", _CLASSIFY, body, headers)
    response = connection.getresponse()
    answer, seconds = json.loads(response.read()), time.monotonic() - began
    if response.status >= 500 or not 200 <= response.status < 500:
        return f"{response.status}"
    if ("results" if response.status == 200 else "error") not in answer:
        return f"{response.status} {answer!r:.80}"
    if seconds > _MAX_SECONDS:
        raise TooSlow(f"{seconds:.2f} s for an answer of {response.status}")
    return ""


def _check(gateway: Any, mutant: Mutant, numbers: range, form: bool = False) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    for sample in _samples():  # whatever is loaded once is loaded now
        _fault(connection, sample, False)
    before = memory_bytes(gateway.process.pid)
    faults = {n: _fault(connection, mutant(n), form) for n in numbers}
    connection.close()

    assert {number: fault for number, fault in faults.items() if fault} == {}
    grown = memory_bytes(gateway.process.pid, "VmHWM") - before
    assert grown < _MAX_GROWTH_MIB * 2**20


def test_samples_are_classified(gateway: Any) -> None:
    """What is mutated below is right before."""
    statuses = [gateway.request("POST", _CLASSIFY, s).status for s in _samples()]

    assert [200] * len(_samples()) == statuses


def test_mutants_are_reproducible() -> None:
    """A number gives the same bytes every time, and different numbers differ."""
    for mutant in (_mutated_picture, _mutated_json, _mutated_form):
        assert mutant(7) == mutant(7)
        assert len({mutant(number) for number in range(50)}) > 40


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(400), id="400"),
        pytest.param(range(400, 10_400), id="10,000", marks=pytest.mark.soak),
    ],
)
def test_mutated_pictures(
    start_gateway: Callable[..., Any], published: Path, numbers: range
) -> None:
    """F3: a damaged picture is refused or classified, soon, and leaves no memory."""
    with start_gateway(published) as own:
        _check(own, _mutated_picture, numbers)


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(200), id="200"),
        pytest.param(range(200, 5200), id="5,000", marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("mutant", [_mutated_json, _mutated_form])
def test_mutated_envelopes(
    start_gateway: Callable[..., Any], published: Path, mutant: Mutant, numbers: range
) -> None:
    """F3: a damaged envelope is refused or understood, soon, and leaves no memory."""
    with start_gateway(published) as own:
        _check(own, mutant, numbers, form=mutant is _mutated_form)


def _png(size: tuple[int, int], depth: int, colour: int, *parts: bytes) -> bytes:
    """Return a PNG of empty rows, with whole chunks before its pixels."""
    width, height = size
    row = 1 + (width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] + 7) // 8
    pixels = _chunk(b"IDAT", zlib.compress(bytes(row) * height))
    header = _header(width, height, depth, colour)
    return _PNG + header + b"".join(parts) + pixels + _chunk(b"IEND", b"")


def _header(width: int, height: int, depth: int, colour: int) -> bytes:
    return _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + crc


_PALETTE = _chunk(b"PLTE", bytes(3))


@pytest.mark.parametrize(
    "picture",
    [
        _png((1, 1), 8, 3, _PALETTE, _chunk(b"tRNS", bytes(257))),
        _png((30, 40), 8, 2, _chunk(b"tRNS", b"\x9f\xe9\x49\x41\x1d\xcf"),
             _header(30, 40, 1, 3)),
        _png((1, 1), 1, 2, _header(1, 1, 8, 3)),
        _png((1, 50), 8, 2, _chunk(b"tRNS", b"\x53\x08\x61\x1e\x35\x39"),
             _header(9, 50, 8, 3)),
    ],
    ids=[
        "palette with 257 opacities",
        "colour with opacity turned palette",
        "colour turned palette",
        "tall one turned palette",
    ],
)  # fmt: skip
def test_pictures_that_decode_and_cannot_be_converted(
    gateway: Any, picture: bytes
) -> None:
    """A picture whose parts contradict each other is damaged, whenever that shows."""
    answer = gateway.request("POST", _CLASSIFY, picture)

    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_image")
