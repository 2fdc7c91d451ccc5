# SPDX-License-Identifier: Apache-2.0
"""Trains and publishes models: the work of the command `inkling train`."""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from inkling.errors import InvalidRequest
from inkling.model.repository import Repository, check_model_name
from inkling_training.data import datasets
from inkling_training.data.datasets import Dataset
from inkling_training.data.folder import load_folder
from inkling_training.errors import DatasetNotFound
from inkling_training.figures import plots
from inkling_training.fit import batches
from inkling_training.fit.calibration import calibrated
from inkling_training.fit.recipes import Recipe, recipe_for
from inkling_training.fit.train import Run, identity, train
from inkling_training.release.publish import publish

__all__ = ["train_and_publish"]


def train_and_publish(options: argparse.Namespace) -> int:
    """Train and publish each model of the command line; return the exit code.

    Raises:
        InvalidRequest: An option is invalid, or a folder is not writable.
        DatasetUnavailable: The pictures are missing or unusable.
        TrainingDiverged: The loss became NaN or infinite.
        GateFailed: A trained model failed its checks.
    """
    models = list(dict.fromkeys(options.models))
    if options.name is not None:
        check_model_name(options.name)
        if len(models) > 1:
            raise InvalidRequest(
                f"--name came with {len(models)} models; give one model."
            )
    for folder in (options.models_dir, options.runs_dir):
        _check_writable(folder)
    if options.missing:
        models = _missing(models, options)
    if models:
        dataset = _dataset(options)
    for model in models:
        _one(model, dataset, options)
    return 0


def _missing(models: list[str], options: argparse.Namespace) -> list[str]:
    """Return the models without a published version, and print the others."""
    repository, missing = Repository(options.models_dir), []
    for model in models:
        name = options.name or model
        versions = repository.versions(name)
        if versions:
            print(f"{name} is already published: version {versions[0]}.", flush=True)
        else:
            missing.append(model)
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


def _dataset(options: argparse.Namespace) -> Dataset:
    if options.dataset == "folder":
        return load_folder(options.data_dir, size=options.size, ink=options.ink)
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


def _one(model: str, dataset: Dataset, options: argparse.Namespace) -> None:
    name, recipe = options.name or model, _recipe(model, dataset, options)
    print(
        f"Training {model} on {dataset.name}: {len(dataset.train):,} pictures, "
        f"{len(dataset.validation):,} for validation, {len(dataset.test):,} for the "
        "test.",
        flush=True,
    )
    run = Run(
        options.runs_dir / f"{name}-{dataset.name}-{options.seed}",
        identity(model, dataset, recipe, options.seed),
    )
    try:
        trained = train(
            model, dataset, recipe, run, seed=options.seed, resume=options.resume
        )
    except KeyboardInterrupt:
        print(
            "The training was stopped. The same command with --resume continues it.",
            flush=True,
        )
        raise
    started = time.monotonic()
    seen = plots.rows_of_pictures(batches.shown(dataset, recipe, options.seed))
    trained, dataset = calibrated(trained, dataset, recipe)
    files = publish(
        Repository(options.models_dir),
        name,
        dataset,
        trained,
        figures={"seed": options.seed, "recipe": asdict(recipe)},
        pictures={"augmentation": seen},
        allow_regression=options.allow_regression,
    )
    print(
        f"Published {name} version {files.version}: trained in "
        f"{trained.train_s:.0f} s, exported and checked in "
        f"{time.monotonic() - started:.0f} s.",
        flush=True,
    )


def _recipe(model: str, dataset: Dataset, options: argparse.Namespace) -> Recipe:
    kind = "folder" if options.dataset == "folder" else dataset.name
    recipe = recipe_for(options.recipe, model, kind, options.epochs, len(dataset.train))
    if options.learning_rate is not None:
        recipe = replace(recipe, learning_rate=options.learning_rate)
    return recipe
