# SPDX-License-Identifier: Apache-2.0
"""Labels in figures: drawn in a font that has them, or written out; never as boxes."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

from inkling_training.figures.plots import confusion
from inkling_training.figures.text import escaped, fonts_for, labels_drawn

_WORLD = ("犬", "猫", "grüner Würfel", "кот", "τρία", "$x$", r"$\frac$", "a_b", "🙂")


def _drawn(figure: Figure) -> bytes:
    """Draw a figure; Matplotlib warns of each character that becomes a box."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(file)
    return file.getvalue()


@pytest.mark.parametrize("labels", [_WORLD, ("0", "1"), ("\u0378", "𒀀", "\U000e0100x")])
def test_every_label_can_be_drawn(labels: tuple[str, ...]) -> None:
    """A confusion matrix of labels in any script has no box and no formula."""
    figure = confusion(np.eye(len(labels), dtype=np.int64), labels)

    assert _drawn(figure)
    [axes] = figure.axes
    shown = [text.get_text() for text in axes.get_yticklabels()]
    numbered = [place for place, one in enumerate(shown) if one == f"#{place}"]
    assert all(
        shown[place] == labels[place] or place in numbered
        for place in range(len(labels))
    )
    assert bool(numbered) == ("#0 is the first label" in axes.get_xlabel())


def test_labels_that_the_usual_font_has_are_drawn() -> None:
    """Umlauts, Greek, Cyrillic and dollar signs need no number."""
    labels = ["grüner Würfel", "кот", "τρία", "$x$"]

    assert labels == labels_drawn(labels)[0]


def test_a_font_that_is_installed_is_found(tmp_path: Path) -> None:
    """Characters that the usual font lacks are drawn with another font that has them."""
    usual = set(
        font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    )
    others = font_manager.get_font(font_manager.findfont("STIXGeneral")).get_charmap()
    lacking = next(
        chr(point)
        for point in others
        if point not in usual and chr(point).isprintable()
    )

    fonts = fonts_for([lacking, "a"])

    assert len(fonts) > 1
    assert [lacking] == labels_drawn([lacking])[0]
    assert "a" + lacking == escaped("a" + lacking, fonts)


def test_names_without_a_font_are_escaped() -> None:
    """A title writes out what cannot be drawn, also the halves of characters."""
    fonts = fonts_for(["caf\udce9\u0378"])

    assert r"caf\udce9\u0378" == escaped("caf\udce9\u0378", fonts)
