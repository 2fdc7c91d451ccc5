# SPDX-License-Identifier: Apache-2.0
"""The pictures that the tests train on; most need only a few."""

from dataclasses import replace

import pytest

from inkling_training.data import datasets
from inkling_training.data.datasets import Dataset


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """The bundled digits, all of them."""
    return datasets.load("digits")


@pytest.fixture(scope="session")
def few_digits(digits: Dataset) -> Dataset:
    """300 of them to train on, and 60 to choose the epoch by."""
    train, validation = digits.train.first(300), digits.validation.first(60)
    return replace(digits, train=train, validation=validation)


@pytest.fixture(scope="session")
def plain_digits(digits: Dataset) -> Dataset:
    """All of them, as samples in which nothing has to be found.

    Nothing but digits is made up to train and to judge with, which takes longer than
    all else about a publication.
    """
    contract = replace(digits.contract, kind="sample", finder="none")
    return replace(digits, contract=contract)
