# SPDX-License-Identifier: Apache-2.0
"""`inkling train classic` is the network of lesson 4 of the examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from examples.lesson_04_network import forward, step
from inkling_training.data.datasets import Dataset
from inkling_training.figures.reliability import expected_calibration_error
from inkling_training.fit.batches import batches
from inkling_training.fit.calibration import calibrated
from inkling_training.fit.models import MODELS, classic
from inkling_training.fit.recipes import recipe_for
from inkling_training.fit.run import Run, identity
from inkling_training.fit.train import Trained, train

_RECIPE = recipe_for("default", "classic", "digits", 2)


def _trained(directory: Path, digits: Dataset, recipe=_RECIPE, **options) -> Trained:
    run = Run(directory, identity(MODELS["classic"], digits, _RECIPE, 0))
    return train(
        MODELS["classic"],
        digits,
        recipe,
        run,
        seed=0,
        **{"resume": False, **options},
    )


def _first_weights() -> list[np.ndarray]:
    keras.utils.set_random_seed(0)
    return classic((28, 28, 1), 10, dropout=0.0).get_weights()


def test_its_first_weights_are_a_truncated_normal() -> None:
    """Kernels have the deviation of a normal distribution of 0.1, cut at twice that; biases are 0."""
    weights = _first_weights()

    assert [(784, 256), (256, 128), (128, 10)] == [one.shape for one in weights[::2]]
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        assert kernel.std() == pytest.approx(0.088, rel=0.05)
        assert 0.18 < np.abs(kernel).max() <= 0.2 + 1e-6
        assert not bias.any()
    assert not np.array_equal(weights[0][:10, :10], weights[2][:10, :10])


def test_it_trains_as_the_lesson_does(tmp_path: Path, few_digits: Dataset) -> None:
    """An epoch gives the weights of lesson 4's steps, with its loss, on the same batches."""
    recipe = replace(_RECIPE, epochs=1)
    trained = _trained(tmp_path / "run", few_digits, recipe)
    weights = [tf.Variable(one) for one in _first_weights()]
    losses = [
        float(step(weights, tf.reshape(x, (-1, 784)), tf.argmax(y, axis=1)))
        for x, y in batches(few_digits, recipe, 0, 0)
    ]

    for found, expected in zip(trained.model.get_weights(), weights, strict=True):
        assert found == pytest.approx(expected.numpy(), abs=1e-5)
    assert trained.history[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-3)


def test_a_resumed_run_is_the_same(tmp_path: Path, few_digits: Dataset) -> None:
    """After its first epoch, a run continues to the same weights, bit for bit."""
    whole = _trained(tmp_path / "whole", few_digits)
    _trained(tmp_path / "run", few_digits, replace(_RECIPE, epochs=1))
    resumed = _trained(tmp_path / "run", few_digits, resume=True)

    assert len(resumed.history) == 2
    for one, other in zip(
        whole.model.get_weights(), resumed.model.get_weights(), strict=True
    ):
        assert np.array_equal(one, other)


def test_its_scores_become_probabilities(tmp_path: Path, digits: Dataset) -> None:
    """Outputs near 0 and 1 need a temperature far below 1, which the calibration finds."""
    recipe = replace(_RECIPE, epochs=15)
    trained = _trained(tmp_path / "run", digits, recipe)

    model, dataset = calibrated(trained, digits, recipe)

    assert 1 / 64 < dataset.contract.temperature < 0.3
    inputs = digits.test.inputs(digits.contract)
    scores = np.asarray(model.model(inputs))
    right = scores.argmax(axis=1) == digits.test.labels
    assert right.mean() > 0.5
    assert expected_calibration_error(scores.max(axis=1), right) < 0.1
    outputs = forward(inputs.reshape(-1, 784), model.model.get_weights())
    assert np.array_equal(outputs.argmax(axis=1), scores.argmax(axis=1))
