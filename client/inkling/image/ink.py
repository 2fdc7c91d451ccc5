"""Finds one thing written on paper and frames it as MNIST frames its digits.

The finder `ink-1` of the contract: a picture of any size, paper and light becomes a
sample in which ink is 255 and paper 0, in a box of the contract's size, its centre of
mass at the centre. MNIST was made so: a 20x20 box inside 28x28, centred by mass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image, ImageFilter

from inkling.image.morphology import Parts, closed, opened, parts, square
from inkling.image.ruling import without_ruling

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.morphology import Mask, Values

__all__ = ["Note", "framed", "is_dark_ink", "shown"]

# What collects the stages for an explanation: name, decision, and the picture, or its
# values from 0 to 1, light ink on 0.
Note: TypeAlias = Callable[[str, str, "Image.Image | Values"], None]

# Long side while the writing is looked for: strokes stay visible, 27k pixels are quick.
_WORK_SIDE = 192
# Long side while the brightness of the paper is estimated, which changes slowly, and a
# window that is wider than a stroke and narrower than a desk.
_PAPER_SIDE = 48
_PAPER_WINDOW = 13
_DARKEST_PAPER = 16
# The same for telling dark ink from light; the neighbourhood that stands for the paper
# reaches over half of the picture, so that it is paper even around a thick stroke.
_POLARITY_SIDE = 64
_POLARITY_WINDOW = 17
_POLARITY_REACH = 16
# At this distance in pixels the texture of the paper shows, and its light does not.
_TEXTURE_STEP = 4
# Standard deviation of normal noise / median of the distances between two samples.
_SIGMA_PER_MEDIAN = 1.4826 / 2**0.5
_NOISE_SIGMAS = 5.0
_LINE_SIGMAS = 3.0
# Ink is at least this share as strong as the strongest steps; fainter marks than 4 % of
# the paper's brightness are folds and texture.
_PEAK_SHARE = 0.35
_PEAK_PERCENTILE = 99.7
_MIN_CONTRAST = 0.04
_EDGE_WINDOW = 5
# What lies along this share of the frame is a desk or a shadow.
_FRAME_SHARE = 0.1
_OFF_CENTRE_LOSS = 0.6
_ON_FRAME_FACTOR = 0.4
_LOOKS = 3
# A part that is nearer than this share of the writing's size belongs to it, if it has
# this share of the main part's weight.
_GROUP_GAP = 0.2
_GROUP_WEIGHT = 0.04
# Long side while strokes are measured and grown. MNIST's strokes are 1.8, 2.4 and 3.3
# pixels wide at the 10th, 50th and 90th percentile; thinning tears thick ones open.
_DETAIL_SIDE = 100
_MIN_STROKE, _MAX_STROKE = 2.2, 6.0
# Ink goes from nothing to full between these shares of its typical strength.
_SOFT_FROM, _SOFT_TO = 0.3, 0.7
_FULL_PERCENTILE = 75
_MARGIN = 3


def framed(picture: Image.Image, contract: Contract, note: Note) -> Image.Image:
    """Return the sample: mode `L`, of the contract's size, light ink on 0.

    A picture without any ink becomes an empty sample.

    Args:
        picture: Mode `L` or `RGB`, of any size.
        contract: Says polarity, size and box.
        note: Called with every stage.
    """
    work = _with_long_side(picture.convert("L"), _WORK_SIDE)
    note("grey", f"{picture.width} x {picture.height}, reduced", work)
    if not _has_dark_ink(work, contract):
        work = work.point(lambda value: 255 - value)
        note("inverted", "light ink on dark paper", work)
    ink, noise = _ink(work)
    note("ink", f"light evened out; the paper's noise is {noise:.1%}", ink)
    ink, lines = without_ruling(ink, max(_LINE_SIGMAS * noise, _MIN_CONTRAST))
    if lines:
        note("unruled", f"ruling taken out of {lines} rows and columns", ink)
    mask = _writing(ink, noise)
    if not mask.any():
        note("nothing", "no ink was found on this paper", ink)
        return Image.new("L", (contract.width, contract.height))
    strokes = _close_up(ink, mask)
    note("writing", f"{int(mask.sum())} pixels of {mask.size}", strokes)
    strokes, width = _even_strokes(strokes, contract.box)
    note("strokes", f"{width:.1f} of {contract.box} pixels wide before", strokes)
    return _centred(strokes, contract)


def is_dark_ink(picture: Image.Image) -> bool:
    """Decide whether the ink is darker than the paper.

    At every edge of a narrow thing the neighbourhood, which is mostly paper, is
    lighter or darker than the middle of the edge. Desks, sheets and shadows are wider
    than the window: there closing and opening agree, and they have no vote.
    """
    small = _with_long_side(picture, _POLARITY_SIDE)
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


def _with_long_side(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = (
        max(1, round(picture.width * scale)),
        max(1, round(picture.height * scale)),
    )
    if scale >= 1:
        return picture.resize(size, Image.Resampling.BICUBIC)
    # A whole factor first, which is quicker, where another two remain for the filter.
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def _ink(work: Image.Image) -> tuple[Values, float]:
    """Return the strength of the ink as a share of the paper's light, and its noise."""
    small = np.asarray(_with_long_side(work, _PAPER_SIDE), np.float32)
    paper = Image.fromarray(closed(small, _PAPER_WINDOW).astype(np.uint8))
    paper = paper.filter(ImageFilter.BoxBlur(2))
    light = np.asarray(paper.resize(work.size, Image.Resampling.BILINEAR), np.float32)
    light = np.maximum(light, _DARKEST_PAPER)
    ink = (1 - np.asarray(work, np.float32) / light).astype(np.float32)
    ink -= np.median(ink[::2, ::2]).astype(np.float32)
    texture = np.abs(ink[:, _TEXTURE_STEP:] - ink[:, :-_TEXTURE_STEP])
    noise = _SIGMA_PER_MEDIAN * float(np.median(texture)) if texture.size else 0.0
    return ink, noise


def _writing(ink: Values, noise: float) -> Mask:
    """Return where the writing is: the likeliest part and those that belong to it."""
    edges = square(ink, _EDGE_WINDOW, np.maximum) - square(
        ink, _EDGE_WINDOW, np.minimum
    )
    for _ in range(_LOOKS):
        peak = _PEAK_SHARE * float(np.percentile(edges, _PEAK_PERCENTILE))
        found = parts(ink > max(_NOISE_SIGMAS * noise, peak, _MIN_CONTRAST), edges**2)
        likelihood = _likelihood(found)
        unlikely = likelihood == 0
        if not unlikely.any():
            break
        # A desk or a shadow must not set the threshold for the ink.
        edges = np.where(found.mask(unlikely), np.float32(0), edges)
    if not len(found) or likelihood.max() == 0:
        return np.zeros(ink.shape, bool)
    return found.mask(_belonging(found, int(likelihood.argmax())))


def _likelihood(found: Parts) -> npt.NDArray[np.float64]:
    """Return how likely each part is the writing: sharp, central, not on the frame."""
    height, width = found.labels.shape
    across = np.abs((found.left + found.right) / width - 1)
    down = np.abs((found.top + found.bottom) / height - 1)
    likelihood = found.weight * (1 - _OFF_CENTRE_LOSS * np.maximum(across, down))
    likelihood[found.on_frame > 0] *= _ON_FRAME_FACTOR
    likelihood[found.on_frame > 2 * (height + width) * _FRAME_SHARE] = 0
    return np.asarray(likelihood, np.float64)


def _belonging(found: Parts, main: int) -> Mask:
    """Return which parts belong to the main one, such as the bar of a five."""
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
    """Return the writing alone at detail size, its strength stretched to 0 to 1."""
    full = float(np.percentile(ink[mask], _FULL_PERCENTILE))
    around = square(np.pad(mask, _MARGIN), 5, np.maximum)
    stretched = (np.pad(ink, _MARGIN) / full - _SOFT_FROM) / (_SOFT_TO - _SOFT_FROM)
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
    """Return strokes as wide as MNIST's, and how wide they were in the box's pixels."""
    unit = _DETAIL_SIDE / box
    width = _stroke_width(strokes) / unit
    target = min(max(width, _MIN_STROKE), _MAX_STROKE)
    change = round(abs(target - width) * unit / 2)
    if change:
        pick = np.maximum if target > width else np.minimum
        strokes = square(np.pad(strokes, change + 1), 2 * change + 1, pick)
    return strokes.astype(np.float32), width


def _stroke_width(strokes: Values) -> float:
    """Return twice the area over the length of the outline: a long stroke's width."""
    padded = np.pad(strokes, 1)
    across, down = np.diff(padded, axis=1)[:-1], np.diff(padded, axis=0)[:, :-1]
    outline = float(np.hypot(across, down).sum())
    return 2 * float(strokes.sum()) / outline


def _centred(strokes: Values, contract: Contract) -> Image.Image:
    """Return the strokes scaled into the box, their centre of mass at the centre."""
    inked = strokes > 0.5
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    size = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    unit = size / contract.box  # detail pixels per pixel of the sample
    half_width, half_height = contract.width / 2 * unit, contract.height / 2 * unit
    room = int(max(half_width, half_height)) + 2
    strokes = np.pad(strokes, room)
    mass = strokes.sum()
    down = strokes.sum(axis=1) @ (np.arange(strokes.shape[0]) + 0.5) / mass
    across = strokes.sum(axis=0) @ (np.arange(strokes.shape[1]) + 0.5) / mass
    # MNIST's centre of mass is half a pixel right of and below the middle.
    down, across = down - unit / 2, across - unit / 2
    return shown(strokes).resize(
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
    """Return values from 0 to 1 as a grey picture, ink light."""
    return Image.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))
