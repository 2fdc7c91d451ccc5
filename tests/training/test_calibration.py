# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inkling.model.ondevice import OnDeviceClassifier
from inkling.model.repository import FORMATS, Repository
from inkling_training.data import datasets
from inkling_training.data.datasets import Dataset, Split
from inkling_training.figures.reliability import expected_calibration_error
from inkling_training.fit.calibration import calibrated, tempered
from inkling_training.fit.models import MODELS
from inkling_training.fit.recipes import recipe_for
from inkling_training.fit.run import Run, identity
from inkling_training.fit.train import Trained, train

_RECIPE = recipe_for("default", "mlp", "digits", 6)


@pytest.fixture(scope="module")
def digits(digits: Dataset) -> Dataset:
    """The bundled digits, with a third of them to calibrate on."""
    return replace(digits, validation=digits.train.first(400))


@pytest.fixture(scope="module")
def trained(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A small MLP of them."""
    run = Run(
        tmp_path_factory.mktemp("run"), identity(MODELS["mlp"], digits, _RECIPE, 0)
    )
    return train(MODELS["mlp"], digits, _RECIPE, run, seed=0, resume=False)


def _scores(trained: Trained, dataset: Dataset) -> np.ndarray:
    inputs = dataset.validation.inputs(dataset.contract)
    return np.asarray(trained.model(inputs, training=False))


def _error(scores: np.ndarray, dataset: Dataset) -> float:
    right = scores.argmax(axis=1) == dataset.validation.labels
    return expected_calibration_error(scores.max(axis=1), right)


def test_the_temperature_is_in_the_model(trained: Trained, digits: Dataset) -> None:
    """The calibrated model itself gives the tempered scores; its contract has the temperature."""
    before = _scores(trained, digits)

    model, dataset = calibrated(trained, digits, _RECIPE)

    after, temperature = _scores(model, digits), dataset.contract.temperature
    assert 0.2 < temperature < 0.95  # smoothed labels make a model too modest
    assert after == pytest.approx(tempered(before, temperature), abs=1e-4)
    assert np.array_equal(before, _scores(trained, digits))
    assert _error(after, digits) < _error(before, digits) / 2
    assert replace(digits.contract, temperature=temperature) == replace(
        dataset.contract, abstain_below=0.0
    )


def test_a_known_temperature_is_found(trained: Trained, digits: Dataset) -> None:
    """Calibrating a model whose logits were multiplied finds the factor."""
    first, dataset = calibrated(trained, digits, _RECIPE)
    layer = first.model.get_layer("logits")
    layer.set_weights([3 * array for array in layer.get_weights()])

    _, again = calibrated(first, dataset, _RECIPE)

    assert again.contract.temperature == pytest.approx(3, rel=0.01)


def test_a_few_right_answers_are_no_certainty(
    trained: Trained, digits: Dataset
) -> None:
    """A model that is right about every picture still does not get scores of 1."""
    split = digits.validation
    right = np.flatnonzero(_scores(trained, digits).argmax(axis=1) == split.labels)
    few = Split(split.pixels[right[:20]], split.labels[right[:20]])
    assert len(few) == 20

    model, dataset = calibrated(trained, replace(digits, validation=few), _RECIPE)

    assert dataset.contract.temperature > 1 / 8
    assert _scores(model, digits).max(axis=1).mean() < 0.995


def test_few_digits_are_abstained_from(trained: Trained, digits: Dataset) -> None:
    """About one in a hundred validation pictures is under the threshold, or fewer."""
    model, dataset = calibrated(trained, digits, _RECIPE)

    highest = _scores(model, digits).max(axis=1)

    assert 0 < dataset.contract.abstain_below < 1
    assert (highest < dataset.contract.abstain_below).mean() <= 0.02


def test_tempering_can_be_taken_back() -> None:
    """The reciprocal temperature gives the scores back, 0 and 1 among them."""
    scores = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])

    assert tempered(tempered(scores, 0.5), 2.0) == pytest.approx(scores, abs=1e-9)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_published_scores_are_calibrated(name: str, published: Path) -> None:
    """What the command publishes is calibrated in every export, and its card says so."""
    files = Repository(published).newest(name)
    figures, contract = files.metrics(), files.contract()
    text = (files.path / "card" / "card.md").read_text()
    errors = figures["calibration_error"]

    assert contract.temperature != 1
    assert contract.temperature == figures["temperature"]
    assert contract.abstain_below == figures["abstain_below"] > 0
    assert {"before", "keras", "saved_model", *FORMATS} == set(errors)
    assert all(errors[each] < errors["before"] for each in ("float32", "int8"))
    assert (
        f"| int8 | {figures['accuracy']['int8']:.2%} | {errors['int8']:.2%} |" in text
    )
    assert f"{contract.temperature:g}" in text
    assert f"{contract.abstain_below:g}" in text


def test_a_device_needs_no_arithmetic_of_its_own(published: Path) -> None:
    """The scores that a device answers with are the calibrated ones."""
    files = Repository(published).newest("cnn")
    sample = datasets.load("digits").test.pixels[0]
    with OnDeviceClassifier(files.path) as classifier:
        prediction = classifier.classify(sample, top_k=10)

    with np.load(files.path / "golden.npz", allow_pickle=False) as golden:
        assert prediction.probability == pytest.approx(
            golden["scores"][0].max(), abs=1e-5
        )
