# SPDX-License-Identifier: Apache-2.0
"""The subcommand `inkling evaluate`: how often a model is right about pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from inkling.answers import check_options
from inkling.cli.commands import (
    add_abstain,
    add_connection,
    add_models_dir,
    add_threshold,
    connection_options,
)
from inkling.cli.main import Command
from inkling.errors import InvalidRequest
from inkling.model.repository import Repository
from inkling.types import ClassifyOptions

if TYPE_CHECKING:
    from inkling_training.data.labelled_folder import Collection
    from inkling_training.evaluation.multilabel_tally import MultiLabelTally
    from inkling_training.evaluation.respondents import Respondent
    from inkling_training.evaluation.tally import Outcomes, Tally

__all__ = ["EVALUATE"]

_MAX_WARNED = 10
# Without `--threshold`, a picture gets each label that is more likely than not.
_THRESHOLD = 0.5
_T = TypeVar("_T", bound=Any)


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
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--server",
        help="ask a gateway: HOST:PORT of its gRPC port, or http://HOST:PORT",
    )
    place.add_argument(
        "--on-device",
        type=Path,
        help="ask a .tflite file that Inkling published, or a version's directory",
    )
    add_connection(parser)
    add_abstain(parser)
    add_threshold(parser)
    parser.add_argument(
        "--output", type=Path, help="a folder to write figures and a report into"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON, and no table"
    )


def _evaluate(options: argparse.Namespace) -> int:
    # NumPy, Pillow and Matplotlib are not needed to print the help of other commands.
    from inkling_training.data.labelled_folder import find  # noqa: PLC0415

    try:
        from inkling_training.evaluation import (  # noqa: PLC0415
            multilabel_report,
            report,
        )
    except OSError:
        raise InvalidRequest(
            "Matplotlib needs a directory for its settings, and neither the home "
            "directory nor TMPDIR nor /tmp/ can be written to. Set MPLCONFIGDIR to a "
            "directory that can."
        ) from None

    if options.output:
        report.check_writable(options.output)
    respondent, asked = _respondent(options)
    with closing(respondent):
        several = not respondent.contract.scores_sum_to_one
        labels = respondent.contract.labels
        collection = find(options.pictures, labels, several=several)
        if several:
            tally: Any = _asked_for_several(respondent, collection, options)
            kind: ModuleType = multilabel_report
        else:
            tally, kind = _asked_for_one(respondent, collection, options), report
        figures = kind.as_json(tally, collection, asked)
        if options.output:
            kind.write_report(options.output, figures, tally, respondent)
    if options.json:
        print(json.dumps(figures))
    else:
        print("\n".join(kind.lines(tally, collection, asked)))
    for warning in _warnings(tally, collection):
        print(f"inkling: {warning}", file=sys.stderr)
    if options.output and not options.json:
        print(f"Written to {options.output / 'report.html'}")
    return 1 if tally.failures else 0


def _respondent(options: argparse.Namespace) -> tuple[Respondent, str]:
    """Return the classifier that is asked, and its place in words.

    Raises:
        InklingError: The model does not exist, or its gateway does not answer.
    """
    from inkling_training.evaluation.respondents import Respondent  # noqa: PLC0415

    secured, server = connection_options(options), options.server
    if server is not None:
        protocol = "HTTP" if "://" in server else "gRPC"
        respondent = Respondent(server, options.model, **secured)
        return respondent, f"{server} by {protocol}"
    if secured:
        raise InvalidRequest(
            "Keys and certificates are for a gateway; name one with --server."
        )
    path = (
        options.on_device or Repository(options.models_dir).default(options.model).path
    )
    return Respondent(path, options.model), f"{path} on this device"


def _asked_for_one(
    respondent: Respondent, collection: Collection, options: argparse.Namespace
) -> Tally:
    """Ask for the label of each picture.

    Raises:
        InklingError: The model cannot answer any more, takes no threshold, or cannot
            abstain.
    """
    from inkling_training.evaluation.tally import Tally  # noqa: PLC0415 - as above

    wanted = ClassifyOptions(abstain=options.abstain, threshold=options.threshold)
    check_options(wanted, respondent.contract)
    return _asked(
        respondent, Tally(respondent.contract.labels), collection.pictures, wanted
    )


def _asked_for_several(
    respondent: Respondent, collection: Collection, options: argparse.Namespace
) -> MultiLabelTally:
    """Ask for all labels of each picture, and for all scores.

    Raises:
        InklingError: The model cannot answer any more, or the threshold is invalid.
    """
    from inkling_training.data.labelled_folder import tagged  # noqa: PLC0415
    from inkling_training.evaluation.multilabel_tally import (  # noqa: PLC0415
        MultiLabelTally,
    )

    labels, threshold = respondent.contract.labels, options.threshold
    threshold = _THRESHOLD if threshold is None else threshold
    wanted = ClassifyOptions.checked(len(labels), options.abstain, threshold)
    check_options(wanted, respondent.contract)
    tally = MultiLabelTally(labels, threshold)
    return _asked(respondent, tally, tagged(collection.pictures), wanted)


def _asked(
    respondent: Respondent, tally: _T, pictures: Sequence[Any], wanted: ClassifyOptions
) -> _T:
    """Count each picture; draw a bar on the standard error if it is a terminal."""
    from rich.console import Console  # noqa: PLC0415 - as above
    from rich.progress import track  # noqa: PLC0415

    console = Console(stderr=True)
    outcomes = respondent.outcomes((one.path for one in pictures), wanted)
    for picture, outcome in track(
        zip(pictures, outcomes, strict=True),
        "asking",
        total=len(pictures),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ):
        tally.add(picture, outcome)
    return tally


def _warnings(tally: Outcomes, collection: Collection) -> Iterator[str]:
    """Yield a line for each refused picture, and for what was not asked about."""
    for path, message in tally.failures[:_MAX_WARNED]:
        yield f"{path}: {message}"
    if len(tally.failures) > _MAX_WARNED:
        yield f"{len(tally.failures)} pictures were refused; --output lists them all."
    if collection.unknown:
        unknown = sorted(collection.unknown.items())
        listed = ", ".join(
            f"{label} ({count}{_near(label, tally.labels)})" for label, count in unknown
        )
        yield f"Left out, since the model does not have their labels: {listed:.200}"
    if collection.unlabelled:
        number, first = len(collection.unlabelled), collection.unlabelled[0]
        yield f"Left out, since they have no label: {number}, such as {first}"
    if collection.others:
        number, first = len(collection.others), collection.others[0]
        yield f"Passed over, since they are no pictures: {number}, such as {first}"
    if collection.copies:
        one, other = collection.copies[0][:2]
        yield (
            f"{len(collection.copies)} pictures have copies, and each copy counts: "
            f"{one} has the bytes of {other}"
        )
    if len(tally.versions) > 1:
        yield f"More than one version answered: {', '.join(tally.versions)}."


def _near(label: str, labels: Sequence[str]) -> str:
    """Return a hint at a label of the model that differs by capitals only."""
    near = [one for one in labels if one.casefold() == label.casefold()]
    return f", the model has {near[0]}" if near else ""


EVALUATE = Command(
    help="measure how often a model is right about pictures in a folder",
    add_arguments=_add_arguments,
    run=_evaluate,
)
