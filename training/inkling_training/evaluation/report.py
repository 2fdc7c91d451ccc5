# SPDX-License-Identifier: Apache-2.0
"""Writes an evaluation: its figures as JSON, and a page with pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from inkling.cli.text import column, printable
from inkling.errors import InvalidRequest
from inkling_training.evaluation.contact_sheet import Cell, contact_sheet
from inkling_training.figures import plots as drawings
from inkling_training.figures.reliability import reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inkling_training.data.labelled_folder import Collection
    from inkling_training.evaluation.respondents import Respondent
    from inkling_training.evaluation.tally import Outcomes, Share, Tally

__all__ = [
    "as_json",
    "check_writable",
    "left_out",
    "left_out_lists",
    "lines",
    "of_all",
    "page",
    "percent",
    "table",
    "write_files",
    "write_report",
]

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
    return {
        "asked": asked,
        "versions": tally.versions,
        "labels": list(tally.labels),
        "pictures": len(collection.pictures),
        "folder": str(collection.folder),
        "accuracy": tally.accuracy.as_json(),
        "coverage": tally.coverage.as_json(),
        "accuracy_without_abstaining": tally.without_abstaining.as_json(),
        "abstained": dict(tally.reasons),
        "wrong_withheld": tally.wrong_withheld.as_json(),
        "expected_calibration_error": tally.calibration_error,
        "by_label": {
            label: {name: share.as_json() for name, share in shares.items()}
            for label, shares in tally.by_label().items()
        },
        "by_source": {
            source: figures.as_json() for source, figures in tally.by_source().items()
        },
        **_of_two_labels(tally),
        "confusion": tally.confusion.tolist(),
        "mistakes": [mistake.as_json() for mistake in tally.mistakes],
        "withheld": [one.as_json() for one in tally.withheld],
        **left_out(tally, collection),
    }


def _of_two_labels(tally: Tally) -> dict[str, Any]:
    if len(tally.labels) != 2:
        return {}
    return {"second_label": {"label": tally.labels[1], "f1": tally.second_label_f1}}


def left_out(tally: Outcomes, collection: Collection) -> dict[str, Any]:
    """Return by name what the figures do not cover."""
    return {
        "failures": [
            {"picture": str(path), "message": message}
            for path, message in tally.failures
        ],
        "unknown_labels": dict(collection.unknown),
        "unlabelled": [str(path) for path in collection.unlabelled],
        "other_files": [str(path) for path in collection.others],
        "copies": [[str(path) for path in same] for same in collection.copies],
    }


def lines(tally: Tally, collection: Collection, asked: str) -> Iterator[str]:
    """Yield the lines of the table on the terminal."""
    versions = ", ".join(tally.versions) or "no version"
    yield f"{versions}, {asked}, about {len(collection.pictures):,} pictures"
    yield f"accuracy     {tally.accuracy}, 95 % interval after Wilson"
    if tally.second_label_f1 is not None:
        name = printable(tally.labels[1])
        yield f"F1           {percent(tally.second_label_f1)}, of {name}"
    if tally.reasons:
        reasons = ", ".join(f"{n} {name}" for name, n in sorted(tally.reasons.items()))
        yield f"answered     {tally.coverage}; abstained: {reasons}"
        yield f"withheld     {of_all(tally.wrong_withheld)} would have been wrong"
        yield f"without it   {tally.without_abstaining}"
    yield f"calibration  {tally.calibration_error:.2%} expected error, 15 bins"
    yield f"{'LABEL':16} {'ANSWERED':>8}  {'PRECISION':>9}  {'RECALL':>7}"
    for label, shares in tally.by_label().items():
        precision, recall = shares["precision"], shares["recall"]
        yield (
            f"{column(label, 16)} {recall.of:8,}  {percent(precision.value):>9}  "
            f"{percent(recall.value):>7}"
        )
    yield from _source_lines(tally)


def _source_lines(tally: Tally) -> Iterator[str]:
    sources = tally.by_source()
    if sources:
        yield (
            f"{'SOURCE':24} {'ANSWERED':>8}  {'ACCURACY':>8}  {'95 % INTERVAL':>16}  "
            f"{'OTHERS':>7}  {'WITHHELD':>8}  {'WRONG':>5}  {'ECE':>6}"
        )
    for source, figures in sources.items():
        alone = figures.alone
        low, high = (percent(bound) for bound in alone.interval)
        yield (
            f"{column(source or '-', 24)} {alone.of:8,}  {percent(alone.value):>8}  "
            f"{f'{low} to {high}':>16}  {percent(figures.without.value):>7}  "
            f"{figures.withheld.right:8,}  {figures.wrong_withheld.right:5,}  "
            f"{percent(figures.calibration_error):>6}"
        )


def percent(share: float | None) -> str:
    """Return a share for people; a bar where there is none."""
    return "-" if share is None else f"{share:.2%}"


def check_writable(directory: Path) -> None:
    """Make the directory, before the pictures are asked about.

    Raises:
        InvalidRequest: It cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(
            f"{directory} cannot be written to ({error.strerror}); name another folder "
            "with --output."
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
        cells = [
            Cell(one.picture.path, one.picture.label, one.answer, one.score)
            for one in tally.mistakes
        ]
        folder = Path(figures["folder"])
        drawn["mistakes.png"] = contact_sheet(cells, respondent, folder)
    write_files(directory, figures, drawn, lambda shown: _page(figures, tally, shown))


def write_files(
    directory: Path,
    figures: dict[str, Any],
    drawn: Mapping[str, Figure],
    written: Callable[[dict[str, bytes]], str],
) -> None:
    """Write `evaluation.json`, the drawings, and `report.html`.

    Args:
        directory: The folder, which exists.
        figures: The content of `evaluation.json`.
        drawn: The drawings by the names of their files.
        written: Returns the page, given the content of the drawings' files.

    Raises:
        InvalidRequest: The directory cannot be written to.
    """
    try:
        # An evaluation before may have left its own.
        for name in ("confusion.png", "mistakes.png"):
            (directory / name).unlink(missing_ok=True)
        for name, figure in drawn.items():
            figure.savefig(directory / name, dpi=120)
        pictures = {name: (directory / name).read_bytes() for name in drawn}
        text = json.dumps(figures, indent=1) + "\n"
        (directory / "evaluation.json").write_text(text, encoding="utf-8")
        # The name of a file need not be Unicode text.
        content = written(pictures).encode(errors="backslashreplace")
        (directory / "report.html").write_bytes(content)
    except OSError as error:
        raise InvalidRequest(
            f"{directory} cannot be written to any more: {error.strerror}."
        ) from None


def _page(figures: dict[str, Any], tally: Tally, pictures: dict[str, bytes]) -> str:
    sections = [
        table(["", "of all", "share (95 % interval)"], _overall(figures, tally)),
        "<p>Intervals are Wilson's (1927). The calibration error is the expected "
        "one over 15 bins of equal width (Guo et al., 2017).</p>",
        *_sections(figures, tally),
    ]
    return page(figures, tally, sections, pictures)


def page(
    figures: dict[str, Any],
    tally: Outcomes,
    sections: Iterable[str],
    pictures: dict[str, bytes],
) -> str:
    """Return the page around sections of HTML, with the drawings inside it."""
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
            *sections,
            *images,
            "</html>\n",
        ]
    )


def _overall(figures: dict[str, Any], tally: Tally) -> Iterable[Sequence[object]]:
    yield "Right answers", of_all(tally.accuracy), tally.accuracy
    if tally.second_label_f1 is not None:
        yield f"F1 of {tally.labels[1]}", "", percent(tally.second_label_f1)
    if tally.reasons:
        yield "Answered", of_all(tally.coverage), tally.coverage
        wrong = tally.wrong_withheld
        yield "Wrong among the withheld", of_all(wrong), wrong
        whole = tally.without_abstaining
        yield "Right if it never abstained", of_all(whole), whole
    for reason, count in sorted(tally.reasons.items()):
        yield f"Abstained: {reason}", count, ""
    yield "Refused pictures", f"{len(tally.failures)} of {figures['pictures']}", ""
    yield "Expected calibration error", "", f"{tally.calibration_error:.2%}"


def of_all(share: Share) -> str:
    """Return the numbers behind a share."""
    return f"{share.right} of {share.of}"


def _sections(figures: dict[str, Any], tally: Tally) -> Iterable[str]:
    labels, sources = tally.by_label(), tally.by_source()
    yield "<h2>By label</h2>"
    rows = ((name, of["precision"], of["recall"]) for name, of in labels.items())
    yield table(["label", "precision", "recall"], rows)
    if sources:
        yield "<h2>By source</h2>"
        by = (
            (
                *(name, of_all(s.alone), s.alone, s.without, of_all(s.withheld)),
                *(of_all(s.wrong_withheld), percent(s.calibration_error)),
            )
            for name, s in sources.items()
        )
        yield table(
            [
                *("source", "right", "accuracy", "accuracy on all others", "withheld"),
                *("wrong among the withheld", "calibration error"),
            ],
            by,
        )
    yield from left_out_lists(figures, tally)


def left_out_lists(
    figures: dict[str, Any],
    tally: Outcomes,
    more: Mapping[str, list[str]] = MappingProxyType({}),
) -> Iterable[str]:
    """Yield the lists of what the figures do not cover, after `more` lists."""
    lists = {
        **more,
        "Refused pictures": [f"{path}: {message}" for path, message in tally.failures],
        "Labels that the model does not have": [
            f"{label}: {count} pictures, not asked about"
            for label, count in sorted(figures["unknown_labels"].items())
        ],
        "Pictures without a label": figures["unlabelled"],
        "Files that are no pictures": figures["other_files"],
        "Copies": [", ".join(same) for same in figures["copies"]],
    }
    for title, rows in lists.items():
        if rows:
            shown = "".join(f"<li>{escape(row)}" for row in rows[:_MAX_LISTED])
            yield f"<h2>{title}: {len(rows)}</h2>\n<ul>{shown}</ul>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of HTML; all texts are escaped."""
    lines = ["".join(f"<th>{escape(name)}" for name in head)]
    lines += ["".join(f"<td>{escape(str(cell))}" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}" for line in lines) + "</table>"
