"""The subcommand `inkling evaluate`: how often a model is right about pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from inkling.cli.commands import add_abstain, add_models_dir
from inkling.cli.main import Command
from inkling.model.repository import Repository

if TYPE_CHECKING:
    from inkling_training.evaluation.labelled_folder import Collection
    from inkling_training.evaluation.respondents import Respondent
    from inkling_training.evaluation.tally import Tally

__all__ = ["EVALUATE"]

_HTTP = ("http://", "https://")
_MAX_WARNED = 10


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)
    parser.add_argument(
        "--pictures",
        type=Path,
        required=True,
        help="a folder with a folder for each label, with names such as 7_001.png, or "
        "with a labels.csv",
    )
    parser.add_argument("--model", default="cnn", help="which model is asked")
    whom = parser.add_mutually_exclusive_group()
    whom.add_argument(
        "--server",
        help="ask a gateway: http://HOST:PORT by HTTP, HOST:PORT by gRPC",
    )
    whom.add_argument(
        "--on-device",
        type=Path,
        help="ask a .tflite file that Inkling published, or a version's directory",
    )
    add_abstain(parser)
    parser.add_argument(
        "--output", type=Path, help="a folder to write figures and a report into"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON, and no table"
    )


def _evaluate(options: argparse.Namespace) -> int:
    # NumPy, Pillow and Matplotlib are not needed to print the help of other commands.
    from inkling_training.evaluation.labelled_folder import find  # noqa: PLC0415
    from inkling_training.evaluation.report import (  # noqa: PLC0415
        as_json,
        check_writable,
        write_report,
    )

    if options.output:
        check_writable(options.output)
    respondent, asked = _respondent(options)
    with closing(respondent):
        collection = find(options.pictures, respondent.labels)
        tally = _asked(respondent, collection, options.abstain)
        figures = as_json(tally, collection, asked)
        if options.output:
            write_report(options.output, figures, tally, respondent)
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(_lines(tally, collection, asked)))
    for warning in _warnings(tally, collection):
        print(f"inkling: {warning}", file=sys.stderr)
    if options.output and not options.json:
        print(f"Written to {options.output / 'report.html'}")
    return 1 if tally.failures else 0


def _respondent(options: argparse.Namespace) -> tuple[Respondent, str]:
    """Return who is asked, and that in words.

    Raises:
        InklingError: There is no such model, or nobody answers.
    """
    from inkling_training.evaluation.respondents import (  # noqa: PLC0415 - as above
        HttpRespondent,
        LibraryRespondent,
    )

    server: str | None = options.server
    if server is not None and server.startswith(_HTTP):
        return HttpRespondent(server, options.model), f"{server} by HTTP"
    if server is not None:
        return LibraryRespondent(server, options.model), f"{server} by gRPC"
    if options.on_device is not None:
        device = LibraryRespondent(options.on_device, options.model)
        return device, f"{options.on_device} on this device"
    path = Repository(options.models_dir).newest(options.model).path
    return LibraryRespondent(path, options.model), f"{path} on this device"


def _asked(respondent: Respondent, collection: Collection, abstain: bool) -> Tally:
    """Ask about each picture; draw a bar on the standard error if it is a terminal.

    Raises:
        InklingError: Whoever is asked cannot answer any more.
    """
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import track  # noqa: PLC0415

    from inkling_training.evaluation.tally import Tally  # noqa: PLC0415

    tally = Tally(respondent.labels)
    console = Console(stderr=True)
    outcomes = respondent.outcomes((one.path for one in collection.pictures), abstain)
    for picture, outcome in track(
        zip(collection.pictures, outcomes, strict=True),
        "asking",
        total=len(collection.pictures),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ):
        tally.add(picture, outcome)
    return tally


def _lines(tally: Tally, collection: Collection, asked: str) -> Iterator[str]:
    """Yield what is printed for people."""
    versions = ", ".join(tally.versions) or "nothing"
    yield f"{versions}, {asked}, about {len(collection.pictures):,} pictures"
    yield f"accuracy     {tally.accuracy}, 95 % interval after Wilson"
    if tally.reasons:
        reasons = ", ".join(f"{n} {name}" for name, n in sorted(tally.reasons.items()))
        yield f"answered     {tally.coverage}; abstained: {reasons}"
        yield f"without it   {tally.without_abstaining}"
    yield f"calibration  {tally.calibration_error:.2%} expected error, 15 bins"
    yield f"{'LABEL':16} {'ANSWERED':>8}  {'FOUND':>7}  {'RIGHTLY SO CALLED':>17}"
    for label, shares in tally.by_label().items():
        found, called = shares["found"], shares["called"]
        yield (
            f"{label:16} {found.of:8,}  {_percent(found.value):>7}  "
            f"{_percent(called.value):>17}"
        )
    sources = tally.by_source()
    if sources:
        yield f"{'SOURCE':24} {'ANSWERED':>8}  {'ACCURACY':>8}  {'OTHERS':>7}"
    for source, shares in sources.items():
        alone, others = shares["alone"], shares["without"]
        yield (
            f"{source or '-':24} {alone.of:8,}  {_percent(alone.value):>8}  "
            f"{_percent(others.value):>7}"
        )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


def _warnings(tally: Tally, collection: Collection) -> Iterator[str]:
    """Yield what went wrong with pictures, and what was left out."""
    for picture, message in tally.failures[:_MAX_WARNED]:
        yield f"{picture.path}: {message}"
    if len(tally.failures) > _MAX_WARNED:
        yield f"{len(tally.failures)} pictures were refused; --output lists them all."
    if collection.unknown:
        unknown = sorted(collection.unknown.items())
        listed = ", ".join(f"{label} ({count})" for label, count in unknown)
        yield f"Pictures with labels that the model has not, left out: {listed:.200}"
    if collection.unlabelled:
        number, first = len(collection.unlabelled), collection.unlabelled[0]
        yield f"Pictures without a label, left out: {number}, such as {first}"
    if len(tally.versions) > 1:
        yield f"More than one version answered: {', '.join(tally.versions)}."


EVALUATE = Command(
    help="measure how often a model is right about pictures in a folder",
    add_arguments=_add_arguments,
    run=_evaluate,
)
