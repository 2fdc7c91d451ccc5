# SPDX-License-Identifier: Apache-2.0
"""Makes outliers: pictures that do not show a digit, for outlier exposure.

In outlier exposure (Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with
Outlier Exposure", ICLR 2019) a model also trains on outliers, whose target is the
uniform distribution over all labels. This module makes the outliers from a seed, fonts
and the training digits. It uses no other dataset, so other datasets can test the
result.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from inkling.contract import Contract
from inkling.image.preprocess import pixels_to_input
from inkling_training.data import doodles

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling_training.data.datasets import Split

    Pixels = npt.NDArray[np.uint8]
    Values = npt.NDArray[np.float32]
    Random = np.random.Generator

__all__ = ["KINDS", "are_digits", "as_served", "held_out", "outliers"]

# How many of each kind a training run uses. Letters are most similar to digits.
_COUNTS = {
    "letters": 16_000,
    "scribbles": 3_000,
    "shapes": 3_000,
    "blobs": 2_000,
    "noise": 2_000,
    "textures": 2_000,
    "blank": 500,
    "pairs": 2_000,
    "cut": 2_000,
}
KINDS = tuple(_COUNTS)
_MOST_PER_DIGIT = 2
# The finder frames each as it frames a served picture, which takes milliseconds.
_HELD_OUT_COUNT = 100
_DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class _Source:
    """The material of outliers.

    Attributes:
        digits: Pictures of digits, uint8, shape (n, side, side), light on dark.
        fonts: The names of the matplotlib fonts for the letters.
    """

    digits: Pixels
    fonts: tuple[str, ...]

    @property
    def side(self) -> int:
        return int(self.digits.shape[1])


def are_digits(contract: Contract) -> bool:
    """Return whether the labels are the ten handwritten digits.

    The outliers suit only these labels: for other labels an outlier, such as a letter,
    may show one of them.
    """
    return contract.labels == _DIGITS and contract.kind == "photo_of_one_object"


def outliers(digits: Split, seed: int) -> Pixels:
    """Return the outliers of a training run, shape (n, side, side), uint8.

    Args:
        digits: The training split; some outliers are composed of parts of its digits.
        seed: The random seed; the same seed gives the same pictures.
    """
    source = _Source(np.asarray(digits.pixels), doodles.FONTS)
    # A small training split needs fewer outliers.
    share = min(1.0, _MOST_PER_DIGIT * len(digits) / sum(_COUNTS.values()))
    made = [
        _made(kind, math.ceil(share * count), source, seed)
        for kind, count in _COUNTS.items()
    ]
    return np.concatenate(made)


def held_out(digits: Split, seed: int) -> dict[str, Pixels]:
    """Return outliers of each kind that no training run uses, by kind.

    The letters have other fonts. Each array is uint8, shape (n, side, side).

    Args:
        digits: A split that the model was not trained on.
        seed: The random seed; it gives other pictures than `outliers` makes from it.
    """
    source = _Source(np.asarray(digits.pixels), doodles.HELD_OUT_FONTS)
    return {kind: _made(kind, _HELD_OUT_COUNT, source, ~seed) for kind in _COUNTS}


def as_served(pixels: Pixels, contract: Contract) -> npt.NDArray[np.float32]:
    """Return outliers as model inputs, prepared as the gateway prepares a picture.

    The search for ink takes milliseconds each, and the next model of a command needs
    the same inputs, so the last ones are kept.

    Args:
        pixels: Shape (n, side, side), uint8.
        contract: The contract of the model.

    Returns:
        Shape (n, height, width, 1), float32; not writable.
    """
    # These two fields are the model's own, and do not concern the preparation.
    shared = replace(contract, temperature=1.0, abstain_below=0.0)
    return _as_served(pixels.tobytes(), pixels.shape, shared.json)


@lru_cache(maxsize=2 * len(_COUNTS))
def _as_served(
    content: bytes, shape: tuple[int, ...], contract_json: str
) -> npt.NDArray[np.float32]:
    contract = Contract.from_json(contract_json)
    pixels = np.frombuffer(content, np.uint8).reshape(shape)
    inputs = np.stack([pixels_to_input(picture, contract) for picture in pixels])
    inputs.flags.writeable = False
    return inputs


def _made(kind: str, count: int, source: _Source, seed: int) -> Pixels:
    if kind in _DRAWN:
        return _drawn(kind, count, source.fonts, source.side, seed)
    return _MIXED[kind](_random(kind, seed), count, source)


def _random(kind: str, seed: int) -> Random:
    return np.random.default_rng([seed % 2**32, zlib.crc32(kind.encode())])


# Drawing takes most of the time, and the next model of a command needs the same
# pictures.
@lru_cache(maxsize=16)
def _drawn(
    kind: str, count: int, fonts: tuple[str, ...], side: int, seed: int
) -> Pixels:
    """Return drawn pictures of one kind, as a read-only array."""
    random = _random(kind, seed)
    drawn = (_DRAWN[kind](random, fonts) for _ in range(count))
    pictures = np.stack([_placed(ink, random, side) for ink in drawn])
    pictures.flags.writeable = False
    return pictures


def _placed(ink: Image.Image, random: Random, side: int) -> Pixels:
    """Return a drawing as a picture of `side` x `side` pixels.

    70 % of the drawings are framed as the finder frames an object, in a box of 20 in 28
    pixels around the centre of mass; the others have a random size and place.
    """
    ink = ink.crop(ink.getbbox())
    framed = random.random() < 0.7
    box = side * (20 / 28 if framed else random.uniform(0.4, 1.0))
    scale = box / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    small = ink.resize(size, Image.Resampling.BOX)
    room = np.subtract(side, size)
    corner = side / 2 - _middle(small) if framed else random.integers(0, room + 1)
    canvas = Image.new("L", (side, side))
    canvas.paste(small, (round(corner[0]), round(corner[1])))
    return np.asarray(canvas)


def _middle(picture: Image.Image) -> npt.NDArray[np.float64]:
    """Return the centre of mass as (across, down), in pixels."""
    values = np.asarray(picture, np.float64)
    across = values.sum(axis=0) @ np.arange(picture.width)
    down = values.sum(axis=1) @ np.arange(picture.height)
    return np.asarray(np.array([across, down]) / values.sum())


def _blobs(random: Random, count: int, source: _Source) -> Pixels:
    """Return spots with random outlines: smooth noise above a random threshold."""
    field = random.random((count, source.side, source.side), np.float32)
    field[::2] = _smooth(field[::2], 3)
    field[1::2] = _smooth(field[1::2], 20)
    spread = field.std(axis=(1, 2), keepdims=True)
    height = random.uniform(0, 1.6, (count, 1, 1))
    steepness = random.uniform(0.5, 6, (count, 1, 1))
    inside = 0.5 + steepness * ((field - 0.5) / spread - height)
    return _pixels(inside * _windows(random, count, source.side))


def _noise(random: Random, count: int, source: _Source) -> Pixels:
    """Return noise: uniform, normal or sparse; fine, coarse or smooth; in a window."""
    shape = (count, source.side, source.side)
    kind = random.integers(0, 3, (count, 1, 1))
    rare = random.random(shape) < random.uniform(0.02, 0.6, (count, 1, 1))
    normal = random.normal(0.5, 0.25, shape)
    noise = np.choose(kind, [random.random(shape), normal, rare]).astype(np.float32)
    grain = random.integers(0, 5, count)
    for block in (2, 4, 7):  # grains 1, 2 and 3; grain 0 is single pixels
        chosen = grain == (2, 4, 7).index(block) + 1
        coarse = noise[chosen, ::block, ::block].repeat(block, axis=1)
        noise[chosen] = coarse.repeat(block, axis=2)[:, : shape[1], : shape[2]]
    noise[grain == 4] = _smooth(noise[grain == 4], 1)
    strength = random.uniform(0.3, 1.5, (count, 1, 1))
    return _pixels(noise * strength * _windows(random, count, source.side))


def _textures(random: Random, count: int, source: _Source) -> Pixels:
    """Return stripes, checks, rings and ramps of light, in a window."""
    side = source.side
    rows, columns = np.mgrid[0:side, 0:side] / side - 0.5

    def waves() -> npt.NDArray[np.float64]:
        angle, phase = random.uniform(0, 2 * np.pi, (2, count, 1, 1))
        along = np.cos(angle) * rows + np.sin(angle) * columns
        centre = random.uniform(-0.4, 0.4, (2, count, 1, 1))
        rings = np.hypot(rows - centre[0], columns - centre[1])
        ringed = random.random((count, 1, 1)) < 0.2
        pitch = random.uniform(0.3, 10, (count, 1, 1))
        wave = np.sin(2 * np.pi * pitch * np.where(ringed, rings, along) + phase)
        return np.asarray(wave)

    twice = random.random((count, 1, 1)) < 0.4
    wave = np.where(twice, waves() * waves(), waves())
    sharp = np.tanh(wave * random.uniform(0.5, 6, (count, 1, 1)))
    bright = random.uniform(0.3, 1.0, (count, 1, 1))
    return _pixels((0.5 + sharp / 2) * bright * _windows(random, count, side))


def _blank(random: Random, count: int, source: _Source) -> Pixels:
    """Return blank paper: plain or shaded, with faint noise and a few specks."""
    shape = (count, source.side, source.side)
    light = random.uniform(0, 0.5, (count, 1, 1))
    light *= random.random((count, 1, 1)) < 0.5
    ramp = np.linspace(-1, 1, source.side) * random.uniform(-0.1, 0.1, (count, 1, 1))
    grain = random.normal(0, 1, shape) * random.uniform(0, 0.06, (count, 1, 1))
    specks = random.random(shape) < random.choice([0, 0, 0.003], (count, 1, 1))
    plain = random.random((count, 1, 1)) < 0.3
    return _pixels(light + np.where(plain, 0, ramp + grain + specks))


def _pairs(random: Random, count: int, source: _Source) -> Pixels:
    """Return pictures of two digits: two small ones, or two large ones that overlap."""
    side, half = source.side, source.side // 2
    places = random.integers(0, len(source.digits), (2, count))
    first, second = source.digits[places[0]], source.digits[places[1]]
    beside, above = np.zeros_like(first), np.zeros_like(first)
    middle = slice((side - half) // 2, (side - half) // 2 + half)
    for at, digit in ((0, first), (side - half, second)):
        blocks = digit[:, : 2 * half, : 2 * half].reshape(-1, half, 2, half, 2)
        small = np.minimum(1.6 * blocks.mean(axis=(2, 4)), 255).astype(np.uint8)
        beside[:, middle, at : at + half] = small
        above[:, at : at + half, middle] = small
    apart = round(side / 7)
    over = np.maximum(np.roll(first, -apart, axis=2), np.roll(second, apart, axis=2))
    kind = random.choice(3, (count, 1, 1), p=(0.35, 0.15, 0.5))
    return np.choose(kind, [beside, above, over])


def _cut(random: Random, count: int, source: _Source) -> Pixels:
    """Return digits that are cut into 4 or 16 tiles, with the tiles shuffled.

    Each tile moves to the other half of the picture, so that no upright stroke stays
    whole.
    """
    digits = source.digits[random.integers(0, len(source.digits), count)]
    made = np.empty_like(digits)
    for tiles, chosen in ((2, slice(0, None, 2)), (4, slice(1, None, 2))):
        part = source.side // tiles
        rows = np.argsort(random.random((len(made[chosen]), tiles)), axis=1)
        columns = np.argsort(random.random((len(made[chosen]), tiles // 2)), axis=1)
        columns = np.hstack([columns + tiles // 2, columns])
        whole = digits[chosen, : part * tiles, : part * tiles]
        split = whole.reshape(-1, tiles, part, tiles, part)
        of = np.arange(len(split))[:, None, None]
        mixed = split[of, rows[:, :, None], :, columns[:, None, :]]
        mixed = mixed.transpose(0, 1, 3, 2, 4).reshape(whole.shape)
        made[chosen] = 0
        made[chosen, : whole.shape[1], : whole.shape[2]] = mixed
    return made


_DRAWN: Mapping[str, Callable[[Random, Sequence[str]], Image.Image]] = MappingProxyType(
    {
        "letters": doodles.letter,
        "scribbles": doodles.scribble,
        "shapes": doodles.shape,
    }
)
_MIXED: Mapping[str, Callable[[Random, int, _Source], Pixels]] = MappingProxyType(
    {
        "blobs": _blobs,
        "noise": _noise,
        "textures": _textures,
        "blank": _blank,
        "pairs": _pairs,
        "cut": _cut,
    }
)


def _windows(random: Random, count: int, side: int) -> Values:
    """Return masks, shape (n, side, side), 0 or 1.

    A third of the masks are 1 everywhere, a third show a box, and a third show an
    ellipse. A box or ellipse is too wide to look like a one.
    """
    rows, columns = np.mgrid[0:side, 0:side] / side - 0.5
    kind = random.integers(0, 3, (count, 1, 1))
    half_height, half_width = random.uniform(0.2, 0.5, (2, count, 1, 1))
    down, across = np.abs(rows) / half_height, np.abs(columns) / half_width
    inside = np.choose(
        kind, [0 * down, np.maximum(down, across), np.hypot(down, across)]
    )
    return np.asarray(inside <= 1, np.float32)


def _smooth(values: Values, times: int) -> Values:
    for _ in range(times):
        for axis in (1, 2):
            values = (
                np.roll(values, 1, axis) + values + np.roll(values, -1, axis)
            ) / np.float32(3)
    return values


def _pixels(values: npt.NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(values, 0, 1) * 255, np.uint8)
