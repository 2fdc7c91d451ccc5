# SPDX-License-Identifier: Apache-2.0
"""Finds one object written on paper and frames it as MNIST frames its digits.

These are the finders `ink-1` and `ink-2` of the contract, which share the search.
Before it, `ink-2` gives a picture that was cut along the writing a margin of its own
paper (`inkling.image.crop`). Both frame every picture of another size than the model
input; `ink-2` also frames one of that size that is not framed like a sample
(`inkling.image.sample`). `ink-3` is `inkling.image.finder.strokes`, which frames alike.

A finder turns a picture of any size, paper and
lighting into a sample: ink is 255 and paper is 0, the object fills a box of the
contract's size, and its centre of mass is at the centre. MNIST's digits have a 20 x 20
box inside 28 x 28 pixels and are centred by mass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageFilter

from inkling.image.crop import cut_of
from inkling.image.grey import to_grey
from inkling.image.morphology import Parts, closed, opened, padded, parts, square
from inkling.image.ruling import without_ruling

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.budget import Spend
    from inkling.image.crop import Area
    from inkling.image.morphology import Mask, Values

__all__ = [
    "Note",
    "belonging",
    "framed",
    "is_dark_ink",
    "likelihood_of",
    "noise_of",
    "sample_of",
    "shown",
    "unlimited",
    "with_long_side",
]

# A function that collects the stages for an explanation. Its arguments are a stage's
# name, its decision and its picture: a Pillow image, float32 values from 0 (paper) to
# 1 (ink), or uint8 pixels of shape (rows, columns, channels).
Note: TypeAlias = Callable[
    [str, str, "Image.Image | Values | npt.NDArray[np.uint8]"], None
]

# Long side, in pixels, for the search. Strokes stay visible, and 27,000 pixels take
# little time.
_WORK_SIDE = 192
# Long side for the estimate of the paper's brightness, which changes slowly. The window
# is wider than a stroke and narrower than a desk.
_PAPER_SIDE = 48
_PAPER_WINDOW = 13
_DARKEST_PAPER = 16
# Side and window for the decision between dark and light ink. The blur that estimates
# the paper reaches over half of the picture, so that paper dominates it even around a
# thick stroke.
_POLARITY_SIDE = 64
_POLARITY_WINDOW = 17
_POLARITY_REACH = 16
# Pixels at this distance differ by the paper's texture, but not by its lighting.
_TEXTURE_STEP = 4
# The standard deviation of normal noise, divided by the median absolute difference of
# two samples.
_SIGMA_PER_MEDIAN = 1.4826 / 2**0.5
# The same for the lower quartile of the differences.
_SIGMA_PER_QUARTILE = 3.1383 / 2**0.5
_NOISE_SIGMAS = 5.0
_LINE_SIGMAS = 3.0
# Ink has at least this share of the strength of the strongest edges. Marks fainter than
# 4 % of the paper's brightness are folds and texture.
_PEAK_SHARE = 0.35
_PEAK_PERCENTILE = 99.7
_MIN_CONTRAST = 0.04
_EDGE_WINDOW = 5
# A part that covers this share of the frame is a desk or a shadow.
_FRAME_SHARE = 0.1
_OFF_CENTRE_LOSS = 0.6
_ON_FRAME_FACTOR = 0.4
_LOOKS = 3
# A part belongs to the writing if its distance is below this share of the writing's
# size and its weight is at least this share of the main part's weight.
_GROUP_GAP = 0.2
_GROUP_WEIGHT = 0.04
# Long side while strokes are measured and widened. MNIST's strokes are 1.8, 2.4 and 3.3
# pixels wide at the 10th, 50th and 90th percentile. The upper limit is far above them,
# because thinning leaves holes in thick strokes.
_DETAIL_SIDE = 100
_MIN_STROKE, _MAX_STROKE = 2.2, 6.0
# Ink rises from 0 to 1 between these shares of its typical strength.
_SOFT_FROM, _SOFT_TO = 0.3, 0.7
_FULL_PERCENTILE = 75
_MARGIN = 3
# CPU time in nanoseconds, measured: of the search, of the removal of ruling, of every
# further look, and per pixel of the close-up, which is large if the ink is a dot.
_SEARCH_NS, _RULING_NS, _LOOK_NS, _DETAIL_NS = 6_000_000, 2_500_000, 2_300_000, 45


def unlimited(nanoseconds: int) -> None:
    """Let a step take its CPU time: the pixels are the caller's own."""


def framed(
    picture: Image.Image, contract: Contract, note: Note, spend: Spend = unlimited
) -> Image.Image:
    """Return the sample: mode `L`, of the contract's size, light ink on black (0).

    A picture without ink becomes a black sample.

    Args:
        picture: A picture of mode `L` or `RGB` and of any size.
        contract: The contract with the polarity, the size and the box.
        note: A function that is called with every stage.
        spend: A function that is told the CPU time of each step, in nanoseconds, before
            it is used.

    Raises:
        TooLarge: `spend` raised it.
    """
    spend(_SEARCH_NS)
    work, inside, has_dark_ink = _work(picture, contract, note)
    if not has_dark_ink:
        work = work.point(lambda value: 255 - value)
        note("inverted", "light ink on dark paper", work)
    ink = _ink(work)
    noise = noise_of(ink, inside)
    note("ink", f"lighting removed; the paper's noise is {noise:.1%}", ink)
    ink, lines = without_ruling(ink, max(_LINE_SIGMAS * noise, _MIN_CONTRAST))
    if lines:
        note("unruled", f"ruling removed from {lines} rows and columns", ink)
        spend(_RULING_NS)
    mask = _writing(ink, noise, spend)
    if not mask.any():
        note("nothing", "this paper shows no ink", ink)
        return Image.new("L", (contract.width, contract.height))
    strokes = _close_up(ink, mask)
    spend(_DETAIL_NS * strokes.size)
    return sample_of(strokes, mask, contract, note)


def sample_of(
    strokes: Values, mask: Mask, contract: Contract, note: Note
) -> Image.Image:
    """Return the sample of strokes at detail size; every finder ends with it.

    Args:
        strokes: The writing, from 0 (paper) to 1 (ink).
        mask: Where the writing was found.
        contract: The contract with the size and the box.
        note: A function that is called with both stages.
    """
    note("writing", f"{int(mask.sum())} pixels of {mask.size}", strokes)
    strokes, width = _even_strokes(strokes, contract.box)
    note("strokes", f"they were {width:.1f} of {contract.box} pixels wide", strokes)
    return _centred(strokes, contract)


def _work(
    picture: Image.Image, contract: Contract, note: Note
) -> tuple[Image.Image, Area | None, bool]:
    """Return the grey picture for the search, and whether its ink is dark.

    If it got a margin, the area is that of the picture inside; otherwise it is None.
    """
    grey, projection = to_grey(picture, contract)
    size = f"{picture.width} x {picture.height}"
    stated = contract.polarity != "auto"
    dark = contract.polarity == "dark_on_light" if stated else None
    work = with_long_side(grey, _WORK_SIDE)
    cut = None
    if contract.finder == "ink-2":
        cut = cut_of(work, max(picture.size), dark)
    if cut is not None:
        work, inside = cut.with_margin(grey, _WORK_SIDE)
        note("margin", f"{size}, {projection}; the ink touches the frame", work)
        return work, inside, cut.has_dark_ink
    note("grey", f"{size}, {projection}, reduced", work)
    return work, None, _has_dark_ink(work, contract)


def is_dark_ink(picture: Image.Image) -> bool:
    """Return whether the ink is darker than the paper; `picture` has mode `L`.

    Each edge of a narrow object votes. The surroundings of such an edge are mostly
    paper, and the vote is their brightness minus that of the edge's middle. Desks,
    sheets and shadows are wider than the window: closing and opening agree there, which
    sets the weight of their edges to 0.
    """
    small = with_long_side(picture, _POLARITY_SIDE)
    paper = np.asarray(small.filter(ImageFilter.BoxBlur(_POLARITY_REACH)), np.float32)
    grey = np.asarray(small, np.float32)
    high, low = square(grey, 3, np.maximum), square(grey, 3, np.minimum)
    narrow = closed(grey, _POLARITY_WINDOW) - opened(grey, _POLARITY_WINDOW)
    votes = (paper - (high + low) / 2) * (high - low) * narrow
    return float(votes.sum()) >= 0


def _has_dark_ink(picture: Image.Image, contract: Contract) -> bool:
    if contract.polarity == "auto":
        return is_dark_ink(picture)
    return contract.polarity == "dark_on_light"


def with_long_side(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture of mode `L` with a long side of `side` pixels."""
    scale = side / max(picture.size)
    size = (
        max(1, round(picture.width * scale)),
        max(1, round(picture.height * scale)),
    )
    if scale >= 1:
        return picture.resize(size, Image.Resampling.BICUBIC)
    # Pillow first reduces by an integer factor, which takes less time, and leaves a
    # factor of at least 2 to the filter.
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _ink(work: Image.Image) -> Values:
    """Return the strength of the ink, as a share of the paper's brightness."""
    small = np.asarray(with_long_side(work, _PAPER_SIDE), np.float32)
    paper = Image.fromarray(closed(small, _PAPER_WINDOW).astype(np.uint8))
    paper = paper.filter(ImageFilter.BoxBlur(2))
    light = np.asarray(paper.resize(work.size, Image.Resampling.BILINEAR), np.float32)
    light = np.maximum(light, _DARKEST_PAPER)
    ink = (1 - np.asarray(work, np.float32) / light).astype(np.float32)
    ink -= np.median(ink[::2, ::2]).astype(np.float32)
    return ink


def noise_of(ink: Values, inside: Area | None) -> float:
    """Return the standard deviation of the ink's strength on blank paper.

    A margin that was added has no noise, so the picture inside is measured. Strokes may
    cover most of it, so only its paper counts.
    """
    if inside is not None:
        ink = ink[inside]
    texture = np.abs(ink[:, _TEXTURE_STEP:] - ink[:, :-_TEXTURE_STEP])
    if inside is None:
        return _SIGMA_PER_MEDIAN * float(np.median(texture)) if texture.size else 0.0
    paper = ink < np.percentile(ink, _FULL_PERCENTILE) / 2
    texture = texture[paper[:, _TEXTURE_STEP:] & paper[:, :-_TEXTURE_STEP]]
    if not texture.size:
        return 0.0
    return _SIGMA_PER_QUARTILE * float(np.percentile(texture, 25))


def _writing(ink: Values, noise: float, spend: Spend) -> Mask:
    """Return the mask of the writing: the likeliest part and the parts beside it."""
    edges = square(ink, _EDGE_WINDOW, np.maximum) - square(
        ink, _EDGE_WINDOW, np.minimum
    )
    for _ in range(_LOOKS):
        peak = _PEAK_SHARE * float(np.percentile(edges, _PEAK_PERCENTILE))
        found = parts(ink > max(_NOISE_SIGMAS * noise, peak, _MIN_CONTRAST), edges**2)
        likelihood = likelihood_of(found)
        unlikely = likelihood == 0
        if not unlikely.any():
            break
        spend(_LOOK_NS)
        # The edges of a desk or a shadow must not set the threshold for the ink.
        edges = np.where(found.mask(unlikely), np.float32(0), edges)
    if not len(found) or likelihood.max() == 0:
        return np.zeros(ink.shape, bool)
    return found.mask(belonging(found, int(likelihood.argmax())))


def likelihood_of(found: Parts) -> npt.NDArray[np.float64]:
    """Return the likelihood that each part is the writing, without a unit.

    Sharp parts near the centre and off the frame have the highest values.
    """
    height, width = found.labels.shape
    across = np.abs((found.left + found.right) / width - 1)
    down = np.abs((found.top + found.bottom) / height - 1)
    likelihood = found.weight * (1 - _OFF_CENTRE_LOSS * np.maximum(across, down))
    likelihood[found.on_frame > 0] *= _ON_FRAME_FACTOR
    likelihood[found.on_frame > 2 * (height + width) * _FRAME_SHARE] = 0
    return np.asarray(likelihood, np.float64)


def belonging(found: Parts, main: int) -> Mask:
    """Return which parts belong to part `main`, as the bar of a five does."""
    chosen: Mask = np.arange(len(found)) == main
    heavy = found.weight >= _GROUP_WEIGHT * found.weight[main]
    for _ in range(2):
        left, top = found.left[chosen].min(), found.top[chosen].min()
        right, bottom = found.right[chosen].max(), found.bottom[chosen].max()
        across = np.maximum(left - found.right, found.left - right)
        down = np.maximum(top - found.bottom, found.top - bottom)
        reach = _GROUP_GAP * max(right - left, bottom - top)
        near = np.maximum(across, down) <= reach
        chosen |= near & heavy & (found.on_frame == 0)
    return chosen


def _close_up(ink: Values, mask: Mask) -> Values:
    """Return the writing without its surroundings, at detail size, from 0 to 1."""
    full = float(np.percentile(ink[mask], _FULL_PERCENTILE))
    around = square(padded(mask, _MARGIN), 5, np.maximum)
    stretched = (padded(ink, _MARGIN) / full - _SOFT_FROM) / (_SOFT_TO - _SOFT_FROM)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    cut = np.where(around, stretched, 0)[
        rows[0] : rows[-1] + 1 + 2 * _MARGIN, columns[0] : columns[-1] + 1 + 2 * _MARGIN
    ]
    close = shown(cut)
    scale = _DETAIL_SIDE / max(height, width)
    size = (round(close.width * scale), round(close.height * scale))
    large = close.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32) / np.float32(255)


def _even_strokes(strokes: Values, box: int) -> tuple[Values, float]:
    """Return strokes as wide as MNIST's, and the width before in pixels of the box."""
    unit = _DETAIL_SIDE / box
    width = _stroke_width(strokes) / unit
    target = min(max(width, _MIN_STROKE), _MAX_STROKE)
    change = round(abs(target - width) * unit / 2)
    if change:
        pick = np.maximum if target > width else np.minimum
        # The strokes are whole grey levels, and bytes are four times as fast.
        levels = padded(np.rint(strokes * 255).astype(np.uint8), change + 1)
        levels = square(levels, 2 * change + 1, pick)
        strokes = levels.astype(np.float32) / np.float32(255)
    return strokes.astype(np.float32), width


def _stroke_width(strokes: Values) -> float:
    """Return the mean stroke width: twice the area, divided by the outline's length."""
    wide = padded(strokes, 1)
    across, down = np.diff(wide, axis=1)[:-1], np.diff(wide, axis=0)[:, :-1]
    outline = float(np.hypot(across, down).sum())
    return 2 * float(strokes.sum()) / outline


def _centred(strokes: Values, contract: Contract) -> Image.Image:
    """Return the strokes, scaled into the box and centred by their centre of mass."""
    inked = strokes > 0.5
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    size = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    unit = size / contract.box  # detail pixels per pixel of the sample
    half_width, half_height = contract.width / 2 * unit, contract.height / 2 * unit
    room = int(max(half_width, half_height)) + 2
    picture = Image.fromarray(padded(_levels(strokes), room))
    strokes = padded(strokes, room)
    mass = strokes.sum()
    down = strokes.sum(axis=1) @ (np.arange(strokes.shape[0]) + 0.5) / mass
    across = strokes.sum(axis=0) @ (np.arange(strokes.shape[1]) + 0.5) / mass
    # MNIST's centre of mass is half a pixel to the right of the middle, and below it.
    down, across = down - unit / 2, across - unit / 2
    return picture.resize(
        (contract.width, contract.height),
        Image.Resampling.BILINEAR,
        box=(
            across - half_width,
            down - half_height,
            across + half_width,
            down + half_height,
        ),
    )


def shown(values: Values) -> Image.Image:
    """Return values from 0 (paper) to 1 (ink) as a picture of mode `L`, 0 to 255."""
    return Image.fromarray(_levels(values))


def _levels(values: Values) -> npt.NDArray[np.uint8]:
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
