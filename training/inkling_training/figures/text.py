# SPDX-License-Identifier: Apache-2.0
"""Text in figures: in a font that has its characters, or written out without them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from matplotlib import font_manager

__all__ = ["escaped", "fonts_for", "labels_drawn"]

# Fonts of coloured bitmaps, which cannot be drawn as outlines, and fonts of boxes.
_UNUSABLE = ("Emoji", "Last Resort", "LastResort")
_MAX_FONTS = 4


def labels_drawn(labels: Sequence[str]) -> tuple[list[str], dict[str, Any], str]:
    """Return labels as a figure can show them.

    Args:
        labels: The labels, in the order of their numbers.

    Returns:
        A text for each label, which is `#` and its number where no font here has all of
        its characters; the attributes of the text; and a note on these numbers, empty
        if there are none.
    """
    fonts = fonts_for(labels)
    drawn = _characters(fonts)
    shown = [
        label if drawn.issuperset(map(ord, label)) else f"#{place}"
        for place, label in enumerate(labels)
    ]
    numbered = shown != list(labels)
    note = "#0 is the first label: no font here has its characters" if numbered else ""
    # A dollar sign would start a formula.
    return shown, {"fontfamily": list(fonts), "parse_math": False}, note


def escaped(text: str, fonts: Iterable[str]) -> str:
    """Return a text with the characters escaped that none of the fonts has."""
    drawn = _characters(tuple(fonts))
    return "".join(
        one
        if one.isprintable() and ord(one) in drawn
        else one.encode("unicode_escape").decode()
        for one in text
    )


def fonts_for(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the families of fonts that together have the most of some texts.

    The usual font comes first; others follow only for characters that it lacks.
    """
    usual = font_manager.FontProperties().get_name()
    fonts, wanted = [usual], {ord(one) for text in texts for one in text}
    missing = wanted - _characters((usual,))
    while missing and len(fonts) < _MAX_FONTS:
        best = max(_families(), key=lambda name: len(missing & _characters((name,))))
        found = missing & _characters((best,))
        if not found:
            break
        fonts.append(best)
        missing -= found
    return tuple(fonts)


@cache
def _families() -> Sequence[str]:
    """Return the names of all fonts that are installed, sorted."""
    names = {entry.name for entry in font_manager.fontManager.ttflist}
    return sorted(name for name in names if not any(word in name for word in _UNUSABLE))


@cache
def _characters(families: tuple[str, ...]) -> frozenset[int]:
    """Return the code points that at least one of the fonts has."""
    if len(families) > 1:
        return frozenset().union(*(_characters((name,)) for name in families))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = font_manager.findfont(families[0], fallback_to_default=False)
            return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()  # a damaged file, or one that Matplotlib does not read
