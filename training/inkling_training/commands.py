# SPDX-License-Identifier: Apache-2.0
"""The subcommand `inkling train`."""

from __future__ import annotations

import argparse
import math
import os
from difflib import get_close_matches
from pathlib import Path

from inkling.cli.commands import add_models_dir
from inkling.cli.main import Command
from inkling_training.publish_command import add_gates
from inkling_training.tensorflow_import import tensorflow_import

__all__ = ["TRAIN", "add_training_arguments", "model_name"]

_MODELS = ("mlp", "cnn", "classic")
_DATASETS = ("auto", "mnist", "fashion_mnist", "cifar10", "digits", "folder")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)
    parser.add_argument(
        "models",
        nargs="+",
        type=model_name,
        metavar="MODEL",
        help="the models to train: mlp, cnn, classic, FILE.py:FUNCTION for a function "
        "of yours that returns a Keras model (the file's code runs), or "
        "keras.applications:NAME",
    )
    parser.add_argument(
        "--name", help="publish the model under this name; needs a single model"
    )
    add_training_arguments(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run after its last complete epoch",
    )
    parser.add_argument(
        "--missing",
        action="store_true",
        help="train only the models without a published version",
    )
    add_gates(parser)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say on what, and how, a model is trained."""
    parser.add_argument(
        "--dataset",
        choices=_DATASETS,
        default="auto",
        help="the dataset; auto is mnist, or the bundled digits if MNIST is not "
        "available; folder is your own pictures",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=os.environ.get("INKLING_DATA_DIR") or None,
        help="the folder with mnist.npz or another dataset (INKLING_DATA_DIR); with "
        "--dataset folder, a folder with one subfolder of pictures for each label",
    )
    _add_folder_arguments(parser)
    _add_architecture_arguments(parser)
    parser.add_argument(
        "--recipe",
        choices=("quick", "default", "best"),
        default="default",
        help="quick trains fewer epochs, for a first try; best trains wider models "
        "for half an hour",
    )
    _add_run_arguments(parser)


def _add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        type=_side,
        help="with --dataset folder: side of the model input, in pixels, 12 to 512 "
        "(default: 32 for mlp, cnn and classic, 160 for other models)",
    )
    parser.add_argument(
        "--no-augmentation",
        action="store_true",
        help="train on the pictures as they are",
    )
    parser.add_argument(
        "--no-flip",
        action="store_true",
        help="do not mirror large colour pictures, which may change their label",
    )
    parser.add_argument(
        "--ink",
        action="store_true",
        help="with --dataset folder: each picture shows one object written on paper, "
        "which the preprocessing finds and frames; without --ink, it uses the whole "
        "picture",
    )


def _add_architecture_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        metavar="FILE|imagenet|none",
        help="with keras.applications: the first weights, without the top layer; "
        "imagenet (the default) downloads them, none trains from the beginning",
    )
    parser.add_argument(
        "--alpha",
        type=_rate,
        help="with keras.applications: the width of a MobileNet, such as 0.35",
    )
    parser.add_argument(
        "--values",
        choices=("unit", "signed", "bytes", "imagenet", "caffe"),
        help="with FILE.py:FUNCTION: the pixels that the model gets, 0..1, -1..1, "
        "0..255, or by the mean of ImageNet; by default 0..1, or 0..255 for a model "
        "that rescales them itself",
    )


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--epochs", type=_count, help="the number of epochs, in place of the recipe's"
    )
    parser.add_argument(
        "--learning-rate",
        type=_rate,
        help="the highest learning rate, in place of the recipe's",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        help="the random seed; the same seed gives the same model",
    )
    parser.add_argument(
        "--runs-dir",
        type=Path,
        default=Path("runs"),
        help="the folder for checkpoints and TensorBoard logs",
    )


def model_name(text: str) -> str:
    """Return the name of a model that can be trained, for argparse."""
    where, _, name = text.rpartition(":")
    if text not in _MODELS and not (where and name):
        near = get_close_matches(text, _MODELS, n=1)
        raise argparse.ArgumentTypeError(
            f"{text} is no model; expected {', '.join(_MODELS)}, FILE.py:FUNCTION or "
            f"keras.applications:NAME.{f' Did you mean {near[0]}?' if near else ''}"
        )
    return text


def _count(text: str) -> int:
    return _within(int(text), 1, 1_000_000)


def _side(text: str) -> int:
    return _within(int(text), 12, 512)


def _seed(text: str) -> int:
    return _within(int(text), 0, 2**31 - 1)


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return rate


def _within(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(
            f"{value} is out of range; expected {low} to {high}"
        )
    return value


def _train(options: argparse.Namespace) -> int:
    with tensorflow_import():
        from inkling_training.pipeline import train_and_publish  # noqa: PLC0415

    return train_and_publish(options)


TRAIN = Command(
    help="train models, check their exports and publish them",
    add_arguments=_add_arguments,
    run=_train,
)
