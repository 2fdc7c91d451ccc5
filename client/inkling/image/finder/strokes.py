# SPDX-License-Identifier: Apache-2.0
"""Finds one object written on paper, and follows its strokes into faint ink.

This is the finder `ink-3` of the contract. It frames as `ink-2` does
(`inkling.image.ink`), and differs in the search:

- The paper under a pixel is the closing of the picture at the resolution of the search.
  A closing keeps the straight edge of a shadow and a slow change of the light, so that
  neither shows as ink.
- Thin strokes decide the polarity (`inkling.image.finder.polarity`).
- A part that follows the frame is never the writing.
- Strokes are followed from sure ink into faint ink, down to a bound by the noise of the
  paper. Ink that would reach the frame where sure ink does not is not followed.
- A small find is looked at again, in a picture that is reduced less.
- The strength of the ink around a pixel is full ink there, so that the faint end of a
  stroke becomes as dark as its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageFilter

from inkling.image.crop import Cut, cut_of
from inkling.image.finder.clear import clear_ink
from inkling.image.finder.doubt import of_several, of_strokes
from inkling.image.finder.faint_ink import (
    FAINT,
    PIXELS,
    SURE,
    SURE_SHARE,
    SURE_SIGMAS,
    followed,
    searched,
    spans,
)
from inkling.image.finder.paper import ink_on
from inkling.image.finder.polarity import has_dark_ink
from inkling.image.grey import to_grey
from inkling.image.ink import (
    belonging,
    is_dark_ink,
    likelihood_of,
    noise_of,
    sample_of,
    shown,
    unlimited,
    with_long_side,
)
from inkling.image.morphology import padded, parts, share_of, window
from inkling.image.ruling import without_ruling

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.budget import Spend
    from inkling.image.crop import Area
    from inkling.image.finder.doubt import Doubt
    from inkling.image.ink import Note
    from inkling.image.morphology import Mask, Values

    Levels: TypeAlias = npt.NDArray[np.uint8]

__all__ = ["follow"]

# Long side, in pixels, for the search, and the widest stroke there.
_SIDE, _WIDEST = 192, 45
# From this long side on, thin strokes decide the polarity.
_THIN_SIDE = 96
_STRONGEST = 99.7
_EDGE_WINDOW = 5
_LOOKS = 3
# A line of ruling has at least this many times the noise; in the closer look it has at
# least the other share of the paper's brightness.
_LINE_SIGMAS, _CLOSE_LINE = 3.0, 0.02
# A part on the frame along this share of its long side follows the frame.
_FOLLOWS_FRAME = 0.4
# A find that is duller than this, and that a square of this share of its long side fits
# into, may be a shine: a find of the other polarity is the writing if it is this many
# times as sharp.
_DULL, _BLOB, _SHARPER = 0.6, 0.35, 1.9
# So few pixels are specks of sure ink.
_SPECKS = 16
# The margin of the closer look, as a share of the find's long side.
_MARGIN = 0.4
# A look is closer if it shows at most this share of the picture. It has at least this
# many pixels on its long side, and strokes are narrower than this share of the find.
_NEAR, _CLOSER_SIDE, _FEWEST, _STROKE_SHARE = 0.5, 144, 96, 0.25
# Full ink is the strongest ink within this share of the writing's long side, up to the
# 75th percentile of all of its ink, and at least this share of that.
_LOCAL, _LEAST_FULL = 0.16, 0.12
_FULL_PERCENTILE = 75
_SOFT_FROM, _SOFT_TO = 0.3, 0.7
_DETAIL_SIDE, _BORDER = 100, 3
# A find counts as so many pixels long: a dot with its border would become 49 times as
# large as a digit.
_DOT = 4
# Ink that is framed has at least this strength, 0 to 1.
_SHOWN = 0.5
# CPU time in nanoseconds: of the search with its growth (0.97 to 1.07 times that of
# `ink-2`, which has 6.0 ms, for drawings of 28 x 28 pixels), of the removal of ruling,
# of every further look, of the closer look, and per pixel of the close-up.
_SEARCH_NS, _RULING_NS, _LOOK_NS = 6_100_000, 2_500_000, 2_300_000
_CLOSER_NS, _DETAIL_NS = 4_000_000, 45
# A clear drawing takes a fifth of the time of a search, measured interleaved.
_CLEAR_NS = 1_300_000
_inverted = bytes(range(255, -1, -1))


class _Guess(NamedTuple):
    """Whether the ink is dark, and whether this is sure."""

    is_dark: bool
    is_sure: bool


@dataclass(frozen=True)
class _Found:
    """What a search found, if the ink is dark, or light.

    Attributes:
        has_dark_ink: Which of the two was searched for.
        ink: The strength of the ink, as a share of the paper's brightness.
        noise: The standard deviation of that strength on blank paper.
        lines: How many rows and columns had ruling.
        mask: Where the writing is.
        sharpness: The strength of the edges in the writing, divided by the ink's: that
            of thin strokes is high, and that of a shine or a shadow is low.
        doubt: The doubt whether this is one object.
    """

    has_dark_ink: bool
    ink: Values
    noise: float
    lines: int
    mask: Mask
    sharpness: float
    doubt: Doubt | None


def follow(
    picture: Image.Image, contract: Contract, note: Note, spend: Spend = unlimited
) -> tuple[Image.Image, Doubt | None]:
    """Return the sample: mode `L`, of the contract's size, light ink on black (0).

    A picture without ink becomes a black sample. The second value is the doubt about
    what was found; None if there is none.

    Args:
        picture: A picture of mode `L` or `RGB` and of any size.
        contract: The contract with the polarity, the size and the box.
        note: A function that is called with every stage.
        spend: A function that is told the CPU time of each step, in nanoseconds, before
            it is used.

    Raises:
        TooLarge: `spend` raised it.
    """
    spend(_CLEAR_NS)
    clear = clear_ink(picture, contract)
    if clear is not None:
        note("clear", "strong ink on even paper needs no search", clear.grey)
        return sample_of(clear.strokes(), clear.mask, contract, note), clear.doubt
    spend(_SEARCH_NS - _CLEAR_NS)
    grey, work, inside, guess = _work(picture, contract, note)
    found = _decided(grey, work, inside, guess, spend)
    if not found.has_dark_ink:
        grey = grey.point(_inverted)
        note("inverted", "light ink on dark paper", work.point(_inverted))
    ink, mask, noise = found.ink, found.mask, found.noise
    note("ink", f"paper removed; its noise is {noise:.1%}", ink)
    if found.lines:
        note("unruled", f"ruling removed from {found.lines} rows and columns", ink)
    if not mask.any():
        note("nothing", "this paper shows no ink", ink)
        return Image.new("L", (contract.width, contract.height)), None
    # A picture of two clear levels has no faint ink.
    least_full, doubt = 1.0, found.doubt
    if inside is None:
        least_full = _LEAST_FULL
        whole = followed(ink, mask, noise)
        sure = int(np.count_nonzero(mask))
        ink, mask, noise = _closer(grey, ink, whole, noise, note, spend)
        grew = int(np.count_nonzero(mask)) / sure
        doubt = doubt or of_strokes(ink, mask, noise, grew)
    spend(_DETAIL_NS * _DETAIL_SIDE * _DETAIL_SIDE)
    strokes = _close_up(ink, mask, least_full)
    if not (strokes > _SHOWN).any():
        note("nothing", "what was found is too faint to be ink", ink)
        return Image.new("L", (contract.width, contract.height)), None
    return sample_of(strokes, mask, contract, note), doubt


def _work(
    picture: Image.Image, contract: Contract, note: Note
) -> tuple[Image.Image, Image.Image, Area | None, _Guess]:
    """Return the grey picture, the same for the search, and if the ink is dark.

    If the latter got a margin, the area is that of the picture inside; otherwise it is
    None.
    """
    grey, projection = to_grey(picture, contract)
    size = f"{picture.width} x {picture.height}"
    stated = contract.polarity != "auto"
    dark = contract.polarity == "dark_on_light" if stated else None
    work = with_long_side(grey, _SIDE)
    cut = cut_of(work, max(picture.size), dark)
    guess = _guess(work, cut, max(picture.size)) if dark is None else _Guess(dark, True)
    if cut is not None and cut.has_dark_ink == guess.is_dark:
        work, inside = cut.with_margin(grey, _SIDE)
        note("margin", f"{size}, {projection}; the ink touches the frame", work)
        return grey, work, inside, guess
    note("grey", f"{size}, {projection}, reduced", work)
    return grey, work, None, guess


def _decided(
    grey: Image.Image,
    work: Image.Image,
    inside: Area | None,
    guess: _Guess,
    spend: Spend,
) -> _Found:
    """Return what the search found, for ink that is dark or light.

    Where this is a guess and a shine would be the ink, the other way is looked at, too.
    """
    found = _searched(work, inside, guess.is_dark, spend)
    darkest, lightest = grey.getextrema()
    if darkest == lightest:
        return found  # an empty canvas, on which a further search would find nothing
    if guess.is_sure or found.sharpness > _DULL or not _is_blob(found.mask):
        return found if inside else _fainter(grey, found, spend)
    spend(_SEARCH_NS // 2)
    other = _searched(work, inside, not guess.is_dark, spend)
    better = other if other.sharpness > _SHARPER * found.sharpness else found
    return better if inside else _fainter(grey, better, spend)


def _fainter(grey: Image.Image, found: _Found, spend: Spend) -> _Found:
    """Return what a search for faint ink found, if only specks are sure ink.

    A picture that needs no reduction shows nothing more in another search.
    """
    if max(grey.size) <= _SIDE or np.count_nonzero(found.mask) > _SPECKS:
        return found
    spend(_SEARCH_NS // 2)
    faint = searched(grey, found.has_dark_ink, _SIDE)
    return replace(found, **faint._asdict()) if faint else found


def _is_blob(mask: Mask) -> bool:
    """Return whether a large square fits into the mask, as into no stroke."""
    if not mask.any():
        return True
    side = int(_BLOB * (1 + max(int(np.ptp(lines)) for lines in spans(mask))))
    return bool(window(mask, max(side, 2), np.minimum).any())


def _searched(
    work: Image.Image, inside: Area | None, has_dark_ink: bool, spend: Spend
) -> _Found:
    levels = np.asarray(work)
    ink, noise = ink_on(levels if has_dark_ink else ~levels, _WIDEST)
    if inside is not None:
        noise = noise_of(ink, inside)
    ink, lines = without_ruling(ink, max(_LINE_SIGMAS * noise, _CLOSE_LINE))
    if lines:
        spend(_RULING_NS)
    mask, sharpness, doubt = _writing(ink, noise, spend)
    return _Found(has_dark_ink, ink, noise, lines, mask, sharpness, doubt)


def _guess(work: Image.Image, cut: Cut | None, side: int) -> _Guess:
    """Return if the ink is dark, for a picture with this long side.

    In a picture that was enlarged, what is thin in the search is less than a pixel of
    the picture: the holes of an eight would count as strokes.
    """
    dark = None
    if side >= _THIN_SIDE:
        dark = has_dark_ink(work, cut.contrast if cut else None)
    if dark is not None:
        return _Guess(dark, True)
    return _Guess(cut.has_dark_ink if cut else is_dark_ink(work), side < _THIN_SIDE)


def _writing(
    ink: Values, noise: float, spend: Spend
) -> tuple[Mask, float, Doubt | None]:
    """Return the mask of sure ink, the likeliest part with those beside it.

    The second value is its sharpness, which is 0 if there is no ink; the third is the
    doubt whether it is one object.
    """
    levels = (np.clip(ink, 0, 1) * np.float32(255)).astype(np.uint8)
    edges = window(levels, _EDGE_WINDOW, np.maximum)
    edges -= window(levels, _EDGE_WINDOW, np.minimum)
    weights = np.square(edges, dtype=np.float32)
    least = max(SURE_SIGMAS * noise, SURE)
    for _ in range(_LOOKS):
        found = parts(ink > max(least, SURE_SHARE * _strongest(edges)), weights)
        likelihood = likelihood_of(found)
        long = np.maximum(found.right - found.left, found.bottom - found.top)
        likelihood[found.on_frame > _FOLLOWS_FRAME * long] = 0
        unlikely = likelihood == 0
        if not unlikely.any():
            break
        spend(_LOOK_NS)
        # The edges of a desk or a shadow must not set the threshold for the ink.
        edges = np.where(found.mask(unlikely), np.uint8(0), edges)
    if not len(found) or likelihood.max() == 0:
        return np.zeros(ink.shape, bool), 0.0, None
    chosen = belonging(found, int(likelihood.argmax()))
    mask = found.mask(chosen)
    sharpness = float(edges[mask].sum()) / max(float(levels[mask].sum()), 1.0)
    return mask, sharpness, of_several(found, chosen)


def _strongest(edges: Levels) -> float:
    """Return the strength of the strongest edges, 0 to 1."""
    below = np.bincount(edges.reshape(-1), minlength=256).cumsum()
    return float(np.searchsorted(below, _STRONGEST / 100 * edges.size)) / 255


def _closer(
    grey: Image.Image, ink: Values, mask: Mask, noise: float, note: Note, spend: Spend
) -> tuple[Values, Mask, float]:
    """Return ink, mask and noise in a picture that is reduced less, if it is small."""
    rows, columns = spans(mask)
    height, width = mask.shape
    long = 1 + max(int(np.ptp(rows)), int(np.ptp(columns)))
    reach = int(_MARGIN * long) + PIXELS
    top, bottom = max(0, int(rows[0]) - reach), min(height, int(rows[-1]) + 1 + reach)
    left, right = (
        max(0, int(columns[0]) - reach),
        min(width, int(columns[-1]) + 1 + reach),
    )
    if max(right - left, bottom - top) > _NEAR * max(mask.shape):
        return ink, mask, noise
    spend(_CLOSER_NS)
    across, down = grey.width / width, grey.height / height
    region = (left * across, top * down, right * across, bottom * down)
    size, scale = _size_of(region)
    resampling = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    work = grey.resize(size, resampling, box=region, reducing_gap=2.0)
    widest = int(_STROKE_SHARE * long * size[0] / (right - left)) | 1
    near, fine = ink_on(np.asarray(work), min(max(widest, 9), _WIDEST))
    near, _ = without_ruling(near, max(_LINE_SIGMAS * fine, _CLOSE_LINE))
    found = Image.fromarray(mask[top:bottom, left:right])
    found = found.resize(size, Image.Resampling.NEAREST)
    note("closer", f"{long} of {max(mask.shape)} pixels are looked at again", near)
    closer = followed(near, window(np.asarray(found), 3, np.maximum), fine)
    if share_of(near[closer], _FULL_PERCENTILE) < FAINT:
        # The find is a speck that the finer picture does not show.
        return ink, mask, noise
    return near, closer, fine


def _size_of(
    region: tuple[float, float, float, float],
) -> tuple[tuple[int, int], float]:
    """Return the width and the height of the closer look, and its scale."""
    left, top, right, bottom = region
    long = max(right - left, bottom - top)
    scale = min(_CLOSER_SIDE, max(long, _FEWEST)) / long
    width, height = ((right - left) * scale, (bottom - top) * scale)
    return (max(1, round(width)), max(1, round(height))), scale


def _close_up(ink: Values, mask: Mask, least_full: float) -> Values:
    """Return the writing without its surroundings, at detail size, from 0 to 1."""
    rows, columns = spans(mask)
    area = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    ink, mask = padded(ink[area], _BORDER), padded(mask[area], _BORDER)
    full = max(share_of(ink[mask], _FULL_PERCENTILE), 1e-3)
    long = 1 + max(int(np.ptp(rows)), int(np.ptp(columns)))
    reach = int(_LOCAL * long) | 1
    own = np.asarray(shown(np.where(mask, ink / np.float32(full), 0)))
    local = Image.fromarray(window(own, reach, np.maximum))
    local = local.filter(ImageFilter.BoxBlur(reach / 4))
    strength = np.maximum(np.asarray(local, np.float32) / 255, np.float32(least_full))
    strength *= np.float32(full)
    stretched = (ink / strength - _SOFT_FROM) / (_SOFT_TO - _SOFT_FROM)
    cut = shown(np.where(window(mask, 5, np.maximum), stretched, 0))
    scale = _DETAIL_SIDE / max(long, _DOT)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    large = cut.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(large, np.float32) / np.float32(255)
