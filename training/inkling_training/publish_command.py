# SPDX-License-Identifier: Apache-2.0
"""The subcommand `inkling publish`."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from inkling.cli.commands import add_models_dir
from inkling.cli.main import Command
from inkling_training.tensorflow_import import tensorflow_import

__all__ = ["PUBLISH", "add_gates"]

_SIZE = re.compile(r"(\d+)(?:x(\d+))?")
_MAX_SIDE = 4096


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)
    parser.add_argument(
        "model",
        type=Path,
        help="a .keras, .h5 or .tflite file, or the directory of a SavedModel",
    )
    parser.add_argument("--name", required=True, help="publish it under this name")
    parser.add_argument(
        "--labels",
        help="the labels in the order of the outputs: a,b,c, or a text or JSON file",
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        help="a folder with a folder of pictures for each label, or with pictures, to "
        "check and to calibrate the model with",
    )
    _add_preparation(parser)
    _add_choices(parser)
    add_gates(parser)


def add_gates(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide what becomes of a new version."""
    parser.add_argument(
        "--allow-regression",
        action="store_true",
        help="publish even if the previous version is more accurate",
    )
    parser.add_argument(
        "--publish-only",
        action="store_true",
        help="publish, but let the version that answers now go on answering; `inkling "
        "promote` changes over",
    )


def _add_preparation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how pictures are prepared")
    group.add_argument(
        "--values",
        choices=("unit", "signed", "bytes", "imagenet", "caffe"),
        help="0..1, -1..1, 0..255, ImageNet's mean and standard deviation, or BGR "
        "minus ImageNet's mean",
    )
    group.add_argument(
        "--resize",
        choices=("stretch", "fit", "cover"),
        help="change the proportions, pad the rest, or cut the rest off",
    )
    group.add_argument(
        "--aspect",
        choices=("scaling", "floor", "whole_pixels", "exact_box"),
        help="how fit and cover round: as torchvision and timm, as Hugging Face and "
        "tf.image, as Keras, or as Pillow's ImageOps.fit",
    )
    group.add_argument(
        "--crop", type=_share, help="the share of the shorter side that cover keeps"
    )
    group.add_argument(
        "--filter",
        choices=(
            *("bilinear", "nearest", "bicubic", "lanczos", "box", "hamming"),
            "opencv",
        ),
        help="the resampling, as Pillow does it, or as OpenCV's cv2.resize",
    )
    group.add_argument(
        "--no-antialias",
        action="store_true",
        help="resample as tf.image.resize and image_dataset_from_directory do",
    )
    _add_input(group)


def _add_input(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--channels", choices=("rgb", "bgr", "grey"), help="the order of the channels"
    )
    group.add_argument(
        "--size",
        type=_size,
        metavar="N|HxW",
        help="rows and columns of the input, if the model takes any",
    )
    group.add_argument(
        "--upright",
        action="store_true",
        help="turn pictures as their EXIF orientation says, which Keras does not",
    )
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--like",
        type=Path,
        help="a preprocessor_config.json, timm's pretrained_cfg, Teachable Machine's "
        "metadata.json, a KerasHub image converter, a TFLite file with metadata, or an "
        "Inkling contract",
    )
    either.add_argument(
        "--contract",
        type=Path,
        help="the contract.json of a version, with its preparation and labels",
    )


def _add_choices(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the model is")
    group.add_argument(
        "--outputs",
        choices=("softmax", "logits", "sigmoid", "binary"),
        help="probabilities that sum to 1, values before softmax, several labels at "
        "once, or one probability, for the second of two labels",
    )
    group.add_argument("--output", help="the output with the scores, if there are more")
    group.add_argument("--signature", help="the signature of a SavedModel")
    group.add_argument(
        "--trust",
        action="store_true",
        help="run the code that the file carries, such as a Lambda layer",
    )


def _size(text: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(text)
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(1 <= side <= _MAX_SIDE for side in size):
        raise argparse.ArgumentTypeError(
            f"{text} is no size; expected 224 or 192x256 (height x width), up to "
            f"{_MAX_SIDE}"
        )
    return size


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range; expected 0 to 1")
    return share


def _publish(options: argparse.Namespace) -> int:
    with tensorflow_import():
        from inkling_training.intake import publish_given  # noqa: PLC0415

    return publish_given(options)


PUBLISH = Command(
    help="publish a model that you have, after it was compared with what you gave",
    add_arguments=_add_arguments,
    run=_publish,
)
