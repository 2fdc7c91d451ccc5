# SPDX-License-Identifier: Apache-2.0
import gzip
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inkling.cli.main import main
from inkling.contract import Contract
from inkling.image.sample import is_framed
from inkling.model.repository import Repository
from inkling_training.data import datasets
from inkling_training.data.datasets import DATASETS, Split
from inkling_training.errors import DatasetUnavailable
from tests.support.published import OFFLINE

Arrays = dict[str, np.ndarray]
Write = Callable[..., Path]

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def _arrays(
    shape: tuple[int, ...] = (28, 28), train: int = 48, test: int = 12
) -> Arrays:
    """Return pictures of noise, all different, with labels from 0 to 9 in turn."""
    rng = np.random.default_rng(1)
    return {
        "x_train": rng.integers(0, 256, (train, *shape), np.uint8),
        "y_train": (np.arange(train) % 10).astype(np.uint8),
        "x_test": rng.integers(0, 256, (test, *shape), np.uint8),
        "y_test": (np.arange(test) % 10).astype(np.uint8),
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a data directory: `write(file, **changes)`; None leaves an array out."""

    def written(file: str = "mnist.npz", **changes: np.ndarray | None) -> Path:
        shape = (32, 32, 3) if "cifar" in file else (28, 28)
        arrays = {**_arrays(shape), **changes}
        kept = {key: value for key, value in arrays.items() if value is not None}
        np.savez(tmp_path / file, **kept)
        return tmp_path

    return written


def _python(code: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose home is `home`, and which reaches no network."""
    environ = {
        **{
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("INKLING_", "KERAS"))
        },
        "HOME": str(home),
        **OFFLINE,
    }
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


_LOAD = """
import sys
from pathlib import Path
from inkling_training.data import datasets
from inkling_training.errors import DatasetUnavailable
from tests.support.published import OFFLINE
for each in sys.argv[1:]:
    name, _, folder = each.partition("=")
    try:
        found = datasets.load(name, Path(folder) if folder else None)
    except DatasetUnavailable as error:
        print(error.message)
    else:
        print(found.test.pixels[0].max(), len(found.test), found.name)
"""


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The results of loading from a data directory, from Keras's cache, and from nowhere.

    One process answers all, because each would import TensorFlow.
    """
    home = tmp_path_factory.mktemp("home")
    full, empty = tmp_path_factory.mktemp("full"), tmp_path_factory.mktemp("empty")
    _fill_cache(home / ".keras" / "datasets" / "fashion-mnist", ink=7)
    arrays = {**_arrays(), "x_test": np.full((12, 28, 28), 9, np.uint8)}
    np.savez(full / "fashion_mnist.npz", **arrays)
    asked = {
        "in both": f"fashion_mnist={full}",
        "in the cache": f"fashion_mnist={empty}",
        "no data directory": "fashion_mnist=",
        "nowhere": f"mnist={empty}",
        "nowhere, not told": "mnist=",
    }
    done = _python(_LOAD, home, *asked.values())
    lines = [
        line for line in done.stdout.splitlines() if not line.startswith("Downloading")
    ]
    assert len(asked) == len(lines), done.stdout + done.stderr
    return {**dict(zip(asked, lines, strict=True)), "empty": str(empty)}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("in both", "9 12 fashion_mnist"),
        ("in the cache", "7 5 fashion_mnist"),
        ("no data directory", "7 5 fashion_mnist"),
    ],
)
def test_source_order(case: str, expected: str, looked: dict[str, str]) -> None:
    """A file in the data directory goes before Keras's cache."""
    assert expected == looked[case]


@pytest.mark.parametrize("case", ["nowhere", "nowhere, not told"])
def test_offline_names_every_source_and_the_ways_on(
    case: str, looked: dict[str, str]
) -> None:
    """Without any source the error names the places that were searched, and a remedy."""
    folder = f"{looked['empty']} does not hold mnist.npz"
    words = folder if case == "nowhere" else "no --data-dir was given"
    words = [words, "~/.keras/datasets", "downloaded", "Put mnist.npz into a folder"]

    missing = [w for w in [*words, "--dataset digits"] if w not in looked[case]]

    assert missing == []


def _fill_cache(folder: Path, ink: int) -> None:
    """Write Fashion-MNIST as Keras keeps it: four files, gzip over IDX."""
    folder.mkdir(parents=True)
    for part, count in (("train", 24), ("t10k", 5)):
        labels, pixels = bytes(8 + count), bytes(16) + bytes([ink]) * (count * 28 * 28)
        for file, content in (("labels-idx1", labels), ("images-idx3", pixels)):
            with gzip.open(folder / f"{part}-{file}-ubyte.gz", "wb") as target:
                target.write(content)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("mnist.npz", "mnist"),
        ("fashion_mnist.npz", "fashion_mnist"),
        ("fashion-mnist.npz", "fashion_mnist"),
        ("cifar10.npz", "cifar10"),
        ("cifar10_subset.npz", "cifar10"),
    ],
)
def test_files_of_the_data_directory(file: str, name: str, write: Write) -> None:
    """A dataset is found under each of its file names, and keeps its name."""
    found = datasets.load(name, write(file))

    assert name == found.name
    assert name == found.contract.training_data.name
    assert (len(found.train) + len(found.validation), len(found.test)) == (48, 12)


@pytest.mark.parametrize("key", _KEYS)
def test_missing_arrays_are_refused(key: str, write: Write) -> None:
    """A file without one of the four arrays is refused, with what it needs."""
    folder = write(**{key: None})

    with pytest.raises(DatasetUnavailable, match=r"mnist\.npz.*x_train.*y_test"):
        datasets.load("mnist", folder)


_OBJECTS = np.array([{"a": 1}] * 48, dtype=object)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((48, 28, 28), np.float32)}, "train pictures.*float32"),
        ({"x_test": np.zeros((12, 28, 28), np.int64)}, "test pictures.*int64"),
        ({"x_train": np.zeros((48, 32, 32), np.uint8)}, r"\(48, 32, 32\)"),
        ({"x_train": np.zeros((48, 784), np.uint8)}, r"expected uint8.*28, 28"),
        ({"x_test": np.zeros((12, 28, 28, 3), np.uint8)}, "test pictures"),
        ({"x_test": np.zeros(12, np.uint8)}, "test pictures"),
        ({"y_train": np.full(48, 10)}, "train labels.*48 integers from 0 to 9"),
        ({"y_train": np.full(48, -1)}, "train labels"),
        ({"y_test": np.arange(11) % 10}, "test labels.*12 integers"),
        ({"y_test": np.eye(10)[np.arange(12) % 10]}, "test labels"),
        ({"y_test": np.full(12, 0.5)}, "test labels"),
        ({"y_test": np.full(12, np.nan)}, "test labels"),
        ({"y_train": np.array(["three"] * 48)}, "mnist"),
        ({"y_train": np.uint8(3)}, "labels"),
        ({"y_train": _OBJECTS}, "not a readable"),
        ({"x_train": np.zeros((0, 28, 28), np.uint8), "y_train": np.zeros(0)}, "train"),
        ({"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0)}, "test"),
    ],
    ids=[
        "float pictures",
        "int64 pictures",
        "size",
        "flat",
        "colour",
        "no pictures",
        "label 10",
        "label -1",
        "labels missing",
        "one-hot",
        "halves",
        "NaN",
        "words",
        "one label",
        "objects",
        "nothing to train on",
        "nothing to test on",
    ],
)
def test_wrong_arrays_are_refused(changes: Arrays, words: str, write: Write) -> None:
    """Whatever does not fit the contract is refused before anything is trained."""
    with pytest.raises(DatasetUnavailable, match=words):
        datasets.load("mnist", write(**changes))


class _Trap:
    """Leaves a mark on the disk if it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (os.mkdir, (str(self._mark),))


def test_pickles_are_not_loaded(write: Write, tmp_path: Path) -> None:
    """A file with pickled objects is refused, and none of its code is run."""
    mark = tmp_path / "mark"
    trap = np.empty(48, object)
    trap[:] = [_Trap(mark)] * 48

    with pytest.raises(DatasetUnavailable):
        datasets.load("mnist", write(y_train=trap))

    assert not mark.exists()


@pytest.mark.parametrize("kind", ["empty", "text", "npy", "cut", "damaged"])
@pytest.mark.filterwarnings(
    # NumPy leaves the file of a damaged archive to the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_broken_files_are_refused(kind: str, write: Write, tmp_path: Path) -> None:
    """A file that is no .npz, or a half downloaded one, is named in the refusal."""
    path = write() / "mnist.npz"
    whole = path.read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    contents = {
        "empty": b"",
        "text": b"<html>404</html>",
        "npy": array.getvalue(),
        "cut": whole[: len(whole) // 2],
        "damaged": whole[:2000] + bytes(400) + whole[2400:],
    }
    path.write_bytes(contents[kind])

    with pytest.raises(DatasetUnavailable, match=r"mnist\.npz is not a readable"):
        datasets.load("mnist", tmp_path)


def test_splits_do_not_overlap(write: Write) -> None:
    """Training and validation share the training pictures; the test set is whole."""
    arrays = _arrays()

    found = datasets.load("mnist", write())

    parts = np.concatenate([found.train.pixels, found.validation.pixels])
    labels = np.concatenate([found.train.labels, found.validation.labels])
    assert np.array_equal(arrays["x_train"], parts)
    assert np.array_equal(arrays["y_train"], labels)
    assert np.array_equal(arrays["x_test"], found.test.pixels)
    assert np.array_equal(arrays["y_test"], found.test.labels)
    assert (len(found.train), len(found.validation)) == (44, 4)


def test_digits_are_bundled() -> None:
    """The digits need no file; no picture is in two splits, all ten are in each."""
    found = datasets.load("digits")

    splits = (found.train, found.validation, found.test)
    assert sum(len(split) for split in splits) == 1797
    names = [{picture.tobytes() for picture in split.pixels} for split in splits]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]
    assert [set(range(10))] * 3 == [set(split.labels.tolist()) for split in splits]


def test_digits_look_like_mnist() -> None:
    """The enlarged digits are framed as MNIST's are, light on dark."""
    found = datasets.load("digits")

    assert found.train.pixels.shape[1:] == (28, 28)
    assert np.uint8 == found.train.pixels.dtype
    assert all(is_framed(one[..., None], found.contract) for one in found.train.pixels)
    assert found.train.pixels.max() > 240


@pytest.mark.parametrize("part", ["x_train", "x_test"])
@pytest.mark.parametrize("place", [0, 5000, -1])
def test_digest_changes_with_any_pixel(part: str, place: int, write: Write) -> None:
    """The digest changes with any pixel of either part."""
    before = datasets.load("mnist", write()).contract.training_data.digest
    pixels = _arrays()[part]
    pixels.reshape(-1)[place] ^= 1

    after = datasets.load(
        "mnist", write(**{part: pixels})
    ).contract.training_data.digest

    assert before != after


def test_digest_changes_with_a_label(write: Write) -> None:
    """The digest changes with any label."""
    before = datasets.load("mnist", write()).contract.training_data.digest
    labels = _arrays()["y_train"]
    labels[0] += 1

    after = datasets.load("mnist", write(y_train=labels)).contract.training_data.digest

    assert before != after


def test_digest_is_of_the_values_alone(write: Write) -> None:
    """Order in memory, the labels' width and the file's packing do not change it."""
    before = datasets.load("mnist", write()).contract.training_data.digest
    arrays = _arrays()
    other = write(
        x_train=np.asfortranarray(arrays["x_train"]),
        y_train=arrays["y_train"].astype(np.int32)[:, np.newaxis],
    )

    assert before == datasets.load("mnist", other).contract.training_data.digest
    assert before.startswith("sha256:")


def test_digest_of_the_digits_stays() -> None:
    """The bundled digits are the same on every machine, so their contract is too."""
    first, second = datasets.load("digits"), datasets.load("digits")

    assert first.contract.hash == second.contract.hash
    assert np.array_equal(first.train.pixels, second.train.pixels)


@pytest.mark.parametrize(
    ("name", "file", "shape", "expected"),
    [
        ("mnist", "mnist.npz", (28, 28, 1), ("photo_of_one_object", "ink-3", "0")),
        (
            "fashion_mnist",
            "fashion_mnist.npz",
            (28, 28, 1),
            ("sample", "none", "T-shirt/top"),
        ),
        ("cifar10", "cifar10.npz", (32, 32, 3), ("sample", "none", "airplane")),
    ],
)
def test_contracts(
    name: str,
    file: str,
    shape: tuple[int, int, int],
    expected: tuple[str, str, str],
    write: Write,
) -> None:
    """Each dataset implies a whole contract that survives being written and read."""
    contract = datasets.load(name, write(file)).contract

    assert shape == contract.input_shape
    assert expected == (contract.kind, contract.finder, contract.labels[0])
    assert len(contract.labels) == 10
    assert contract == Contract.from_json(contract.json)


def test_digits_and_mnist_differ_only_in_their_data(write: Write) -> None:
    """A model of the bundled digits takes pictures exactly as one of MNIST does."""
    mnist, digits = datasets.load("mnist", write()), datasets.load("digits")

    contract = replace(digits.contract, training_data=mnist.contract.training_data)

    assert mnist.contract == contract


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "mnist.npz"),
        ("fashion_mnist", "fashion_mnist.npz"),
        ("cifar10", "cifar10.npz"),
    ],
)
@pytest.mark.parametrize("ink", [0, 255])
def test_training_pictures_are_not_changed(
    name: str, file: str, ink: int, write: Write
) -> None:
    """A training picture becomes a model input by scaling alone."""
    contract = datasets.load(name, write(file)).contract
    if contract.polarity == "auto" and ink:
        pytest.skip("a light border means dark on light, which people's pictures are")
    pixels = np.full((1, *contract.input_shape), ink, np.uint8)
    pixels[:, 4:24, 4:24] = 150
    shown = pixels if contract.channels > 1 else pixels[..., 0]

    inputs = Split(shown, np.zeros(1, np.int64)).inputs(contract)

    assert np.array_equal(pixels.astype(np.float32) * np.float32(1 / 255), inputs)


def test_every_dataset_is_offered(capsys: pytest.CaptureFixture[str]) -> None:
    """The command offers each dataset that can be loaded."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])

    text = capsys.readouterr().out
    assert [name for name in ("auto", *DATASETS) if name not in text] == []


def test_auto_takes_mnist_where_it_is(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`auto` trains on the MNIST of the data directory and does not say otherwise."""
    arrays = _arrays(train=300)
    folder = write(x_train=arrays["x_train"], y_train=arrays["y_train"])
    command = ["train", "mlp", "--data-dir", str(folder), "--epochs", "1"]
    command += ["--models-dir", str(tmp_path / "m"), "--runs-dir", str(tmp_path / "r")]

    # It is to begin only; at this rate its second step is its last.
    assert main([*command, "--learning-rate", "1e30"]) == 1

    text = capsys.readouterr().out
    assert "Training mlp on mnist: 275 pictures, 25 " in text
    assert "digits" not in text


@pytest.mark.parametrize(
    "words",
    [
        "does not hold mnist.npz",
        "uses the 1,797 digits",
        "Training mlp on digits",
        "Published mlp version 1",
    ],
)
def test_auto_falls_back_to_the_digits_and_says_so(words: str, published: Path) -> None:
    """Without MNIST, `auto` says why and that it goes on with the digits."""
    assert words in (published.parent / "train.out").read_text()


@pytest.mark.soak
def test_the_same_command_again_publishes_the_next_version(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resuming a run that is over publishes version 2, equal to version 1 bit for bit."""
    models, runs = tmp_path / "models", tmp_path / "runs"
    shutil.copytree(published / "mlp", models / "mlp")
    shutil.copytree(published.parent / "runs", runs)
    command = ["train", "mlp", "--dataset", "digits", "--recipe", "quick", "--resume"]
    command += ["--models-dir", str(models), "--runs-dir", str(runs)]

    assert main(command) == 0

    shown, repository = capsys.readouterr().out, Repository(models)
    assert "Training mlp on digits" in shown
    assert "the run continues after epoch 24" in shown
    assert "EXPORT" in shown
    assert "Published mlp version 2" in shown
    assert repository.models() == ["mlp"]
    assert repository.versions("mlp") == [2, 1]
    scores = []
    for version in (1, 2):
        path = repository.files("mlp", version).path / "golden.npz"
        with np.load(path, allow_pickle=False) as golden:
            scores.append(golden["scores"].tobytes())
    assert scores[0] == scores[1]


def test_nothing_is_written_to_stderr(published: Path) -> None:
    """A command that succeeds writes nothing to stderr, and neither do its libraries."""
    assert (published.parent / "train.err").read_text() == ""


def test_auto_does_not_hide_a_broken_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged MNIST file is an error; `auto` does not fall back to the digits then."""
    (tmp_path / "mnist.npz").write_bytes(b"<html>404</html>")
    command = ["train", "mlp", "--data-dir", str(tmp_path), "--epochs", "1"]
    command += ["--models-dir", str(tmp_path / "m"), "--runs-dir", str(tmp_path / "r")]

    assert main(command) == 1

    assert "mnist.npz is not a readable" in capsys.readouterr().err


def test_data_dir_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped --data-dir is named before anything is downloaded."""
    command = ["train", "mlp", "--dataset", "mnist", "--data-dir", "/no/such/folder"]
    command += ["--models-dir", str(tmp_path / "m"), "--runs-dir", str(tmp_path / "r")]

    assert main(command) == 1

    captured = capsys.readouterr()
    assert "/no/such/folder" in captured.err
    assert "Downloading" not in captured.out
