# SPDX-License-Identifier: Apache-2.0
"""Trains and publishes models: the work of the command `inkling train`."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from inkling.contract import Contract
from inkling.errors import InvalidRequest
from inkling.model.repository import Repository, VersionFiles, check_model_name
from inkling_training.architectures import choice
from inkling_training.data import datasets
from inkling_training.data.datasets import Dataset
from inkling_training.data.folder import load_folder
from inkling_training.errors import DatasetNotFound
from inkling_training.figures import plots
from inkling_training.fit import batches
from inkling_training.fit.calibration import calibrated
from inkling_training.fit.models import MODELS, Architecture
from inkling_training.fit.recipes import (
    Recipe,
    photo_augmentation,
    recipe_for,
    statements,
)
from inkling_training.fit.run import Run, identity
from inkling_training.fit.train import Trained, train
from inkling_training.fit.workers import workers
from inkling_training.release.publish import Terms, answering, publish

__all__ = ["architecture_of", "dataset_of", "train_and_publish", "train_one"]

# The side of a folder's pictures by default, for the small networks and for others.
_SMALL_SIDE, _LARGE_SIDE = 32, 160
# Colour pictures of this size are photos of things, which may be mirrored.
_PHOTO_SIDE = 64


def train_and_publish(options: argparse.Namespace) -> int:
    """Train and publish each model of the command line; return the exit code.

    Raises:
        InvalidRequest: An option is invalid, or a folder is not writable.
        DatasetUnavailable: The pictures are missing or unusable.
        TrainingDiverged: The loss became NaN or infinite.
        GateFailed: A trained model failed its checks.
    """
    chief = workers().chief
    models = list(dict.fromkeys(options.models))
    _check_name(models, options.name)
    architectures = [architecture_of(model, options) for model in models]
    for folder in (options.models_dir, options.runs_dir) if chief else ():
        _check_writable(folder)
    if options.missing:
        architectures = _missing(architectures, options)
    if architectures:
        dataset = dataset_of(architectures, options)
    for architecture in architectures:
        (train_one if chief else _train)(architecture, dataset, options)
    return 0


def _check_name(models: list[str], name: str | None) -> None:
    if name is not None:
        check_model_name(name)
        if len(models) > 1:
            raise InvalidRequest(
                f"--name came with {len(models)} models; give one model."
            )
        return
    own = [model for model in models if model not in MODELS]
    if own:
        raise InvalidRequest(
            f"{own[0]} came without --name; give the name under which it is published."
        )


def architecture_of(model: str, options: argparse.Namespace) -> Architecture:
    """Return the architecture that the command line names.

    Raises:
        InvalidRequest: There is none, or an option does not fit it.
    """
    return choice.architecture_of(
        model,
        choice.Options(
            options.weights, options.alpha, options.values, options.learning_rate
        ),
    )


def _missing(
    architectures: list[Architecture], options: argparse.Namespace
) -> list[Architecture]:
    """Return the models without a published version, and print the others."""
    repository, missing = Repository(options.models_dir), []
    for architecture in architectures:
        name = options.name or architecture.name
        versions = repository.versions(name)
        if versions:
            print(f"{name} is already published: version {versions[0]}.", flush=True)
        else:
            missing.append(architecture)
    return missing


def _check_writable(folder: Path) -> None:
    """Check, before the training, that its results can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        raise InvalidRequest(
            f"The folder {folder} is not writable. Choose another folder."
        ) from None


def dataset_of(
    architectures: list[Architecture], options: argparse.Namespace
) -> Dataset:
    """Return the dataset that the command line names.

    Raises:
        DatasetUnavailable: The pictures are missing or unusable.
    """
    if options.dataset == "folder":
        own = any(one.source is not None for one in architectures)
        return load_folder(
            options.data_dir,
            size=options.size or (_LARGE_SIDE if own else _SMALL_SIDE),
            ink=options.ink,
            # The pretrained weights are for three channels.
            colour=any(one.recipe == "transfer" for one in architectures),
            disk=options.runs_dir,
        )
    if options.dataset != "auto":
        return datasets.load(options.dataset, options.data_dir)
    try:
        return datasets.load("mnist", options.data_dir)
    except DatasetNotFound as error:
        print(
            f"{error.message}\nThe training uses the 1,797 digits of scikit-learn "
            "instead; MNIST gives more accurate models.",
            flush=True,
        )
        return datasets.load("digits")


def train_one(
    architecture: Architecture,
    dataset: Dataset,
    options: argparse.Namespace,
    further: Mapping[str, Any] = MappingProxyType({}),
) -> VersionFiles:
    """Train a model, check it and publish it; return the files of the version.

    Args:
        architecture: The architecture.
        dataset: The pictures.
        options: The options of `inkling train`.
        further: Further figures for the model card.

    Raises:
        InvalidRequest: An option is invalid.
        TrainingDiverged: The loss became NaN or infinite.
        GateFailed: The model failed its checks.
    """
    name = options.name or architecture.name
    trained, dataset, recipe, notes = _train(architecture, dataset, options)
    started = time.monotonic()
    seen = plots.rows_of_pictures(batches.shown(dataset, recipe, options.seed))
    trained, dataset = calibrated(trained, dataset, recipe)
    repository = Repository(options.models_dir)
    files = publish(
        repository,
        name,
        dataset,
        trained,
        figures={
            "architecture": architecture.name,
            "seed": options.seed,
            "recipe": asdict(recipe),
            "notes": notes,
            **further,
        },
        pictures={"augmentation": seen},
        terms=Terms(options.allow_regression, options.publish_only),
    )
    print(
        f"Published {name} version {files.version}: trained in "
        f"{trained.train_s:.0f} s, exported and checked in "
        f"{time.monotonic() - started:.0f} s.\n{answering(repository, files)}",
        flush=True,
    )
    return files


def _train(
    architecture: Architecture, dataset: Dataset, options: argparse.Namespace
) -> tuple[Trained, Dataset, Recipe, list[str]]:
    """Return the trained model, its dataset and recipe, and notes for the card."""
    recipe = _recipe(architecture, dataset, options)
    contract, notes = choice.fitted(architecture, dataset.contract, recipe)
    dataset = replace(dataset, contract=contract)
    notes = (*notes, *_statements(architecture, contract, recipe, notes))
    _say_what_is_trained(architecture, dataset, notes)
    trained = _trained(architecture, dataset, recipe, options)
    return trained, dataset, recipe, list(notes)


def _say_what_is_trained(
    architecture: Architecture, dataset: Dataset, notes: tuple[str, ...]
) -> None:
    print(
        f"Training {architecture.name} on {dataset.name}: {len(dataset.train):,} "
        f"pictures, {len(dataset.validation):,} for validation, "
        f"{len(dataset.test):,} for the test.",
        *notes,
        sep="\n",
        flush=True,
    )


def _trained(
    architecture: Architecture,
    dataset: Dataset,
    recipe: Recipe,
    options: argparse.Namespace,
) -> Trained:
    name, seed = options.name or architecture.name, options.seed
    run = Run(
        options.runs_dir / f"{name}-{dataset.name}-{seed}",
        identity(architecture, dataset, recipe, seed),
        kept=workers().chief,
    )
    try:
        return train(
            architecture, dataset, recipe, run, seed=seed, resume=options.resume
        )
    except KeyboardInterrupt:
        print(
            "The training was stopped. The same command with --resume continues it.",
            flush=True,
        )
        raise


def _statements(
    architecture: Architecture,
    contract: Contract,
    recipe: Recipe,
    notes: tuple[str, ...],
) -> list[str]:
    """Return the recipe as sentences, for architectures that are not Inkling's own."""
    if architecture.source is None:
        return []
    kind = "digits" if contract.kind == "photo_of_one_object" else "objects"
    has_optimizer = any("optimizer" in note for note in notes)
    return statements(recipe, kind, with_optimizer=not has_optimizer)


def _recipe(
    architecture: Architecture, dataset: Dataset, options: argparse.Namespace
) -> Recipe:
    kind = "folder" if options.dataset == "folder" else dataset.name
    recipe = recipe_for(
        options.recipe, architecture.recipe, kind, options.epochs, len(dataset.train)
    )
    if options.learning_rate is not None:
        recipe = replace(recipe, learning_rate=options.learning_rate)
    side, channels = dataset.contract.height, dataset.contract.channels
    if options.no_augmentation:
        return replace(recipe, augmentation={})
    if kind == "folder" and channels == 3 and side >= _PHOTO_SIDE:
        ranges = photo_augmentation(side, flip=not options.no_flip)
        return replace(recipe, augmentation={"objects": ranges})
    return recipe
