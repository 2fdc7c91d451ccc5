"""The subcommands that need nothing but this distribution."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from inkling.cli import Command
from inkling.errors import BrokenVersion, InvalidRequest
from inkling.repository import Repository, VersionFiles

__all__ = ["EXPLAIN", "MODELS", "add_models_dir"]


def add_models_dir(parser: argparse.ArgumentParser) -> None:
    """Add `--models-dir`, the same for every command."""
    parser.add_argument(
        "--models-dir",
        type=Path,
        default=Path(os.environ.get("INKLING_MODELS_DIR", "models")),
        help="the model repository (INKLING_MODELS_DIR)",
    )


def _list_models(options: argparse.Namespace) -> int:
    repository = Repository(options.models_dir)
    print(f"{'MODEL':16} {'VERSION':>7}  {'DATASET':14} {'ACCURACY':>8}  STATE")
    for model in repository.models():
        for version in repository.versions(model):
            print(_row(repository.files(model, version)))
    return 0


def _row(files: VersionFiles) -> str:
    try:
        files.verify()
        dataset, state = files.contract().training_data.name, "ok"
    except BrokenVersion as error:
        dataset, state = "", error.message
    accuracy = files.accuracy("float32")
    shown = " " * 8 if accuracy is None else f"{accuracy:8.2%}"
    return f"{files.model:16} {files.version:7}  {dataset:14} {shown}  {state}"


def _add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)
    parser.add_argument("picture", type=Path, help="a PNG or JPEG file")
    parser.add_argument("--model", default="cnn", help="whose contract to follow")
    parser.add_argument(
        "--output", type=Path, help="a folder to write each stage to as a PNG"
    )


def _explain(options: argparse.Namespace) -> int:
    # Pillow and NumPy are not needed to print the help of other commands.
    from inkling.preprocess import explain  # noqa: PLC0415

    contract = Repository(options.models_dir).newest(options.model).contract()
    try:
        image = options.picture.read_bytes()
    except OSError:
        raise InvalidRequest(
            f"{options.picture} cannot be read; name a PNG or JPEG file."
        ) from None
    for number, stage in enumerate(explain(image, contract), start=1):
        size = f"{stage.picture.width} x {stage.picture.height}"
        print(f"{number}. {stage.name:12} {size:12} {stage.decision}")
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            stage.picture.save(options.output / f"{number}-{stage.name}.png")
    return 0


MODELS = Command(
    help="list the published models and check their files",
    add_arguments=add_models_dir,
    run=_list_models,
)
EXPLAIN = Command(
    help="show what a model would see of a picture, stage by stage",
    add_arguments=_add_explain_arguments,
    run=_explain,
)
