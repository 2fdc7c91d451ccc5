# SPDX-License-Identifier: Apache-2.0
"""The transparent colours and opacities of PNG (its chunk tRNS), in every depth."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from inkling.image.budget import Budget
from inkling.image.decoding import decode

_SIZE = (23, 19)
_GREY, _RGB, _PALETTE = 0, 2, 3
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def _chunk(name: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + crc


def _row(samples: np.ndarray, depth: int) -> bytes:
    values = samples.ravel()
    if depth >= 8:
        return values.astype(">u2" if depth == 16 else "u1").tobytes()
    bits = ((values[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)
    return np.packbits(bits.ravel()).tobytes()


def _png(
    samples: np.ndarray, depth: int, colour: int, clear: bytes, interlaced: bool
) -> bytes:
    """Return a PNG of samples whose rows have no filter; a palette is grey."""
    height, width = samples.shape[:2]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    rows = b"".join(
        b"\0" + _row(row, depth)
        for across, down, right, below in passes
        for row in samples[down::below, across::right]
        if row.size
    )
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    palette = bytes(value for n in range(1 << min(depth, 8)) for value in (n, n, n))
    chunks = [(b"IHDR", header)]
    if colour == _PALETTE:
        chunks.append((b"PLTE", palette))
    chunks += [(b"tRNS", clear), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _opacity(picture: bytes) -> np.ndarray:
    decoded = decode(picture, max(_SIZE), Budget()).picture
    assert decoded.mode == "RGBA"
    assert decoded.size == _SIZE
    return np.asarray(decoded)[..., 3]


def _samples(depth: int, bands: int) -> np.ndarray:
    """Return samples in whose middle one colour stands, and its next neighbours."""
    dice = np.random.default_rng(depth)
    shape = (_SIZE[1], _SIZE[0], bands)
    samples = dice.integers(0, 1 << depth, shape).astype(np.int64)
    samples[5:9, 5:9] = samples[0, 0]
    samples[6, 6, 0] ^= 1
    samples[7, 7, -1] ^= 1
    return samples


@pytest.mark.parametrize("interlaced", [False, True], ids=["rows", "passes"])
@pytest.mark.parametrize(
    ("colour", "depth"),
    [(_GREY, depth) for depth in (1, 2, 4, 8, 16)] + [(_RGB, 8), (_RGB, 16)],
)
def test_one_colour_is_transparent(colour: int, depth: int, interlaced: bool) -> None:
    """Exactly the pixels of that colour are, also where 16 bits differ in the last."""
    samples = _samples(depth, 3 if colour == _RGB else 1)
    clear = samples[5, 5]
    picture = _png(samples, depth, colour, clear.astype(">u2").tobytes(), interlaced)

    right = np.where((samples == clear).all(axis=2), 0, 255)
    assert np.array_equal(_opacity(picture), right)


@pytest.mark.parametrize("interlaced", [False, True], ids=["rows", "passes"])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_may_have_fewer_opacities(depth: int, interlaced: bool) -> None:
    """Entries of the palette beyond the last opacity are opaque."""
    samples = _samples(depth, 1)
    given = np.arange(7, 7 + (1 << depth) // 2, dtype=np.uint8)
    picture = _png(samples, depth, _PALETTE, given.tobytes(), interlaced)
    opacities = np.full(1 << depth, 255)
    opacities[: len(given)] = given

    assert np.array_equal(_opacity(picture), opacities[samples[..., 0]])


@pytest.mark.parametrize("depth", [8, 16])
def test_the_colours_stay(depth: int) -> None:
    """The transparent colour changes no pixel's own colour, as libpng decodes it."""
    samples = _samples(depth, 3)
    clear = samples[5, 5].astype(">u2").tobytes()
    decoded = decode(_png(samples, depth, _RGB, clear, False), max(_SIZE), Budget())

    wanted = samples >> (depth - 8)
    assert isinstance(decoded.picture, Image.Image)
    assert np.array_equal(np.asarray(decoded.picture)[..., :3], wanted)
