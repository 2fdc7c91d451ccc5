# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from inkling.model.repository import Repository
from inkling_training.data import doodles, outliers
from inkling_training.data.datasets import Dataset
from inkling_training.fit import batches
from inkling_training.fit.recipes import recipe_for
from inkling_training.fit.train import Accuracy

_RECIPE = replace(recipe_for("default", "mlp", "digits", 1), outlier_share=0.5)


@pytest.fixture(scope="module")
def digits(digits: Dataset) -> Dataset:
    """The bundled digits, a hundred of each part."""
    few = {part: getattr(digits, part).first(100) for part in ("train", "validation")}
    return replace(digits, **few)


@pytest.fixture(scope="module")
def held_out(digits: Dataset) -> dict[str, np.ndarray]:
    """Outliers of each kind that are held out of every run."""
    return outliers.held_out(digits.validation, 0)


def test_outliers_are_a_function_of_the_seed(digits: Dataset) -> None:
    """One seed gives the same pictures on every call, another gives others."""
    first = outliers.outliers(digits.train, 3)
    outliers._drawn.cache_clear()
    again = outliers.outliers(digits.train, 3)
    other = outliers.outliers(digits.train, 4)

    assert np.array_equal(first, again)
    assert first.shape == other.shape == (len(first), 28, 28)
    assert first.dtype == np.uint8
    assert 200 <= len(first) <= 210  # two for each digit
    same = (first == other).all(axis=(1, 2))
    assert same.mean() < 0.05  # blank paper is blank paper


@pytest.mark.parametrize("kind", outliers.KINDS)
def test_every_kind_varies(kind: str, held_out: dict[str, np.ndarray]) -> None:
    """The outliers of a kind differ from each other, and all but blank ones show ink."""
    pictures = held_out[kind]

    different = {picture.tobytes() for picture in pictures}

    assert len(different) > 0.7 * len(pictures)
    if kind != "blank":
        assert (pictures.max(axis=(1, 2)) > 60).mean() > 0.9


def test_no_digit_is_among_them(
    digits: Dataset, held_out: dict[str, np.ndarray]
) -> None:
    """Outliers that are made of parts of digits never equal a digit of the data set."""
    whole = {picture.tobytes() for picture in digits.validation.pixels}

    for kind in ("cut", "pairs"):
        assert not whole & {picture.tobytes() for picture in held_out[kind]}


def test_letters_that_are_digits_to_somebody_are_not_written() -> None:
    """Letters that look like digits are not drawn, and held-out fonts are not trained on."""
    assert not set("0123456789OoIlgq|?") & set(doodles.LETTERS)
    assert len(doodles.LETTERS) == len(set(doodles.LETTERS))
    assert not set(doodles.FONTS) & set(doodles.HELD_OUT_FONTS)


@pytest.mark.parametrize("changes", [{"kind": "sample"}, {"labels": ("a", "b")}])
def test_other_labels_have_no_outliers(
    changes: dict[str, object], digits: Dataset
) -> None:
    """Only a contract of the ten digits has outliers; others may have letters as labels."""
    finder = {"finder": "none"} if "kind" in changes else {}
    contract = replace(digits.contract, **changes, **finder)

    assert outliers.are_digits(digits.contract)
    assert not outliers.are_digits(contract)


def test_outliers_stand_beside_each_batch(digits: Dataset) -> None:
    """Each batch ends with outliers, whose target is the same for every label."""
    [(inputs, targets)] = batches.batches(digits, _RECIPE, 0, 0)
    [(again, _)] = batches.batches(digits, _RECIPE, 0, 0)

    assert inputs.shape == (150, 28, 28, 1)
    assert np.array_equal(targets[100:], np.full((50, 10), 0.1, np.float32))
    assert (np.max(targets[:100], axis=1) == 1).all()
    assert np.array_equal(inputs, again)


def test_accuracy_is_of_the_digits_alone() -> None:
    """The accuracy in the history of a run does not count pictures without a label."""
    metric = Accuracy()
    targets = tf.constant([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]])

    metric.update_state(targets, tf.constant([[0.9, 0.1]] * 4))

    assert float(metric.result()) == 0.5


def test_a_card_shows_what_training_sees(digits: Dataset) -> None:
    """The picture of the augmentation has digits, changed digits, and the rest."""
    rows = batches.shown(digits, _RECIPE, 0)
    plain = batches.shown(digits, replace(_RECIPE, outlier_share=0.0), 0)

    originals, first, second, others = rows.values()
    assert np.array_equal(digits.train.first(14).inputs(digits.contract), originals)
    assert not np.array_equal(first, second)
    assert originals.shape == first.shape == others.shape
    assert list(plain) == list(rows)[:3]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_published_model_doubts_what_is_no_digit(name: str, published: Path) -> None:
    """A quickly trained model abstains from most outliers, some of every kind, and from few digits."""
    files = Repository(published).newest(name)
    figures = files.metrics()
    text = (files.path / "card" / "card.md").read_text()

    assert set(outliers.KINDS) == set(figures["caught"])
    shares = list(figures["caught"].values())
    assert (np.mean(shares) > 0.7, min(shares) > 0.3) == (True, True), figures["caught"]
    assert figures["abstained"] < 0.1
    assert f"| noise | {figures['caught']['noise']:.1%} |" in text
    assert f"{figures['abstained']:.2%}" in text
    assert (files.path / "card" / "augmentation.png").stat().st_size > 5000
