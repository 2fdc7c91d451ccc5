# SPDX-License-Identifier: Apache-2.0
"""Says when a find of `ink-3` is doubtful, so that nobody takes its label for sure.

A model that gets half of a digit may be sure of another one, so that a doubt counts up
to a higher score than `abstain_below`: each states that score. Three things say that
the find may be half of it, without knowing the model: the ink is hardly stronger than
the paper's texture, or much faint ink beside it was not followed, or nearly all of it
is fainter than the ink that the search was sure of. A fourth says that there is more
than one: two finds of one size stand side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inkling.image.finder.faint_ink import spans
from inkling.image.morphology import parts, share_of, window

if TYPE_CHECKING:
    from inkling.image.morphology import Mask, Parts, Values

__all__ = ["Doubt", "of_several", "of_strokes"]

# Strong ink is the 90th percentile; below this many times the noise it is doubtful.
_STRONG, _SIGMAS = 90, 11.0
# Sure ink that grew by more than this factor was a few specks.
_GREW = 40
# A part of faint ink beside the find with this share of the find's ink was not
# followed; it counts where strong ink is weaker than this share of the paper.
_LEFT, _WEAK = 0.08, 0.2
# Faint ink has this many times the noise, this share of strong ink, and this strength.
_FAINT_SIGMAS, _FAINT_SHARE, _FAINT = 4.0, 0.1, 0.025
# How far around the find faint ink counts, as a share of its long side.
_AROUND = 0.4
# Of the pages that faint ink makes doubtful, 3 % are wrong from this score on, as few
# as of all pages; of those with specks of sure ink, a third are wrong at any score.
_ENOUGH, _NEVER = 0.99, 2.0
# Another find is as large as the writing from these shares of its weight and height on,
# and stands beside it if their rows overlap by this share.
_WEIGHT, _HEIGHT, _OVERLAP = 0.35, 0.6, 0.5


class Doubt(NamedTuple):
    """A doubt about a find.

    Attributes:
        reason: The reason for which a prediction has no label, one of
            `inkling.abstention.REASONS`.
        text: The reason as a text for people.
        below: The highest score below which it counts; above 1 if it always does.
    """

    reason: str
    text: str
    below: float = _NEVER


def of_strokes(ink: Values, mask: Mask, noise: float, grew: float) -> Doubt | None:
    """Return the doubt whether the strokes are whole; None if there is none.

    Args:
        ink: The strength of the ink, as a share of the paper's brightness.
        mask: Where the writing is.
        noise: The standard deviation of that strength on blank paper.
        grew: How many times as large as the sure ink the writing is.
    """
    rows, columns = spans(mask)
    reach = int(_AROUND * (1 + max(np.ptp(rows), np.ptp(columns))))
    area = tuple(
        slice(max(0, int(lines[0]) - reach), int(lines[-1]) + 1 + reach)
        for lines in (rows, columns)
    )
    near, own = ink[area], mask[area]
    strong = share_of(near[own], _STRONG)
    if strong < _SIGMAS * noise:
        text = f"the ink is only {strong / noise:.0f} times the paper's noise"
        return Doubt("unsure", text, _ENOUGH)
    if grew > _GREW:
        return Doubt("unsure", f"only {1 / grew:.1%} of the strokes are sure ink")
    if strong >= _WEAK:
        return None
    low = max(_FAINT_SIGMAS * noise, _FAINT_SHARE * strong, _FAINT)
    left = parts((near > low) & ~window(own, 5, np.maximum), near)
    share = left.weight.max() / float(near[own].sum()) if len(left) else 0.0
    if share > _LEFT:
        text = f"faint ink beside it, {share:.0%}, was not followed"
        return Doubt("unsure", text, _ENOUGH)
    return None


def of_several(found: Parts, chosen: Mask) -> Doubt | None:
    """Return the doubt whether two objects stand side by side; None if one does.

    Args:
        found: The parts of the ink.
        chosen: Which of them are the writing, one entry per part.
    """
    weight = float(found.weight[chosen].sum())
    height = found.bottom[chosen].max() - found.top[chosen].min()
    large = found.weight >= _WEIGHT * weight
    large &= found.bottom - found.top >= _HEIGHT * height
    large &= found.on_frame == 0
    main = int(np.where(chosen, found.weight, 0).argmax())
    beside = np.maximum(found.left - found.right[main], found.left[main] - found.right)
    rows = np.minimum(found.bottom, found.bottom[main])
    rows = rows - np.maximum(found.top, found.top[main])
    level = rows >= _OVERLAP * (found.bottom[main] - found.top[main])
    count = 1 + int(np.count_nonzero(large & (beside > 0) & level))
    if count == 1:
        return None
    return Doubt("several", f"{count} objects of one size stand side by side")
