# SPDX-License-Identifier: Apache-2.0
"""The subcommand `inkling sidecar`."""

from __future__ import annotations

import argparse
from pathlib import Path

from inkling.cli.commands import add_models_dir
from inkling.cli.main import Command
from inkling_training.commands import add_training_arguments, model_name
from inkling_training.sidecar.watch import watch

__all__ = ["SIDECAR"]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)
    parser.add_argument(
        "capture", type=Path, help="the directory that inkling serve --capture names"
    )
    parser.add_argument(
        "--model",
        type=model_name,
        required=True,
        help="the architecture, as inkling train names it",
    )
    parser.add_argument(
        "--name", help="the model to retrain, if it is not called as its architecture"
    )
    parser.add_argument(
        "--after-feedback",
        type=int,
        default=50,
        help="retrain after so many new pictures with feedback, or in the data folder",
    )
    parser.add_argument(
        "--after-s",
        type=float,
        default=86400.0,
        help="retrain once the oldest new feedback is so many seconds old",
    )
    parser.add_argument(
        "--label",
        default="candidate",
        help="the version label that a new version gets; `inkling promote` lets it "
        "answer",
    )
    parser.add_argument(
        "--poll-s", type=float, default=10.0, help="seconds between two looks"
    )
    parser.add_argument(
        "--once", action="store_true", help="look once, retrain if it is due, and end"
    )
    add_training_arguments(parser)


SIDECAR = Command(
    help="retrain a served model from the feedback on its answers",
    add_arguments=_add_arguments,
    run=watch,
)
