"""The subcommand `inkling train`."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

from inkling.cli.commands import add_models_dir
from inkling.cli.main import Command
from inkling_training.quiet import quiet_stderr

__all__ = ["TRAIN"]

_DATASETS = ("auto", "mnist", "fashion_mnist", "cifar10", "digits", "folder")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)
    parser.add_argument(
        "models", nargs="+", choices=("mlp", "cnn"), help="what to train"
    )
    parser.add_argument(
        "--dataset",
        choices=_DATASETS,
        default="auto",
        help="auto is mnist, or the bundled digits where MNIST cannot be had; folder "
        "is your own pictures",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=os.environ.get("INKLING_DATA_DIR"),
        help="where mnist.npz and the like are (INKLING_DATA_DIR); for folder, what "
        "has a subfolder of pictures for each label",
    )
    parser.add_argument(
        "--size",
        type=_side,
        default=32,
        help="for folder: side of the model's input in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--ink",
        action="store_true",
        help="for folder: each picture is one thing written on paper, which is found "
        "and framed; without, pictures are taken as a whole",
    )
    parser.add_argument("--name", help="publish under this name instead of the model's")
    parser.add_argument(
        "--recipe",
        choices=("quick", "default", "best"),
        default="default",
        help="quick is for trying things out; best takes half an hour",
    )
    _add_run_arguments(parser)


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=_count, help="instead of the recipe's")
    parser.add_argument("--learning-rate", type=_rate, help="instead of the recipe's")
    parser.add_argument("--seed", type=_seed, default=0, help="same seed, same model")
    parser.add_argument(
        "--runs-dir",
        type=Path,
        default=Path("runs"),
        help="checkpoints and TensorBoard logs",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on after the last whole epoch"
    )
    parser.add_argument(
        "--missing",
        action="store_true",
        help="only what has no published version yet",
    )
    parser.add_argument(
        "--allow-regression",
        action="store_true",
        help="publish even if the version before was better",
    )


def _count(text: str) -> int:
    return _within(int(text), 1, 1_000_000)


def _side(text: str) -> int:
    return _within(int(text), 12, 256)


def _seed(text: str) -> int:
    return _within(int(text), 0, 2**31 - 1)


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return rate


def _within(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{value} is not from {low} to {high}")
    return value


def _train(options: argparse.Namespace) -> int:
    # TensorFlow takes seconds to import and talks much; other commands need neither.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet_stderr():
        from inkling_training.pipeline import train_and_publish  # noqa: PLC0415

    return train_and_publish(options)


TRAIN = Command(
    help="train models, check their exports and publish them",
    add_arguments=_add_arguments,
    run=_train,
)
