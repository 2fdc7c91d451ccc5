# SPDX-License-Identifier: Apache-2.0
"""Finds one object written on paper, and follows its strokes into faint ink.

This is the finder `ink-3` of the contract. It frames as `ink-2` does
(`inkling.image.ink`), and differs in the search:

- The paper under a pixel is the closing of the picture at full resolution. A closing
  keeps the straight edge of a shadow and a slow change of the light, so that neither
  shows as ink.
- Ink is what encloses: the strokes of a digit enclose their holes. Where two rules
  disagree on the polarity, the part with the larger extent is the writing.
- The first search finds sure ink. The close look reduces the picture around it less,
  and follows the strokes from sure ink into faint ink, down to a bound that depends on
  the noise of the paper beside them.
- Faint strokes become as strong as the others, because the strength of the ink around
  each pixel is the measure there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from inkling.image import ink as whole
from inkling.image.crop import cut_of
from inkling.image.finder.polarity import has_dark_ink
from inkling.image.grey import to_grey
from inkling.image.morphology import closed, parts, square
from inkling.image.ruling import without_ruling

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.crop import Area
    from inkling.image.ink import Note
    from inkling.image.morphology import Mask, Parts, Values
    from inkling.image.png import Spend

    Levels = npt.NDArray[np.uint8]

__all__ = ["framed"]

_SIDE = 192
_WIDEST = 45
_FINE = 9
_DARKEST = 16
_PEAK, _PEAK_PERCENTILE, _SIGMAS, _LEAST = 0.35, 99.7, 5.0, 0.04
_FAINT_SHARE, _FAINT_SIGMAS, _FAINT_LEAST = 0.1, 4.0, 0.025
_MARGIN, _FEWEST = 0.4, 8
_STROKE_SHARE = 0.25
_LINE_SIGMAS = 3.0
_FULL_PERCENTILE = 75
_SOFT_FROM, _SOFT_TO = 0.3, 0.7
_DETAIL_SIDE = 100
_FOLLOWS = 0.4
_NEAR = 0.62
_ROOM = 1.0


def framed(picture, contract, note, spend=whole.unlimited):
    grey, work, inside, dark = _work(picture, contract, note)
    if not dark:
        work, grey = (each.point(lambda value: 255 - value) for each in (work, grey))
        note("inverted", "light ink on dark paper", work)
    ink, noise = _ink(work, _WIDEST)
    if inside is not None:
        noise = whole._noise(ink, inside)
    ink, lines = without_ruling(ink, max(_LINE_SIGMAS * noise, _LEAST))
    mask = _writing(ink, noise, spend)
    if not mask.any():
        note("nothing", "this paper shows no ink", ink)
        return Image.new("L", (contract.width, contract.height))
    grown = _followed(ink, mask, noise)
    if inside is None:
        ink, mask, noise = _closer(grey, ink, grown, noise)
        grown = _followed(ink, mask, noise)
    note("ink", f"noise {noise:.1%}", ink)
    strokes = _close_up(ink, grown)
    note("writing", f"{int(grown.sum())} pixels of {grown.size}", strokes)
    strokes, width = whole._even_strokes(strokes, contract.box)
    note("strokes", f"they were {width:.1f} of {contract.box} pixels wide", strokes)
    return whole._centred(strokes, contract)


def _work(picture, contract, note):
    """Return the grey picture, the same reduced, its area inside a margin, and polarity."""
    grey, projection = to_grey(picture, contract)
    stated = contract.polarity != "auto"
    dark = contract.polarity == "dark_on_light" if stated else None
    work = whole._with_long_side(grey, _SIDE)
    cut = cut_of(work, max(picture.size), dark)
    size = f"{picture.width} x {picture.height}"
    if dark is None:
        dark = has_dark_ink(
            work, lambda: cut.has_dark_ink if cut else whole.is_dark_ink(work)
        )
    if cut is not None and cut.has_dark_ink == dark:
        work, inside = cut.with_margin(grey, _SIDE)
        note("margin", f"{size}, {projection}; the ink touches the frame", work)
        return work, work, inside, dark
    note("grey", f"{size}, {projection}, reduced", work)
    return grey, work, None, dark


def _ink(work, window):
    levels = np.asarray(work)
    paper = square(square(levels, window, np.maximum), window, np.minimum)
    # Noise is a larger share of dark paper, which must not look like ink.
    darkest = max(_DARKEST, 0.4 * float(np.percentile(paper[::4, ::4], 90)))
    light = np.maximum(paper, np.float32(darkest)).astype(np.float32)
    ink = (paper.astype(np.float32) - levels) / light
    ink -= np.median(ink[::3, ::3])
    return ink, _noise(ink)


def _noise(ink):
    """Return the standard deviation of the ink's strength on blank paper."""
    texture = np.abs(ink[::2, 4::2] - ink[::2, :-4:2])
    return whole._SIGMA_PER_MEDIAN * float(np.median(texture)) if texture.size else 0.0


def _writing(ink, noise, spend):
    """Return the mask of the writing: the likeliest part and the parts beside it."""
    levels = (np.clip(ink, 0, 1) * np.float32(255)).astype(np.uint8)
    edges = square(levels, 5, np.maximum) - square(levels, 5, np.minimum)
    weights = edges.astype(np.float32) ** 2
    least = max(_SIGMAS * noise, _LEAST)
    for _ in range(3):
        peak = _PEAK * _percentile(edges, _PEAK_PERCENTILE) / 255
        found = parts(ink > max(least, peak), weights)
        likelihood = whole._likelihood(found)
        long = np.maximum(found.right - found.left, found.bottom - found.top)
        likelihood[found.on_frame > _FOLLOWS * long] = 0
        unlikely = likelihood == 0
        if not unlikely.any():
            break
        spend(whole._LOOK_NS)
        edges = np.where(found.mask(unlikely), np.uint8(0), edges)
    if not len(found) or likelihood.max() == 0:
        return np.zeros(ink.shape, bool)
    return found.mask(whole._belonging(found, int(likelihood.argmax())))


def _percentile(levels, percent):
    counts = np.bincount(levels.reshape(-1), minlength=256).cumsum()
    return float(np.searchsorted(counts, percent / 100 * levels.size))


def _closer(grey, ink, mask, noise):
    """Return ink, mask and noise of a closer look around the mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
    long = max(box[2] - box[0], box[3] - box[1])
    reach = _MARGIN * long + _FEWEST
    height, width = mask.shape
    left, top = max(0, box[0] - reach), max(0, box[1] - reach)
    right, bottom = min(width, box[2] + reach), min(height, box[3] + reach)
    if max(right - left, bottom - top) > _NEAR * max(mask.shape):
        return ink, mask, noise
    across, down = grey.width / width, grey.height / height
    region = (left * across, top * down, right * across, bottom * down)
    crop = max(region[2] - region[0], region[3] - region[1])
    side = min(_SIDE, max(crop, 96))
    scale = side / crop
    size = (
        max(1, round((region[2] - region[0]) * scale)),
        max(1, round((region[3] - region[1]) * scale)),
    )
    resampling = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    work = grey.resize(size, resampling, box=region, reducing_gap=2.0)
    window = max(9, int(_STROKE_SHARE * long * size[0] / (right - left)) | 1)
    near, noise = _ink(work, min(window, _WIDEST))
    near, _ = without_ruling(near, max(_LINE_SIGMAS * noise, _LEAST))
    mine = Image.fromarray(mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))])
    wide = mine.resize(size, Image.Resampling.NEAREST)
    return near, np.asarray(square(np.asarray(wide), 3, np.maximum)), noise


def _followed(ink, mask, noise):
    """Return the mask of the strokes, followed from sure ink into faint ink."""
    area = _around(mask)
    near, own = ink[area], mask[area]
    if not own.any():
        return mask
    strong = float(np.percentile(near[own], 90))
    sure = own & (near > max(_SIGMAS * noise, _PEAK * strong, _LEAST))
    if not sure.any():
        return mask
    seeds = np.where(sure, near, np.float32(0))
    low = max(_FAINT_SIGMAS * noise, _FAINT_SHARE * strong, _FAINT_LEAST)
    for step in (1, 1.6, 2.5):
        if low * step > _PEAK * strong:
            break
        faint = parts(near > low * step, seeds)
        chosen = faint.weight > 0
        if not _leaks(faint, chosen, sure):
            grown = np.zeros(mask.shape, bool)
            grown[area] = faint.mask(chosen)
            return grown
    return mask


def _around(mask):
    """Return the rows and columns around a mask, with room for as much again."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(None), slice(None)
    reach = int(_ROOM * max(rows[-1] - rows[0], columns[-1] - columns[0])) + _FEWEST
    return tuple(
        slice(max(0, lines[0] - reach), lines[-1] + reach) for lines in (rows, columns)
    )


def _leaks(faint, chosen, sure):
    """Return whether parts reach the frame where sure ink does not."""
    grown, edge = int(faint.on_frame[chosen].sum()), sure.copy()
    edge[1:-1, 1:-1] = False
    return grown > 2 * int(edge.sum()) + 2


def _close_up(ink, mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    area = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    ink, mask = np.pad(ink[area], 3), np.pad(mask[area], 3)
    full = max(float(np.percentile(ink[mask], _FULL_PERCENTILE)), 1e-3)
    own = np.where(mask, ink, 0).astype(np.float32)
    window = int(0.16 * max(height, width)) | 1
    local = square(own, window, np.maximum)
    local = np.minimum(local, full)
    spread = whole.shown(local / full).filter(ImageFilter.BoxBlur(window / 4))
    local = np.maximum(np.asarray(spread, np.float32) * np.float32(full / 255), 0.12 * full)
    around = square(mask, 5, np.maximum)
    stretched = (ink / local - _SOFT_FROM) / (_SOFT_TO - _SOFT_FROM)
    cut = whole.shown(np.where(around, stretched, 0))
    scale = _DETAIL_SIDE / max(height, width)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    large = cut.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32) / np.float32(255)
