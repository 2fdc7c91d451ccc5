# SPDX-License-Identifier: Apache-2.0
"""Publishes a trained model as a new version, after all checks have passed."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from inkling.errors import BrokenVersion, ModelNotFound
from inkling.model.loading import load_version
from inkling.model.repository import FORMATS, Publication, Repository, VersionFiles
from inkling.model.version_labels import STABLE
from inkling_training.errors import GateFailed
from inkling_training.figures import plots
from inkling_training.fit.models import scorer
from inkling_training.release import card, export, formats, parity
from inkling_training.release.judgement import drift_baseline, judged
from inkling_training.stderr import quiet_stderr

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from inkling.contract import Contract
    from inkling_training.data.datasets import Dataset
    from inkling_training.fit.train import Trained
    from inkling_training.release.parity import ParityRow

__all__ = [
    "Terms",
    "answering",
    "check_as_a_gateway_does",
    "check_parity",
    "check_regression",
    "publish",
    "publishing",
    "version_before",
]

# With this many pictures the ranges of all int8 tensors are stable. A large picture has
# as many values as many small ones.
_CALIBRATION_PICTURES, _CALIBRATION_BYTES, _CALIBRATION_LEAST = 500, 32 * 1024**2, 50
# The largest loss of accuracy against the previous version on the same test set. If two
# standard errors of the accuracy are more, as on a small test set, they are the limit.
_MAX_REGRESSION = 0.002


@dataclass(frozen=True)
class Terms:
    """What is required of a new version, and what becomes of it.

    Attributes:
        allow_regression: True to publish even if the version before is more accurate.
        publish_only: True if the version that answers now is to go on answering.
    """

    allow_regression: bool = False
    publish_only: bool = False


def publish(
    repository: Repository,
    name: str,
    dataset: Dataset,
    trained: Trained,
    *,
    figures: dict[str, Any],
    pictures: Mapping[str, Figure] | None = None,
    terms: Terms = Terms(),
) -> VersionFiles:
    """Export a model, compare the exports with it, and publish it as the next version.

    Args:
        repository: The model repository to publish into.
        name: The model's name.
        dataset: The dataset of the training, with the test split for the model card.
        trained: The calibrated model.
        figures: Further figures for the model card, such as the seed.
        pictures: Further plots for the model card, by the names of their files.
        terms: What is required of the new version, and what becomes of it.

    Raises:
        GateFailed: The exports disagree, or the previous version is more accurate; no
            version was published.
    """
    contract, test = dataset.contract, dataset.test
    inputs = test.inputs_in_parts(contract)
    judgement = judged(trained.model, dataset, inputs)
    with publishing(repository, name, terms) as publication:
        path = publication.path
        kinds, notes = _export(name, dataset, trained.model, path)
        with quiet_stderr():
            scores = parity.scores_of(scorer(trained.model), inputs)
            rows = parity.compare(scores, path, contract, inputs, test.labels, kinds)
        rows, kinds = _agreeing(rows, kinds, contract, path, notes)
        if not terms.allow_regression:
            before = version_before(repository, name, contract.training_data.digest)
            check_regression(before, judgement.accuracy, len(test))
        shown = {**figures, **_figures(name, dataset, trained, path)}
        shown |= judgement.figures(rows)
        shown |= drift_baseline(inputs, judgement.scores, contract)
        if notes:
            shown["notes"] = [*figures.get("notes", []), *notes]
        drawn = {"curves": plots.curves(trained.history), **judgement.drawn()}
        card.write_card(path / "card", shown, {**drawn, **(pictures or {})})
        check_as_a_gateway_does(publication, kinds)
        files = publication.commit()
    print(*notes, card.parity_table(rows), sep="\n", flush=True)
    return files


def answering(repository: Repository, files: VersionFiles) -> str:
    """Return a sentence that says whether a version answers by default."""
    model, version = files.model, files.version
    try:
        answers = repository.default(model).version
    except ModelNotFound as error:  # `stable` names a version that was removed
        return error.message
    if answers == version:
        return f"Version {version} answers requests that name no version."
    return (
        f"Version {answers} still answers requests that name no version, because it "
        f"has the label {STABLE}. Change over with: inkling promote {model} {version}"
    )


@contextmanager
def publishing(
    repository: Repository, name: str, terms: Terms
) -> Iterator[Publication]:
    """Write a new version, as `Repository.publishing`.

    A failed first publication leaves no empty directory.
    """
    home = repository.files(name, 1).path.parent
    try:
        with repository.publishing(
            name, publish_only=terms.publish_only
        ) as publication:
            yield publication
    finally:
        with suppress(OSError):
            home.rmdir()


def _agreeing(
    rows: list[ParityRow],
    kinds: list[str],
    contract: Contract,
    path: Path,
    notes: list[str],
) -> tuple[list[ParityRow], list[str]]:
    """Return the rows and the TFLite formats that agree with the model.

    A network of Inkling's own has every format. Another may lack one that is inexact;
    `notes` then gets a sentence about it.

    Raises:
        GateFailed: An export that the version must have disagrees.
    """
    if contract.source is None:
        check_parity(rows, "the Keras model")
        return rows, kinds
    check_parity(formats.exact(rows, kinds), "the Keras model")
    notes += formats.leave_out(rows, path)
    rows = [row for row in rows if row.passed]
    passed = {row.export for row in rows}
    return rows, [kind for kind in kinds if kind in passed]


def _export(
    name: str, dataset: Dataset, model: keras.Model, path: Path
) -> tuple[list[str], list[str]]:
    """Write all files but the card; return the TFLite formats, and notes about them."""
    contract = dataset.contract
    size = 4 * math.prod(contract.input_shape)
    count = max(_CALIBRATION_LEAST, _CALIBRATION_BYTES // size)
    count = min(_CALIBRATION_PICTURES, count)
    calibration = dataset.train.first(count).inputs(contract)
    exporter = export.Exporter.of_keras(name, model, contract)
    exporter.write_saved_model(path)
    kinds, notes = _converted(exporter, calibration, contract, path / "tflite")
    export.write_warmup(name, contract, path)
    images = export.samples_and_photos(contract, dataset.test)
    export.write_golden(scorer(model), contract, images, path)
    return kinds, notes


def _converted(
    exporter: export.Exporter,
    inputs: npt.NDArray[np.float32],
    contract: Contract,
    directory: Path,
) -> tuple[list[str], list[str]]:
    if contract.source is not None:
        return formats.convert(exporter, inputs, directory, lambda _: None)
    for tflite_format in FORMATS:
        exporter.write_tflite(tflite_format, inputs, directory)
    return list(FORMATS), []


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


def check_parity(rows: Sequence[ParityRow], model: str, why: str = "") -> None:
    """Check that every export passed.

    Args:
        rows: The comparison of the exports.
        model: What they were compared with, for the message.
        why: A sentence for the message about the reason; empty if none is known.

    Raises:
        GateFailed: An export disagrees with the model.
    """
    if not all(row.passed for row in rows):
        raise GateFailed(
            f"The exports disagree with {model}; nothing was published.\n"
            + card.parity_table(rows)
            + (why and f"\n{why}")
        )


def version_before(
    repository: Repository, name: str, digest: str
) -> VersionFiles | None:
    """Return the version that answers if it has a dataset of this digest; else None."""
    if not repository.versions(name):
        return None
    before = repository.default(name)
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
            file.stem: file.stat().st_size
            for file in sorted((path / "tflite").glob("*.tflite"))
        },
        "made_with": {
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
    }
