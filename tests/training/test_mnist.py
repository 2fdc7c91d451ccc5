# SPDX-License-Identifier: Apache-2.0
"""The full data sets, in `make test-all`; skipped, and said so, where they are not."""

from pathlib import Path

import pytest

from inkling.cli.main import main
from inkling.model.loading import load_version
from inkling.model.repository import FORMATS, Repository, VersionFiles

pytestmark = pytest.mark.soak


def _published(folder: Path, *flags: str) -> VersionFiles:
    where = ["--models-dir", str(folder / "models"), "--runs-dir", str(folder / "runs")]

    assert main(["train", *flags, *where, "--epochs", "1"]) == 0

    repository = Repository(folder / "models")
    [name] = repository.models()
    return repository.newest(name)


def test_one_epoch_on_mnist(data_dir: Path, tmp_path: Path) -> None:
    """One epoch takes the MLP over 95 % on MNIST's test set, and all exports agree."""
    files = _published(
        tmp_path, "mlp", "--dataset", "mnist", "--data-dir", str(data_dir)
    )

    figures = files.metrics()
    assert figures["accuracy"]["keras"] > 0.95
    assert all(figures["accuracy"][name] > 0.95 for name in ("saved_model", *FORMATS))
    assert [row["passed"] for row in figures["parity"]] == [True] * 4


def test_one_epoch_on_cifar(data_dir: Path, tmp_path: Path) -> None:
    """A CNN of colour pictures is trained and published."""
    if not (data_dir / "cifar10_subset.npz").is_file():
        pytest.skip(f"{data_dir} has no cifar10_subset.npz; nothing checked")

    files = _published(
        tmp_path, "cnn", "--dataset", "cifar10", "--data-dir", str(data_dir)
    )

    contract = files.contract()
    assert (contract.input_shape, contract.kind) == ((32, 32, 3), "sample")
    assert contract.labels[3] == "cat"
    assert files.accuracy("float32") > 0.25  # chance is 0.1
    for name in FORMATS:
        load_version(files, name)
