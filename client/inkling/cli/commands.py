# SPDX-License-Identifier: Apache-2.0
"""The subcommands that need nothing but this distribution."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inkling.cli.main import Command
from inkling.cli.text import column, printable
from inkling.errors import (
    BrokenVersion,
    InklingError,
    InvalidRequest,
    ModelNotFound,
)
from inkling.image.formats.catalogue import EXPECTED
from inkling.model.assignment import Assignment
from inkling.model.repository import Repository, VersionFiles
from inkling.model.survey import survey

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling.image.preprocess import Stage
    from inkling.types import Prediction, Score

__all__ = [
    "CLASSIFY",
    "DOCTOR",
    "MODELS",
    "add_abstain",
    "add_client_certificate",
    "add_connection",
    "add_models_dir",
    "add_threshold",
    "connection_options",
]


def add_models_dir(parser: argparse.ArgumentParser) -> None:
    """Add `--models-dir`, the same for every command."""
    parser.add_argument(
        "--models-dir",
        type=Path,
        default=Path(os.environ.get("INKLING_MODELS_DIR") or "models"),
        help="the model repository (INKLING_MODELS_DIR)",
    )


def add_abstain(parser: argparse.ArgumentParser) -> None:
    """Add `--abstain`, the same for every command."""
    parser.add_argument(
        "--abstain",
        action="store_true",
        help="give no label where the model is not sure, but why there is none",
    )


def add_threshold(parser: argparse.ArgumentParser) -> None:
    """Add `--threshold`, the same for every command."""
    parser.add_argument(
        "--threshold",
        type=float,
        help="give all labels with this probability or a higher one, 0 to 1; for a "
        "model whose pictures may have several labels",
    )


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the options that secure the connection to a gateway; see `Connection`.

    Their values are texts, which Locust's master can send to its workers.
    """
    parser.add_argument(
        "--tls",
        action="store_true",
        help="encrypt a gRPC connection; over HTTP write https:// in the address",
    )
    parser.add_argument(
        "--root-certificates",
        metavar="FILE",
        help="PEM file of the authorities to trust, instead of the usual ones",
    )
    add_client_certificate(parser)
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="file whose first line is the API key to send; an argument would be "
        "visible to other users of the machine",
    )


def add_client_certificate(parser: argparse.ArgumentParser) -> None:
    """Add the certificate that a client shows to a gateway which asks for one."""
    parser.add_argument(
        "--client-certificate",
        metavar="FILE",
        help="PEM file with the certificate to show to a gateway that asks for one",
    )
    parser.add_argument(
        "--client-key", metavar="FILE", help="PEM file with that certificate's key"
    )


def connection_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the options of `add_connection` mean to `inkling.connect`.

    Raises:
        InvalidRequest: The file of the API key cannot be read.
    """
    # TLS is not needed to print the help of other commands.
    from inkling.gateway.connection import read_api_key  # noqa: PLC0415

    given = {
        "tls": options.tls,
        "root_certificates": options.root_certificates,
        "client_certificate": options.client_certificate,
        "client_key": options.client_key,
        "api_key": options.api_key_file and read_api_key(options.api_key_file),
    }
    return {name: value for name, value in given.items() if value}


def _add_models_arguments(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)
    parser.add_argument(
        "--compare",
        action="store_true",
        help="show how the answers of the label shadow differ from those given, as a "
        "running gateway counts them",
    )
    parser.add_argument(
        "--drift",
        action="store_true",
        help="show how far recent pictures are from each version's test set, as a "
        "running gateway counts them",
    )
    parser.add_argument(
        "--server",
        default="http://127.0.0.1:8080",
        help="the gateway to ask for the comparison or the drift: http://HOST:PORT",
    )
    add_connection(parser)


def _list_models(options: argparse.Namespace) -> int:
    if options.compare or options.drift:
        # TLS is not needed to list a directory.
        from inkling.cli.comparison import show_comparisons, show_drift  # noqa: PLC0415

        show = show_comparisons if options.compare else show_drift
        return show(options.server, connection_options(options))
    repository = Repository(options.models_dir)
    print(
        f"{'MODEL':16} {'VERSION':>7}  {'LABELS':20} {'DATASET':14} {'ACCURACY':>8}  "
        "STATE"
    )
    for model in repository.models():
        labels, remark = _labels(repository, model)
        for version in repository.versions(model):
            shown = ",".join(
                _label(name, one.share)
                for name, one in sorted(labels.items())
                if one.version == version
            )
            print(_row(repository.files(model, version), shown))
        if remark:
            print(f"inkling: {model}: {remark}", file=sys.stderr)
    for remark in survey(options.models_dir):
        print(f"inkling: {remark}", file=sys.stderr)
    return 0


def _label(name: str, share: float) -> str:
    return f"{name}({share:g}%)" if share else name


def _labels(repository: Repository, model: str) -> tuple[dict[str, Assignment], str]:
    """Return the version labels of a model, and what is wrong with them."""
    labels: dict[str, Assignment] = {}
    try:
        labels = repository.labels(model).assignments()
        repository.default(model)
    except BrokenVersion as error:
        return {}, error.message
    except ModelNotFound as error:
        return labels, error.message if labels else ""
    return labels, ""


def _row(files: VersionFiles, labels: str) -> str:
    try:
        files.verify()
        dataset, state = str(files.contract().training_data.name), "ok"
        accuracy = files.accuracy("float32")
    except InklingError as error:
        dataset, state, accuracy = "", error.message, None
    shown = " " * 8 if accuracy is None else f"{accuracy:8.2%}"
    return (
        f"{files.model:16} {files.version:7}  {column(labels, 20)} "
        f"{column(dataset, 14)} {shown}  {state}"
    )


def _add_classify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "pictures", nargs="+", type=Path, help=f"{EXPECTED} files, or folders of them"
    )
    parser.add_argument(
        "--runner",
        choices=("process", "ray"),
        default="process",
        help="classify in this process, or in those of a Ray cluster (RAY_ADDRESS; "
        "without it, of this machine)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--server",
        default="127.0.0.1:8081",
        help="a gateway: HOST:PORT of its gRPC port, or http://HOST:PORT",
    )
    where.add_argument(
        "--on-device",
        type=Path,
        help="a .tflite file that Inkling published, or a version's directory",
    )
    parser.add_argument(
        "--model", default="cnn", help="which model the gateway is asked"
    )
    add_connection(parser)
    parser.add_argument("--top-k", type=int, default=1, help="labels to show of each")
    parser.add_argument(
        "--json", action="store_true", help="a line of JSON per picture"
    )
    add_abstain(parser)
    add_threshold(parser)


def _classify(options: argparse.Namespace) -> int:
    # Pillow and gRPC are not needed to print the help of other commands.
    from inkling.cli.batch import files_of, outcomes  # noqa: PLC0415

    failed, pictures = 0, files_of(options.pictures)
    connection = {
        "target": options.on_device or options.server,
        "model": options.model,
        **connection_options(options),
    }
    names = ("top_k", "abstain", "threshold")
    asked = {name: getattr(options, name) for name in names}
    found = outcomes(options.runner, pictures, connection, asked)
    answers = zip(pictures, found, strict=True)
    for number, (path, answer) in enumerate(answers, start=1):
        _show_progress(number, len(pictures))
        if isinstance(answer, InklingError):
            failed += 1
            is_named = answer.message.startswith(f"{path} ")
            about = answer.message if is_named else f"{path}: {answer.message}"
            print(f"inkling: {about}", file=sys.stderr)
        else:
            print(_as_json(path, answer) if options.json else _as_row(path, answer))
    return 1 if failed else 0


def _show_progress(number: int, count: int) -> None:
    """Draw a bar on the standard error, if only that is a terminal."""
    if count > 1 and sys.stderr.isatty() and not sys.stdout.isatty():
        filled = 40 * number // count
        end = "\n" if number == count else ""
        print(
            f"\r[{'#' * filled:40}] {number}/{count}",
            end=end,
            file=sys.stderr,
            flush=True,
        )


def _as_row(path: Path, prediction: Prediction) -> str:
    given = prediction.top if prediction.labels is None else prediction.labels
    if prediction.abstained is None:
        return f"{path}  {_listed(given)}"
    shown = f"{path}  -  {prediction.abstained} {prediction.probability:.0%}"
    top = prediction.top
    return f"{shown}  ({_listed(top)})" if len(top) > 1 else shown


def _listed(scores: Sequence[Score]) -> str:
    return "  ".join(f"{printable(s.label)} {s.probability:7.2%}" for s in scores)


def _as_json(path: Path, prediction: Prediction) -> str:
    origin, reason = prediction.origin, prediction.abstained
    labels = prediction.labels
    return json.dumps(
        {
            "picture": str(path),
            "label": prediction.label,
            "probability": prediction.probability,
            **({"abstained": reason} if reason else {}),
            **({} if labels is None else {"labels": [asdict(s) for s in labels]}),
            "top": [asdict(score) for score in prediction.top],
            "model": origin.model,
            "version": origin.version,
            "contract": origin.contract,
            "answered_by": origin.answered_by,
        }
    )


def _add_doctor_arguments(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)
    parser.add_argument("picture", type=Path, help=f"a {EXPECTED} file")
    parser.add_argument("--model", default="cnn", help="whose contract to follow")
    parser.add_argument(
        "--contract",
        type=Path,
        help="a contract.json or a .tflite file to follow instead",
    )
    parser.add_argument(
        "--output", type=Path, help="a PNG to draw all stages in, side by side"
    )


def _doctor(options: argparse.Namespace) -> int:
    # Pillow and NumPy are not needed to print the help of other commands.
    from inkling.cli.doctor import in_terminal, warnings  # noqa: PLC0415
    from inkling.image.pictures import encoded  # noqa: PLC0415
    from inkling.image.preprocess import explain  # noqa: PLC0415

    contract = _contract(options)
    started = time.process_time()
    _, stages, _ = explain(encoded(options.picture), contract)
    spent_ms = 1000 * (time.process_time() - started)
    if options.output:
        _save_sheet(stages, options.output)
    for number, stage in enumerate(stages, start=1):
        size = f"{stage.picture.width} x {stage.picture.height}"
        print(f"{number}. {stage.name:12} {size:12} {stage.decision}")
        if sys.stdout.isatty():
            print("\n".join(in_terminal(stage.picture)))
    print(f"{spent_ms:.1f} ms of CPU, contract {contract.hash[:19]}...")
    for warning in warnings(stages, contract):
        print(f"Warning: {warning}")
    if options.output:
        print(f"Drawn in {options.output}")
    return 0


def _save_sheet(stages: Sequence[Stage], path: Path) -> None:
    from inkling.cli.doctor import sheet  # noqa: PLC0415 - as above

    try:
        sheet(stages).save(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidRequest(
            f"{path} cannot be written ({why}); name a .png file in a folder that is "
            "there."
        ) from None


def _contract(options: argparse.Namespace) -> Contract:
    from inkling.contract import Contract  # noqa: PLC0415
    from inkling.model.bundle import read_bundle  # noqa: PLC0415 - as above

    if options.contract is None:
        return Repository(options.models_dir).default(options.model).contract()
    try:
        content = options.contract.read_bytes()
    except OSError:
        raise InvalidRequest(f"{options.contract} cannot be read.") from None
    if options.contract.suffix == ".tflite":
        return read_bundle(content).contract
    return Contract.from_json(content)


CLASSIFY = Command(
    help="classify pictures by a gateway, or on this device",
    add_arguments=_add_classify_arguments,
    run=_classify,
)
DOCTOR = Command(
    help="show what a model would see of a picture, stage by stage",
    add_arguments=_add_doctor_arguments,
    run=_doctor,
)
MODELS = Command(
    help="list the published models and check their files",
    add_arguments=_add_models_arguments,
    run=_list_models,
)
