# SPDX-License-Identifier: Apache-2.0
"""One digit as people send it: cut out, reduced by a program, and in any colours."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

# The least ink that a program which cuts a digit out counts as ink.
_OUTLINE = 0.3


def grown(sample: np.ndarray, scale: float) -> np.ndarray:
    """Return a 28x28 sample enlarged, as float32 ink from 0 to 1."""
    side = max(1, round(28 * scale))
    large = Image.fromarray(sample).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32) / 255


def cut(ink: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """Return the ink within its outline, with a margin of so many pixels at each side."""
    rows = np.flatnonzero((ink > _OUTLINE).any(axis=1))
    columns = np.flatnonzero((ink > _OUTLINE).any(axis=0))
    inside = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.pad(inside, ((top, bottom), (left, right)))


def outlined(sample: np.ndarray, scale: float, margin: int = 0) -> np.ndarray:
    """Return the sample, enlarged and cut along its outline."""
    return cut(grown(sample, scale), *[margin] * 4)


def painted(
    ink: np.ndarray, colour: Sequence[float], paper: Sequence[float]
) -> np.ndarray:
    """Return ink on paper as RGB pixels, uint8; both colours are RGB, 0 to 255."""
    strokes, ground = np.asarray(colour, np.float32), np.asarray(paper, np.float32)
    return np.rint(ground + (strokes - ground) * ink[..., None]).astype(np.uint8)


def on_page(
    sample: np.ndarray, side: int, size: float, across: float, down: float
) -> np.ndarray:
    """Return the ink on a square page of `side` pixels.

    Args:
        sample: A digit of 28x28 pixels, light on dark.
        side: Side of the page, in pixels.
        size: Long side of the digit, as a share of the page.
        across: Place of the digit in the room beside it, 0 (left) to 1 (right).
        down: Place of the digit in the room above and below it, 0 (top) to 1.
    """
    digit = Image.fromarray(np.uint8(outlined(sample, 14) * 255))
    scale = size * side / max(digit.size)
    width, height = (max(1, round(length * scale)) for length in digit.size)
    digit = digit.resize((width, height), Image.Resampling.BICUBIC)
    page = Image.new("L", (side, side))
    page.paste(digit, (round(across * (side - width)), round(down * (side - height))))
    return np.asarray(page, np.float32) / 255


def reduced(ink: np.ndarray, side: int = 28) -> np.ndarray:
    """Return a page as a program reduces it: uint8, light ink on dark."""
    page = Image.fromarray(np.uint8(ink * 255))
    return np.asarray(page.resize((side, side), Image.Resampling.BOX))


def noisy(pixels: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """Return the pixels with normal noise."""
    noise = np.random.default_rng(seed).normal(0, deviation, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def photographed(pixels: np.ndarray, quality: int = 80) -> bytes:
    """Return a JPEG with colours at half the resolution, as phones write it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2)
    return file.getvalue()


def equally_light(hue: float, other: float) -> tuple[np.ndarray, np.ndarray]:
    """Return two colours of one luminance, 0 to 255; hues go from 0 to 1."""
    first = np.array(colorsys.hls_to_rgb(hue % 1, 0.45, 1)) * 255
    seconds = [
        np.array(colorsys.hls_to_rgb(other % 1, lightness, 1)) * 255
        for lightness in np.linspace(0.05, 0.95, 91)
    ]
    return first, min(seconds, key=lambda one: abs(_luminance(one) - _luminance(first)))


def _luminance(colour: np.ndarray) -> float:
    return float(colour @ [0.299, 0.587, 0.114])
