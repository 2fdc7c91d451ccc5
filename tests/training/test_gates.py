# SPDX-License-Identifier: Apache-2.0
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inkling.cli.main import main
from inkling.contract import TOLERANCES
from inkling.errors import InklingError
from inkling.model.loading import load_version
from inkling.model.repository import FORMATS, Repository, VersionFiles
from inkling.model.runner import TFLiteRunner
from inkling_training.data.datasets import Dataset, Split
from inkling_training.errors import GateFailed
from inkling_training.fit.models import MODELS
from inkling_training.fit.recipes import recipe_for
from inkling_training.fit.run import Run, identity
from inkling_training.fit.train import Trained, train
from inkling_training.release import card, export
from inkling_training.release.parity import ParityRow, compare
from inkling_training.release.publish import Terms, publish

Publish = Callable[..., VersionFiles]

_EXPORTS = ("saved_model", *FORMATS)


def _trained(directory: Path, dataset: Dataset, epochs: int, seed: int) -> Trained:
    recipe = recipe_for("default", "mlp", "digits", epochs)
    run = Run(directory, identity(MODELS["mlp"], dataset, recipe, seed))
    return train(MODELS["mlp"], dataset, recipe, run, seed=seed, resume=False)


@pytest.fixture(scope="module")
def good(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """An MLP of four epochs."""
    return _trained(tmp_path_factory.mktemp("good") / "run", digits, 4, seed=0)


@pytest.fixture(scope="module")
def weak(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """An MLP of one epoch."""
    return _trained(tmp_path_factory.mktemp("weak") / "run", digits, 1, seed=0)


@pytest.fixture
def publish_to(tmp_path: Path, plain_digits: Dataset) -> Publish:
    """Publish `mlp` under `tmp_path`: `publish_to(trained, dataset, ...)`."""

    def published(
        trained: Trained, dataset: Dataset = plain_digits, **options: bool
    ) -> VersionFiles:
        repository = Repository(tmp_path)
        return publish(
            repository, "mlp", dataset, trained, figures={"seed": 0}, **options
        )

    return published


def _with(dataset: Dataset, **tolerances: float) -> Dataset:
    """Return the dataset under a contract with other tolerances."""
    tight = {**TOLERANCES, **tolerances}
    return replace(dataset, contract=replace(dataset.contract, tolerances=tight))


def _check_nothing(folder: Path) -> None:
    """Check that no version is there, nor anything left of one."""
    assert Repository(folder).versions("mlp") == []
    assert [path.name for path in folder.glob("mlp/*")] == []


@dataclass(frozen=True)
class _Compared:
    """A directory of exports, and what was compared of it."""

    inputs: np.ndarray
    rows: dict[str, ParityRow]


def _asked(trained: Trained) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that asks Keras."""
    return lambda inputs: trained.model(inputs, training=False).numpy()


@pytest.fixture(scope="module")
def swapped(
    good: Trained,
    weak: Trained,
    plain_digits: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> _Compared:
    """The SavedModel of one model beside the TFLite files of another."""
    folder, contract = tmp_path_factory.mktemp("swapped"), plain_digits.contract
    inputs = plain_digits.test.inputs(contract)
    export.Exporter.of_keras("mlp", good.model, contract).write_saved_model(folder)
    other = export.Exporter.of_keras("mlp", weak.model, contract)
    for name in FORMATS:
        other.write_tflite(name, inputs[:50], folder / "tflite")
    labels = plain_digits.test.labels
    rows = compare(_asked(good)(inputs), folder, contract, inputs, labels, FORMATS)
    return _Compared(inputs, {row.export: row for row in rows})


def test_parity_rows(swapped: _Compared, good: Trained, plain_digits: Dataset) -> None:
    """There is a row for each export, with its accuracy on the test set."""
    scores = good.model(swapped.inputs, training=False).numpy()
    accuracy = (scores.argmax(axis=1) == plain_digits.test.labels).mean()
    row = swapped.rows["saved_model"]

    assert list(swapped.rows) == list(_EXPORTS)
    assert row.passed
    assert row.labels_differ == 0
    assert row.accuracy == pytest.approx(accuracy)
    assert set(row.as_json()) == {
        "export",
        "accuracy",
        "calibration_error",
        "labels_differ",
        "worst",
        "passed",
    }


@pytest.mark.parametrize("name", FORMATS)
def test_exports_of_other_weights_fail(name: str, swapped: _Compared) -> None:
    """A TFLite file made from other weights is caught in every format."""
    row = swapped.rows[name]

    assert not row.passed
    assert row.labels_differ > 0
    assert row.worst > TOLERANCES[name]


def test_parity_table(swapped: _Compared) -> None:
    """The table has a heading and a line for each export, aligned, with its verdict."""
    heading, *lines = card.parity_table(list(swapped.rows.values())).splitlines()

    verdicts = [line.split()[-1] for line in lines]
    assert (heading.split()) == [
        "EXPORT",
        "ACCURACY",
        "LABELS",
        "DIFFER",
        "WORST",
        "SCORE",
    ]
    assert list(_EXPORTS) == [line.split()[0] for line in lines]
    assert verdicts == ["ok", "FAILED", "FAILED", "FAILED"]
    ends = {line.rindex(verdict) for line, verdict in zip(lines, verdicts, strict=True)}
    assert len(ends) == 1


def test_other_weights_are_not_published(
    publish_to: Publish,
    good: Trained,
    weak: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where exports disagree, the error shows the table and nothing is published."""
    write = export.Exporter.write_tflite

    def write_another(exporter: Any, *arguments: Any) -> None:
        other = export.Exporter.of_keras("mlp", weak.model, exporter._contract)
        write(other, *arguments)

    monkeypatch.setattr(export.Exporter, "write_tflite", write_another)

    with pytest.raises(GateFailed, match="nothing was published") as caught:
        publish_to(good)

    for name in _EXPORTS:
        assert f"\n{name} " in caught.value.message
    assert caught.value.message.count("FAILED") == 3
    _check_nothing(tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_exports_beyond_tolerance_are_not_published(
    name: str, publish_to: Publish, good: Trained, plain_digits: Dataset, tmp_path: Path
) -> None:
    """Each format is held to the tolerance of the contract before it is published."""
    with pytest.raises(GateFailed, match=name) as caught:
        publish_to(good, _with(plain_digits, **{name: 1e-9}))

    assert "othing was published" in caught.value.message

    _check_nothing(tmp_path)


def test_nan_weights_are_not_published(
    publish_to: Publish, good: Trained, weak: Trained, tmp_path: Path
) -> None:
    """A model that answers with no numbers fails a gate."""
    kept = weak.model.get_weights()
    weak.model.set_weights([np.full_like(array, np.nan) for array in kept])
    try:
        with pytest.raises(InklingError):
            publish_to(weak)
    finally:
        weak.model.set_weights(kept)

    _check_nothing(tmp_path)


def test_one_picture_in_int8_is_no_fault(
    weak: Trained, plain_digits: Dataset, tmp_path: Path
) -> None:
    """An int8 model that is wrong on one picture of a small test set passes parity."""
    contract = plain_digits.contract
    inputs = plain_digits.test.inputs(contract)
    exporter = export.Exporter.of_keras("mlp", weak.model, contract)
    exporter.write_saved_model(tmp_path / "version")
    for name in FORMATS:
        exporter.write_tflite(name, inputs, tmp_path / "version" / "tflite")
    runner = TFLiteRunner(
        (tmp_path / "version" / "tflite" / "int8.tflite").read_bytes(), contract
    )
    keras = weak.model(inputs, training=False).numpy().argmax(axis=1)
    differ = np.flatnonzero(runner.run(inputs).argmax(axis=1) != keras)
    # Where they differ, int8 is right nowhere, and Keras once.
    labels = keras.copy()
    labels[differ[1:]] = -1
    assert len(differ) >= 1

    rows = compare(
        _asked(weak)(inputs), tmp_path / "version", contract, inputs, labels, FORMATS
    )

    assert [row.passed for row in rows] == [True] * 4


def _wrong_labels(dataset: Dataset, trained: Trained, count: int) -> Dataset:
    """Return the dataset with `count` of the right answers made wrong ones."""
    inputs = dataset.test.inputs(dataset.contract)
    found = trained.model(inputs, training=False).numpy().argmax(axis=1)
    labels = dataset.test.labels.copy()
    right = np.flatnonzero(found == labels)[:count]
    labels[right] = (labels[right] + 1) % 10
    return replace(dataset, test=Split(dataset.test.pixels, labels))


def test_a_worse_version_is_refused(
    publish_to: Publish,
    good: Trained,
    weak: Trained,
    plain_digits: Dataset,
    tmp_path: Path,
) -> None:
    """A model worse than the version before it is published only if one insists.

    One that is worse in a single picture of a test set of 359 is published: that is
    chance. It can be served.
    """
    first = publish_to(good)

    with pytest.raises(GateFailed, match=r"version 1 .*--allow-regression") as caught:
        publish_to(weak)

    assert f"{first.accuracy('float32'):.2%}" in caught.value.message
    assert Repository(tmp_path).versions("mlp") == [1]
    second = publish_to(good, _wrong_labels(plain_digits, good, 1))
    assert second.version == 2
    assert publish_to(weak, terms=Terms(allow_regression=True)).version == 3
    for name in FORMATS:
        load_version(second, name)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (card, KeyboardInterrupt),
        (export, OSError),
    ],
    ids=["card", "golden pictures"],
)
def test_a_publish_that_dies_midway_leaves_nothing(
    step: Any,
    error: type[BaseException],
    publish_to: Publish,
    weak: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever ends a publication, no version appears and no files stay."""

    def die(*_: object) -> None:
        raise error

    monkeypatch.setattr(step, "write_card" if step is card else "write_golden", die)

    with pytest.raises(error):
        publish_to(weak)

    _check_nothing(tmp_path)


_KILLED = """
import os, pathlib, sys
from inkling.model.repository import Repository
with Repository(sys.argv[1]).publishing("mlp") as publication:
    (publication.path / "saved_model.pb").write_bytes(b"half")
    os.kill(os.getpid(), 9)
"""


def test_a_killed_publisher_leaves_no_version(tmp_path: Path) -> None:
    """A killed publisher leaves no version, and its staging is removed an hour later."""
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    repository = Repository(tmp_path)
    [left] = (tmp_path / "mlp").iterdir()

    assert done.returncode == -signal.SIGKILL
    assert repository.versions("mlp") == []
    assert not left.name[0].isdigit()

    an_hour_ago = time.time() - 3700
    os.utime(left, (an_hour_ago, an_hour_ago))
    with repository.publishing("mlp"):
        pass
    assert not left.exists()


@dataclass(frozen=True)
class _Ran:
    """The result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., _Ran]:
    """Run `inkling train` in this process on the digits: `run("mlp", ...)`."""
    where = [
        "--models-dir",
        str(tmp_path / "models"),
        "--runs-dir",
        str(tmp_path / "r"),
    ]

    def ran(*arguments: str) -> _Ran:
        try:
            code = main(["train", *arguments, "--dataset", "digits", *where])
        except SystemExit as done:  # argparse's way out
            code = int(str(done.code))
        return _Ran(code, *capsys.readouterr())

    return ran


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mlp", "cnn", "--name", "both"], "--name"),
        (["mlp", "--name", "No Good"], "model name"),
        (["mlp", "--name", "../up"], "model name"),
        (["mlp", "--name", ""], "model name"),
        (["mlp", "--epochs", "0"], "epochs"),
        (["mlp", "--epochs", "-1"], "epochs"),
        (["mlp", "--epochs", "many"], "epochs"),
        (["mlp", "--learning-rate", "0"], "learning-rate"),
        (["mlp", "--learning-rate", "-0.1"], "learning-rate"),
        (["mlp", "--learning-rate", "nan"], "learning-rate"),
        (["mlp", "--seed", "-1"], "seed"),
        (["mlp", "--seed", "3000000000"], "seed"),
        (["resnet"], "mlp"),
        ([], "models"),
    ],
    ids=str,
)
def test_wrong_arguments(
    arguments: list[str],
    words: str,
    run: Callable[..., _Ran],
    tmp_path: Path,
) -> None:
    """A wrong argument is named at once; nothing is trained first."""
    short = ["--epochs", "1"] if "--epochs" not in arguments else ["--recipe", "quick"]
    done = run(*arguments, *short)

    assert done.code in (1, 2)
    assert words in done.err
    assert "  epoch" not in done.out
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("option", ["--models-dir", "--runs-dir"])
def test_folders_that_cannot_be_written(
    option: str, run: Callable[..., _Ran], tmp_path: Path
) -> None:
    """A folder that cannot be written to is named before anything is trained."""
    (tmp_path / ("models" if option == "--models-dir" else "r")).write_text("a file")

    done = run("mlp", "--epochs", "1")

    assert done.code == 1
    assert str(tmp_path) in done.err
    assert "  epoch" not in done.out


def test_help(run: Callable[..., _Ran]) -> None:
    """The help explains every option, and prints no empty default."""
    text = run("--help").out

    options = ("--dataset", "--data-dir", "--name", "--recipe", "--epochs", "--seed")
    options += ("--learning-rate", "--runs-dir", "--resume", "--allow-regression")
    assert [option for option in options if option not in text] == []
    assert "(default: None)" not in text
    assert "(default: False)" not in text
