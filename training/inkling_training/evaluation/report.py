# SPDX-License-Identifier: Apache-2.0
"""Writes an evaluation: its figures as JSON, and a page with pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from inkling.errors import InklingError, InvalidRequest
from inkling_training.figures import plots as drawings
from inkling_training.figures.reliability import reliability
from inkling_training.figures.text import escaped, fonts_for

if TYPE_CHECKING:
    from inkling_training.evaluation.labelled_folder import Collection
    from inkling_training.evaluation.respondents import Respondent
    from inkling_training.evaluation.tally import Mistake, Tally

__all__ = ["as_json", "check_writable", "contact_sheet", "write_report"]

# The sheet has the mistakes with the highest scores; more would be hard to look at.
_SHEET_MISTAKES = 48
_SHEET_COLUMNS = 4
_SHEET_SIDE = 256
_MAX_LISTED = 200
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { padding: 0.15rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
"""


def as_json(tally: Tally, collection: Collection, asked: str) -> dict[str, Any]:
    """Return all figures by name; `asked` says where the model ran."""
    sources = tally.by_source().items()
    return {
        "asked": asked,
        "versions": tally.versions,
        "labels": list(tally.labels),
        "pictures": len(collection.pictures),
        "accuracy": tally.accuracy.as_json(),
        "coverage": tally.coverage.as_json(),
        "accuracy_without_abstaining": tally.without_abstaining.as_json(),
        "abstained": dict(tally.reasons),
        "expected_calibration_error": tally.calibration_error,
        "by_label": {
            label: {name: share.as_json() for name, share in shares.items()}
            for label, shares in tally.by_label().items()
        },
        "by_source": {
            source: {name: share.as_json() for name, share in shares.items()}
            for source, shares in sources
        },
        "confusion": tally.confusion.tolist(),
        "mistakes": [mistake.as_json() for mistake in tally.mistakes],
        "failures": [
            {"picture": str(picture.path), "message": message}
            for picture, message in tally.failures
        ],
        "unknown_labels": dict(collection.unknown),
        "unlabelled": [str(path) for path in collection.unlabelled],
        "other_files": [str(path) for path in collection.others],
    }


def check_writable(directory: Path) -> None:
    """Make the directory, before the pictures are asked about.

    Raises:
        InvalidRequest: It cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise InvalidRequest(
            f"{directory} cannot be written to; name another folder with --output."
        ) from None


def write_report(
    directory: Path,
    figures: dict[str, Any],
    tally: Tally,
    respondent: Respondent,
) -> None:
    """Write `evaluation.json`, `report.html`, and the pictures that are in it.

    Raises:
        InvalidRequest: The directory cannot be written to.
    """
    drawn = {
        "confusion.png": drawings.confusion(tally.confusion, tally.labels),
        "reliability.png": reliability(*tally.scored),
    }
    if tally.mistakes:
        drawn["mistakes.png"] = contact_sheet(tally.mistakes, respondent)
    try:
        # An evaluation before may have left its own.
        (directory / "mistakes.png").unlink(missing_ok=True)
        for name, figure in drawn.items():
            figure.savefig(directory / name, dpi=120)
        pictures = {name: (directory / name).read_bytes() for name in drawn}
        text = json.dumps(figures, indent=1) + "\n"
        (directory / "evaluation.json").write_text(text, encoding="utf-8")
        page = _page(figures, tally, pictures)
        # The name of a file need not be Unicode text.
        content = page.encode(errors="backslashreplace")
        (directory / "report.html").write_bytes(content)
    except OSError:
        raise InvalidRequest(f"{directory} cannot be written to any more.") from None


def contact_sheet(mistakes: Sequence[Mistake], respondent: Respondent) -> Figure:
    """Draw the surest mistakes: the picture, and beside it what the model saw."""
    surest = sorted(mistakes, key=lambda mistake: -mistake.score)[:_SHEET_MISTAKES]
    columns = min(_SHEET_COLUMNS, len(surest))
    rows = -(-len(surest) // columns)
    figure = Figure(figsize=(2.8 * columns, 1.75 * rows), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    fonts = fonts_for(text for mistake in surest for text in _named(mistake))
    for axes in cells:
        axes.set_axis_off()
    for axes, mistake in zip(cells, surest, strict=False):
        axes.imshow(_side_by_side(mistake, respondent))
        label, answer, name = (escaped(text, fonts) for text in _named(mistake))
        title = f"{label} taken for {answer}, {mistake.score:.1%}\n{name:.30}"
        # A dollar sign would start a formula.
        axes.set_title(title, fontsize=8, fontfamily=fonts, parse_math=False)
    return figure


def _named(mistake: Mistake) -> tuple[str, str, str]:
    """Return the texts over a mistake: its label, the answer and the file's name."""
    return mistake.picture.label, mistake.answer, mistake.picture.path.name


def _side_by_side(mistake: Mistake, respondent: Respondent) -> np.ndarray:
    """Return picture and model input in one, shape (side, 2 * side, 3), uint8."""
    both = np.full((_SHEET_SIDE, 2 * _SHEET_SIDE, 3), 255, np.uint8)
    try:
        pictures = respondent.shown(mistake.picture.path)
    except InklingError:
        return both  # the file has changed since; the figures do not need it
    for place, picture in enumerate(pictures):
        pixels = _fitted(picture)
        height, width = pixels.shape[:2]
        left = place * _SHEET_SIDE + (_SHEET_SIDE - width) // 2
        top = (_SHEET_SIDE - height) // 2
        both[top : top + height, left : left + width] = pixels
    return both


def _fitted(picture: Image.Image) -> np.ndarray:
    """Return a picture as RGB within a cell; a small one shows its pixels."""
    scale = (_SHEET_SIDE - 8) / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    filtering = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return np.asarray(picture.convert("RGB").resize((size[0], size[1]), filtering))


def _page(figures: dict[str, Any], tally: Tally, pictures: dict[str, bytes]) -> str:
    images = [
        f"<h2>{name.removesuffix('.png').capitalize()}</h2>\n"
        f'<img alt="{name}" src="data:image/png;base64,'
        f'{base64.b64encode(content).decode()}">'
        for name, content in pictures.items()
    ]
    title = f"Evaluation of {', '.join(tally.versions)}"
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
            f"<style>{_STYLE}</style>",
            f"<h1>{escape(title)}</h1>",
            f"<p>Asked: {escape(figures['asked'])}.</p>",
            _table(["", "of all", "share (95 % interval)"], _overall(figures, tally)),
            "<p>Intervals are Wilson's (1927). The calibration error is the expected "
            "one over 15 bins of equal width (Guo et al., 2017).</p>",
            *_sections(figures, tally),
            *images,
            "</html>\n",
        ]
    )


def _overall(figures: dict[str, Any], tally: Tally) -> Iterable[Sequence[object]]:
    yield "Right answers", _of(tally.accuracy), tally.accuracy
    if tally.reasons:
        yield "Answered", _of(tally.coverage), tally.coverage
        whole = tally.without_abstaining
        yield "Right if it never abstained", _of(whole), whole
    for reason, count in sorted(tally.reasons.items()):
        yield f"Abstained: {reason}", count, ""
    yield "Refused pictures", f"{len(tally.failures)} of {figures['pictures']}", ""
    yield "Expected calibration error", "", f"{tally.calibration_error:.2%}"


def _of(share: Any) -> str:
    return f"{share.right} of {share.of}"


def _sections(figures: dict[str, Any], tally: Tally) -> Iterable[str]:
    labels, sources = tally.by_label(), tally.by_source()
    yield "<h2>By label</h2>"
    rows = ((name, of["precision"], of["recall"]) for name, of in labels.items())
    yield _table(["label", "precision", "recall"], rows)
    if sources:
        yield "<h2>By source</h2>"
        by = ((name, _of(s["alone"]), *s.values()) for name, s in sources.items())
        yield _table(["source", "right", "accuracy", "accuracy on all others"], by)
    lists = {
        "Refused pictures": [f"{p.path}: {message}" for p, message in tally.failures],
        "Labels that the model does not have": [
            f"{label}: {count} pictures, not asked about"
            for label, count in sorted(figures["unknown_labels"].items())
        ],
        "Pictures without a label": figures["unlabelled"],
        "Files that are no pictures": figures["other_files"],
    }
    for title, lines in lists.items():
        if lines:
            shown = "".join(f"<li>{escape(line)}" for line in lines[:_MAX_LISTED])
            yield f"<h2>{title}: {len(lines)}</h2>\n<ul>{shown}</ul>"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["".join(f"<th>{escape(name)}" for name in head)]
    lines += ["".join(f"<td>{escape(str(cell))}" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}" for line in lines) + "</table>"
