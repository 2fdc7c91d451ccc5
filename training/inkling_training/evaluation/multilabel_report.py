# SPDX-License-Identifier: Apache-2.0
"""Writes the evaluation of a model whose pictures may have several labels, or none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inkling.cli.text import column
from inkling_training.evaluation.contact_sheet import Cell, contact_sheet
from inkling_training.evaluation.report import (
    left_out,
    left_out_lists,
    of_all,
    page,
    percent,
    table,
    write_files,
)
from inkling_training.figures.reliability import reliability

if TYPE_CHECKING:
    from inkling_training.data.labelled_folder import Collection
    from inkling_training.evaluation.multilabel_tally import MultiLabelTally
    from inkling_training.evaluation.respondents import Respondent

__all__ = ["as_json", "lines", "write_report"]


def as_json(
    tally: MultiLabelTally, collection: Collection, asked: str
) -> dict[str, Any]:
    """Return all figures by name; `asked` says where the model ran."""
    precision, recall = tally.micro
    return {
        "asked": asked,
        "versions": tally.versions,
        "labels": list(tally.labels),
        "pictures": tally.count,
        "folder": str(collection.folder),
        "threshold": tally.threshold,
        "exact": tally.exact.as_json(),
        "precision": precision.as_json(),
        "recall": recall.as_json(),
        "macro_f1": tally.macro_f1,
        "mean_average_precision": tally.mean_average_precision,
        "abstained": dict(tally.reasons),
        "expected_calibration_error": tally.calibration_error,
        "by_label": {name: of.as_json() for name, of in tally.by_label().items()},
        "by_source": {name: of.as_json() for name, of in tally.by_source().items()},
        "mistakes": [mistake.as_json() for mistake in tally.mistakes],
        **left_out(tally, collection),
    }


def lines(tally: MultiLabelTally, collection: Collection, asked: str) -> Iterator[str]:
    """Yield the lines of the table on the terminal."""
    del collection
    versions = ", ".join(tally.versions) or "no version"
    precision, recall = tally.micro
    yield f"{versions}, {asked}, about {tally.count:,} pictures"
    yield f"threshold    {tally.threshold:g}; a picture has several labels, or none"
    yield f"exact        {tally.exact}, pictures with exactly their labels"
    yield f"precision    {precision}, over all labels of all pictures"
    yield f"recall       {recall}"
    yield f"macro F1     {percent(tally.macro_f1)}, the mean over the labels"
    yield f"mAP          {percent(tally.mean_average_precision)}, over all thresholds"
    yield f"calibration  {tally.calibration_error:.2%} expected error, 15 bins"
    yield f"{'LABEL':16} {'HAVE IT':>8}  {'PRECISION':>9}  {'RECALL':>7}  {'F1':>7}  AP"
    for label, of in tally.by_label().items():
        yield (
            f"{column(label, 16)} {of.recall.of:8,}  {percent(of.precision.value):>9}  "
            f"{percent(of.recall.value):>7}  {percent(of.f1):>7}  "
            f"{percent(of.average_precision)}"
        )
    yield from _source_lines(tally)


def _source_lines(tally: MultiLabelTally) -> Iterator[str]:
    sources = tally.by_source()
    if sources:
        yield (
            f"{'SOURCE':24} {'PICTURES':>8}  {'EXACT':>8}  {'95 % INTERVAL':>16}  "
            f"{'OTHERS':>7}  {'PRECISION':>9}  {'RECALL':>7}  {'ECE':>6}"
        )
    for source, of in sources.items():
        low, high = (percent(bound) for bound in of.exact.interval)
        yield (
            f"{column(source or '-', 24)} {of.exact.of:8,}  "
            f"{percent(of.exact.value):>8}  {f'{low} to {high}':>16}  "
            f"{percent(of.without.value):>7}  {percent(of.precision.value):>9}  "
            f"{percent(of.recall.value):>7}  {percent(of.calibration_error):>6}"
        )


def write_report(
    directory: Path,
    figures: dict[str, Any],
    tally: MultiLabelTally,
    respondent: Respondent,
) -> None:
    """Write `evaluation.json`, `report.html`, and the pictures that are in it.

    Raises:
        InvalidRequest: The directory cannot be written to.
    """
    drawn = {"reliability.png": reliability(*tally.scored)}
    if tally.mistakes:
        cells = [
            Cell(
                one.picture.path,
                _listed(sorted(one.picture.labels)),
                _listed(one.answer),
                one.worst,
            )
            for one in tally.mistakes
        ]
        folder = Path(figures["folder"])
        drawn["mistakes.png"] = contact_sheet(cells, respondent, folder)
    write_files(directory, figures, drawn, lambda shown: _page(figures, tally, shown))


def _page(
    figures: dict[str, Any], tally: MultiLabelTally, pictures: dict[str, bytes]
) -> str:
    note = (
        f"A picture gets each label with a probability of {tally.threshold:g} or more. "
        "Intervals are Wilson's (1927). The mean average precision (mAP) covers all "
        "thresholds. The calibration error is the expected one over 15 bins of equal "
        "width (Guo et al., 2017), over all labels of all pictures."
    )
    sections = [
        table(["", "of all", "share (95 % interval)"], _overall(figures, tally)),
        f"<p>{note}</p>",
        "<h2>By label</h2>",
        table(
            ["label", "precision", "recall", "F1", "average precision"],
            (
                (name, of.precision, of.recall, percent(of.f1), _average(of))
                for name, of in tally.by_label().items()
            ),
        ),
        *_sources(tally),
        *left_out_lists(figures, tally, {"Pictures with other labels": _wrong(tally)}),
    ]
    return page(figures, tally, sections, pictures)


def _average(of: Any) -> str:
    return percent(of.average_precision)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels) or "no label"


def _sources(tally: MultiLabelTally) -> Iterator[str]:
    sources = tally.by_source()
    if sources:
        yield "<h2>By source</h2>"
        yield table(
            [
                *("source", "exact", "share", "share of all others", "precision"),
                *("recall", "calibration error"),
            ],
            (
                (
                    *(name, of_all(of.exact), of.exact, of.without, of.precision),
                    *(of.recall, percent(of.calibration_error)),
                )
                for name, of in sources.items()
            ),
        )


def _wrong(tally: MultiLabelTally) -> list[str]:
    return [
        f"{one.picture.path}: {_listed(sorted(one.picture.labels))}, answered "
        f"{_listed(one.answer)}"
        for one in tally.mistakes
    ]


def _overall(
    figures: dict[str, Any], tally: MultiLabelTally
) -> Iterable[Sequence[object]]:
    precision, recall = tally.micro
    yield "Pictures with exactly their labels", of_all(tally.exact), tally.exact
    yield "Precision over all labels", of_all(precision), precision
    yield "Recall over all labels", of_all(recall), recall
    yield "Macro F1", "", percent(tally.macro_f1)
    yield "Mean average precision", "", percent(tally.mean_average_precision)
    for reason, count in sorted(tally.reasons.items()):
        yield f"No label: {reason}", count, ""
    yield "Refused pictures", f"{len(tally.failures)} of {figures['pictures']}", ""
    yield "Expected calibration error", "", f"{tally.calibration_error:.2%}"
