# SPDX-License-Identifier: Apache-2.0
"""One retraining: from the weights of the last version, with the feedback."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from inkling.errors import InklingError, InvalidRequest
from inkling.image.budget import DEFAULT_LIMITS, Budget
from inkling.image.decoding import decode
from inkling.image.preprocess import decoded_to_pixels
from inkling.model.repository import Repository, VersionFiles
from inkling_training.data.datasets import Dataset, Split
from inkling_training.fit.models import Architecture, Network
from inkling_training.pipeline import architecture_of, dataset_of, train_one
from inkling_training.stderr import quiet_stderr

if TYPE_CHECKING:
    from inkling.capture.store import Labelled, Retraining
    from inkling.contract import Contract
    from inkling_training.fit.recipes import Recipe

__all__ = ["retrain", "with_feedback"]

# The share of the training pictures that the feedback makes up, by repetition, and the
# most repetitions of a picture.
_SHARE, _MOST = 0.2, 50
# One of so many pictures with feedback is among those that choose the best epoch.
_VALIDATION = 6


def retrain(
    retraining: Retraining, labelled: Sequence[Labelled], options: argparse.Namespace
) -> int:
    """Train from the version that answers, and publish; return the new version.

    Args:
        retraining: The row of the retraining.
        labelled: The captured pictures with feedback.
        options: The options of `inkling sidecar`.

    Raises:
        InklingError: The data, the training or a gate failed; nothing is published.
    """
    before = Repository(options.models_dir).default(options.name)
    architecture = _from(before, architecture_of(options.model, options))
    base = dataset_of([architecture], options)
    dataset, count = with_feedback(base, labelled, options.capture)
    run = argparse.Namespace(
        **{
            **vars(options),
            "runs_dir": options.runs_dir / f"sidecar-{options.name}-{retraining.id}",
            "resume": True,
            "allow_regression": False,
            "publish_only": True,
        }
    )
    further = {
        "retraining": {"id": retraining.id, "began": retraining.began},
        "retrained_from": before.version,
        "feedback_pictures": count,
    }
    return train_one(architecture, dataset, run, further).version


def with_feedback(
    dataset: Dataset, labelled: Sequence[Labelled], directory: Path
) -> tuple[Dataset, int]:
    """Return a dataset with the pictures that have feedback, and their number.

    The hash of a picture decides whether it trains or validates. The test set stays, so
    that versions are compared on the same pictures.

    Args:
        dataset: The dataset of the model.
        labelled: The captured pictures.
        directory: The directory of the captures.
    """
    contract = dataset.contract
    parts: dict[bool, tuple[list[Any], list[int]]] = {True: ([], []), False: ([], [])}
    for one in labelled:
        pixels = _pixels(directory / one.picture, one.sha256, contract)
        if pixels is not None and one.label in contract.labels:
            validates = int(one.sha256[:8], 16) % _VALIDATION == 0
            parts[validates][0].append(pixels)
            parts[validates][1].append(contract.labels.index(one.label))
    train, validation = (
        _joined(split, *parts[validates])
        for split, validates in ((dataset.train, False), (dataset.validation, True))
    )
    count = len(parts[True][1]) + len(parts[False][1])
    return replace(dataset, train=train, validation=validation), count


def _pixels(path: Path, digest: str, contract: Contract) -> Any:
    """Return a captured picture's prepared pixels; None if it is gone or damaged."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            return None
        decoded = decode(content, contract.min_side, Budget(DEFAULT_LIMITS))
        return decoded_to_pixels(decoded, replace(contract, channel_order="rgb"))
    except (OSError, InklingError):
        return None


def _joined(split: Split, pixels: list[Any], labels: list[int]) -> Split:
    """Return a split with further pictures, repeated to have a share of it.

    A picture that is prepared is a sample, which another preparation leaves as it is.
    So it may stand among the pictures of a dataset that are not prepared yet.
    """
    if not pixels:
        return split
    wanted = _SHARE / (1 - _SHARE) * len(split) / len(pixels)
    times = int(np.clip(round(wanted), 1, _MOST))
    own = np.asarray(split.pixels)
    further = np.repeat(np.stack(pixels), times, axis=0).reshape(-1, *own.shape[1:])
    known = np.repeat(np.asarray(labels, np.int64), times)
    return replace(
        split,
        pixels=np.concatenate([own, further]),
        labels=np.concatenate([split.labels, known]),
    )


def _from(before: VersionFiles, architecture: Architecture) -> Architecture:
    """Return an architecture whose networks begin with the weights of a version."""

    def build(shape: tuple[int, int, int], num_classes: int, recipe: Recipe) -> Network:
        network = architecture.build(shape, num_classes, recipe)
        with quiet_stderr():
            saved = tf.saved_model.load(str(before.path)).tracked
        wanted = network.model.variables
        if [tuple(one.shape) for one in saved] != [tuple(one.shape) for one in wanted]:
            raise InvalidRequest(
                f"{before.model} version {before.version} has other weights than "
                f"{architecture.name} in the recipe; retrain it with the architecture "
                "and the --recipe that it was trained with."
            )
        for variable, value in zip(wanted, saved, strict=True):
            variable.assign(value.numpy())
        return network

    return replace(architecture, build=build)
