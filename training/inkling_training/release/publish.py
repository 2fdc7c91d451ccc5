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

__all__ = ["publish"]

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
            rows = parity.compare(trained.model, path, contract, inputs, test.labels)
        _check_parity(rows)
        found = judgement.figures(rows)
        if not allow_regression:
            before = _before(repository, name, contract.training_data.digest)
            _check_regression(before, found["accuracy"]["float32"], len(test))
        shown = {
            **figures,
            **_figures(name, dataset, trained, path),
            **found,
        }
        drawn = {"curves": plots.curves(trained.history), **judgement.drawn()}
        card.write_card(path / "card", shown, {**drawn, **(pictures or {})})
        _check_as_a_gateway_does(publication)
        files = publication.commit()
    print(card.parity_table(rows), flush=True)
    return files


def _export(name: str, dataset: Dataset, model: keras.Model, path: Path) -> None:
    contract = dataset.contract
    calibration = dataset.train.first(_CALIBRATION_PICTURES).inputs(contract)
    exporter = export.Exporter(name, model, contract)
    exporter.write_saved_model(path)
    exporter.write_tflite(calibration, path / "tflite")
    export.write_warmup(name, calibration, path)
    export.write_golden(model, contract, dataset.test, path)


def _check_as_a_gateway_does(publication: Publication) -> None:
    """Load every format with the checks that a gateway makes before it serves."""
    files = publication.seal()
    for tflite_format in FORMATS:
        try:
            load_version(files, tflite_format)
        except BrokenVersion as error:
            raise GateFailed(
                f"The {tflite_format} export failed the checks of a gateway; nothing "
                f"was published. {error.message}"
            ) from None


def _check_parity(rows: Sequence[ParityRow]) -> None:
    if not all(row.passed for row in rows):
        raise GateFailed(
            "The exports disagree with the Keras model; nothing was published.\n"
            + card.parity_table(rows)
        )


def _before(repository: Repository, name: str, digest: str) -> VersionFiles | None:
    """Return the newest version if its dataset has the same digest; else None."""
    if not repository.versions(name):
        return None
    before = repository.newest(name)
    return before if before.metrics().get("data") == digest else None


def _check_regression(before: VersionFiles | None, accuracy: float, count: int) -> None:
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
