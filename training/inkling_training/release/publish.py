# SPDX-License-Identifier: Apache-2.0
"""Publishes a trained model as a new version, after all checks have passed."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from inkling.errors import BrokenVersion
from inkling.model.loading import load_version
from inkling.model.repository import FORMATS, Publication, Repository, VersionFiles
from inkling_training.errors import GateFailed
from inkling_training.figures import plots
from inkling_training.release import card, export, parity
from inkling_training.release.judgement import judged
from inkling_training.stderr import quiet_stderr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from inkling_training.data.datasets import Dataset
    from inkling_training.fit.train import Trained
    from inkling_training.release.parity import ParityRow

__all__ = [
    "check_as_a_gateway_does",
    "check_parity",
    "check_regression",
    "publish",
    "version_before",
]

# With this many pictures the ranges of all int8 tensors are stable.
_CALIBRATION_PICTURES = 500
# The largest loss of accuracy against the previous version on the same test set. If two
# standard errors of the accuracy are more, as on a small test set, they are the limit.
_MAX_REGRESSION = 0.002


def publish(
    repository: Repository,
    name: str,
    dataset: Dataset,
    trained: Trained,
    *,
    figures: dict[str, Any],
    pictures: Mapping[str, Figure] | None = None,
    allow_regression: bool = False,
) -> VersionFiles:
    """Export a model, compare the exports with it, and publish it as the next version.

    Args:
        repository: The model repository to publish into.
        name: The model's name.
        dataset: The dataset of the training, with the test split for the model card.
        trained: The calibrated model.
        figures: Further figures for the model card, such as the seed.
        pictures: Further plots for the model card, by the names of their files.
        allow_regression: True to publish even if the previous version is more accurate.

    Raises:
        GateFailed: The exports disagree, or the previous version is more accurate; no
            version was published.
    """
    contract, test = dataset.contract, dataset.test
    inputs = test.inputs(contract)
    judgement = judged(trained.model, dataset, inputs)
    with repository.publishing(name) as publication:
        path = publication.path
        _export(name, dataset, trained.model, path)
        with quiet_stderr():
            rows = parity.compare(
                _asked(trained.model), path, contract, inputs, test.labels, FORMATS
            )
        check_parity(rows, "the Keras model")
        found = judgement.figures(rows)
        if not allow_regression:
            before = version_before(repository, name, contract.training_data.digest)
            check_regression(before, found["accuracy"]["float32"], len(test))
        shown = {
            **figures,
            **_figures(name, dataset, trained, path),
            **found,
        }
        drawn = {"curves": plots.curves(trained.history), **judgement.drawn()}
        card.write_card(path / "card", shown, {**drawn, **(pictures or {})})
        check_as_a_gateway_does(publication, FORMATS)
        files = publication.commit()
    print(card.parity_table(rows), flush=True)
    return files


def _export(name: str, dataset: Dataset, model: keras.Model, path: Path) -> None:
    contract = dataset.contract
    calibration = dataset.train.first(_CALIBRATION_PICTURES).inputs(contract)
    exporter = export.Exporter.of_keras(name, model, contract)
    exporter.write_saved_model(path)
    for tflite_format in FORMATS:
        exporter.write_tflite(tflite_format, calibration, path / "tflite")
    export.write_warmup(name, calibration, path)
    images = export.samples_and_photos(contract, dataset.test)
    export.write_golden(_asked(model), contract, images, path)


def _asked(model: keras.Model) -> parity.Predict:
    """Return a function that asks Keras for the scores of inputs."""

    def asked(inputs: parity.Scores) -> parity.Scores:
        scores: parity.Scores = model(inputs, training=False).numpy()
        return scores

    return asked


def check_as_a_gateway_does(publication: Publication, formats: Sequence[str]) -> None:
    """Load every format with the checks that a gateway makes before it serves.

    Raises:
        GateFailed: A format does not pass them.
    """
    files = publication.seal()
    for tflite_format in formats:
        try:
            load_version(files, tflite_format)
        except BrokenVersion as error:
            raise GateFailed(
                f"The {tflite_format} export failed the checks of a gateway; nothing "
                f"was published. {error.message}"
            ) from None


def check_parity(rows: Sequence[ParityRow], model: str) -> None:
    """Check that every export passed.

    Raises:
        GateFailed: An export disagrees with the model, which `model` names.
    """
    if not all(row.passed for row in rows):
        raise GateFailed(
            f"The exports disagree with {model}; nothing was published.\n"
            + card.parity_table(rows)
        )


def version_before(
    repository: Repository, name: str, digest: str
) -> VersionFiles | None:
    """Return the newest version if its dataset has the same digest; else None."""
    if not repository.versions(name):
        return None
    before = repository.newest(name)
    return before if before.metrics().get("data") == digest else None


def check_regression(before: VersionFiles | None, accuracy: float, count: int) -> None:
    """Check that a model is as accurate as the version before it.

    Args:
        before: The version that was measured on the same pictures; None without.
        accuracy: The accuracy of the new model, 0 to 1.
        count: The number of pictures.

    Raises:
        GateFailed: It is worse by more than chance.
    """
    known = before.accuracy("float32") if before is not None else None
    if before is None or known is None:
        return
    chance = 2 * math.sqrt(known * (1 - known) / count)
    if accuracy < known - max(_MAX_REGRESSION, chance):
        raise GateFailed(
            f"{before.model} version {before.version} has an accuracy of {known:.2%} "
            f"on the same test set, and the new model has {accuracy:.2%}; nothing was "
            "published. Train longer, or publish the new model with --allow-regression."
        )


def _figures(
    name: str, dataset: Dataset, trained: Trained, path: Path
) -> dict[str, Any]:
    return {
        "model": name,
        "dataset": dataset.name,
        "data": dataset.contract.training_data.digest,
        "contract": dataset.contract.hash,
        "parameters": int(sum(np.prod(w.shape) for w in trained.model.weights)),
        "epochs": len(trained.history),
        "best_epoch": trained.best_epoch,
        "train_s": round(trained.train_s, 1),
        "bytes": {
            name: (path / "tflite" / f"{name}.tflite").stat().st_size
            for name in FORMATS
        },
        "made_with": {
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
    }
