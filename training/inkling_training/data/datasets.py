# SPDX-License-Identifier: Apache-2.0
"""The named datasets: their sources, their splits and their contracts."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from inkling.contract import Contract, TrainingData
from inkling.image.decoding import Decoded
from inkling.image.preprocess import decoded_to_pixels, picture_of, pixels_to_input
from inkling_training.data.stored import InputsOf, StoredPixels, inputs_of
from inkling_training.errors import DatasetNotFound, DatasetUnavailable

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[Any]]

__all__ = ["DATASETS", "Dataset", "Split", "load"]

# The exceptions that NumPy and zipfile raise on a damaged, truncated or wrong file.
_FILE_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    zlib.error,
)
_KEYS = ("x_train", "y_train", "x_test", "y_test")
# The share of the training pictures that is used only to choose the best epoch.
_VALIDATION_SHARE = 1 / 12
_DIGITS_TEST_SHARE = 1 / 5


@dataclass(frozen=True)
class Split:
    """Pictures with their labels.

    Attributes:
        pixels: Shape (n, rows, columns) or (n, rows, columns, 3), uint8, 0 to 255.
        labels: Shape (n,), int64, indices of the contract's labels.
        is_prepared: True if the pixels are model inputs that are not scaled yet, grey
            or RGB.
    """

    pixels: npt.NDArray[np.uint8] | StoredPixels
    labels: npt.NDArray[np.int64]
    is_prepared: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Split:
        """Return the first `count` pictures."""
        return replace(self, pixels=self.pixels[:count], labels=self.labels[:count])

    def inputs(self, contract: Contract) -> npt.NDArray[np.float32]:
        """Return the model inputs, shape (n, height, width, channels), float32.

        `inkling.image.preprocess` prepares each picture, as it does for a served one:
        a picture that is not framed like a sample is framed.
        """
        if self.is_prepared:
            return inputs_of(np.asarray(self.pixels), contract)
        inputs = np.empty((len(self), *contract.input_shape), np.float32)
        for place, picture in enumerate(self.pixels):
            inputs[place] = pixels_to_input(picture, contract)
        return inputs

    def prepared(self, contract: Contract) -> Split:
        """Return the same pictures with prepared pixels; see `is_prepared`."""
        if self.is_prepared:
            return self
        in_rgb = replace(contract, channel_order="rgb")
        pixels = np.empty((len(self), *contract.input_shape), np.uint8)
        for place, picture in enumerate(self.pixels):
            decoded = Decoded(picture_of(picture), 1, "")
            pixels[place] = decoded_to_pixels(decoded, in_rgb)
        return Split(pixels, self.labels, is_prepared=True)

    def inputs_in_parts(self, contract: Contract) -> InputsOf:
        """Return what `inputs` returns, made a slice at a time."""
        return InputsOf(self.prepared(contract).pixels, contract)


@dataclass(frozen=True)
class Dataset:
    """A dataset in three splits, with the contract of its models.

    Attributes:
        name: The name of the dataset.
        train: The pictures to train on.
        validation: The pictures that choose the best epoch and the softmax temperature.
        test: The pictures that the model card reports on.
        contract: The contract of a model that is trained on it.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    contract: Contract


@dataclass(frozen=True)
class _Description:
    """The description of a dataset, without its pictures.

    Attributes:
        labels: The names of the classes, in the order of their numbers.
        contract: The fields of the contract that differ from its defaults.
        files: The file names that the dataset may have in `--data-dir`.
        keras: The name of the dataset in `keras.datasets`, which looks into Keras's
            cache and then downloads; None if Keras does not have it.
    """

    labels: tuple[str, ...]
    contract: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    keras: str | None = None


_DIGITS = tuple("0123456789")
_DIGIT_CONTRACT = MappingProxyType(
    {
        "height": 28,
        "width": 28,
        "channels": 1,
        "kind": "photo_of_one_object",
        "finder": "ink-3",
        "grey": "contrast",
    }
)

DATASETS: Mapping[str, _Description] = MappingProxyType(
    {
        "mnist": _Description(_DIGITS, _DIGIT_CONTRACT, ("mnist.npz",), "mnist"),
        "digits": _Description(_DIGITS, _DIGIT_CONTRACT),
        "fashion_mnist": _Description(
            labels=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            contract={
                "height": 28,
                "width": 28,
                "channels": 1,
                "kind": "sample",
                "grey": "contrast",
                "centring": "none",
            },
            files=("fashion_mnist.npz", "fashion-mnist.npz"),
            keras="fashion_mnist",
        ),
        "cifar10": _Description(
            labels=(
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
            contract={
                "height": 32,
                "width": 32,
                "channels": 3,
                "kind": "sample",
                "polarity": "as_is",
                "alpha": "white",
                "centring": "none",
            },
            files=("cifar10.npz", "cifar10_subset.npz"),
            keras="cifar10",
        ),
    }
)


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Return a dataset from `data_dir`, Keras's cache or a download, in this order.

    The dataset `digits` comes with scikit-learn and needs none of these.

    Args:
        name: A key of `DATASETS`.
        data_dir: A folder with .npz files, or None.

    Raises:
        DatasetNotFound: None of the sources has the dataset.
        DatasetUnavailable: The folder does not exist, or the file is not usable.
    """
    description = DATASETS[name]
    arrays = _digits() if name == "digits" else _arrays(name, description, data_dir)
    contract = Contract(
        labels=description.labels,
        training_data=TrainingData(name, _digest(arrays)),
        **description.contract,
    )
    _check(name, arrays, contract)
    cut = len(arrays["x_train"]) - round(len(arrays["x_train"]) * _VALIDATION_SHARE)
    train_x, train_y = arrays["x_train"], arrays["y_train"]
    return Dataset(
        name,
        train=Split(train_x[:cut], train_y[:cut]),
        validation=Split(train_x[cut:], train_y[cut:]),
        test=Split(arrays["x_test"], arrays["y_test"]),
        contract=contract,
    )


def _arrays(name: str, description: _Description, data_dir: Path | None) -> Arrays:
    if data_dir is not None:
        if not data_dir.is_dir():
            raise DatasetUnavailable(
                f"The folder {data_dir} does not exist; give an existing folder with "
                "--data-dir."
            )
        for file in description.files:
            if (data_dir / file).is_file():
                return _from_file(data_dir / file)
    return _from_keras(name, description, data_dir)


def _from_file(path: Path) -> Arrays:
    try:
        # The context manager closes the file; NumPy leaves a foreign file open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return _tidy({key: file[key] for key in _KEYS})
    except _FILE_ERRORS:
        raise DatasetUnavailable(
            f"{path} is not a readable .npz file with the arrays {', '.join(_KEYS)}, "
            "or is truncated. Download it again."
        ) from None


def _from_keras(name: str, description: _Description, data_dir: Path | None) -> Arrays:
    import keras  # noqa: PLC0415 - takes seconds; most commands do not need it

    loader: Callable[[], Any] = getattr(
        keras.datasets, str(description.keras)
    ).load_data
    try:
        (x_train, y_train), (x_test, y_test) = loader()
    except Exception:  # noqa: BLE001 - keras raises a bare Exception when offline
        looked = f"{data_dir} does not hold {' or '.join(description.files)}"
        raise DatasetNotFound(
            f"The dataset {name} was not found: "
            f"{looked if data_dir else 'no --data-dir was given'}; Keras's cache "
            "(~/.keras/datasets) does not hold the file that Keras expects; and it "
            f"could not be downloaded. Put {description.files[0]} into a folder and "
            "give the folder with --data-dir, or train on the bundled dataset: "
            "--dataset digits"
        ) from None
    arrays = dict(zip(_KEYS, (x_train, y_train, x_test, y_test), strict=True))
    return _tidy(arrays)


def _tidy(arrays: dict[str, npt.NDArray[Any]]) -> Arrays:
    for key in ("y_train", "y_test"):
        if arrays[key].dtype.kind in "iu":  # `_check` refuses others
            arrays[key] = arrays[key].reshape(-1).astype(np.int64)
    return arrays


def _digits() -> Arrays:
    """Return scikit-learn's 1,797 digits, in the size and the place of MNIST's.

    The originals have 8 x 8 pixels and 17 grey levels; MNIST's digits fill a box of
    20 x 20 inside 28 x 28 pixels, and their centre of mass is at the centre.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow to import

    small = load_digits()
    pixels = np.stack([_enlarged(picture) for picture in small.images])
    labels = small.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    cut = len(labels) - round(len(labels) * _DIGITS_TEST_SHARE)
    train, test = order[:cut], order[cut:]
    return {
        "x_train": pixels[train],
        "y_train": labels[train],
        "x_test": pixels[test],
        "y_test": labels[test],
    }


def _enlarged(picture: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    grey = Image.fromarray((picture * (255 / 16)).astype(np.uint8))
    large = grey.resize((20, 20), Image.Resampling.BICUBIC)
    ink = np.asarray(large, np.float64)
    place = np.arange(20)
    across, down = ink.sum(axis=0) @ place, ink.sum(axis=1) @ place
    corner = (round(14 - across / ink.sum()), round(14 - down / ink.sum()))
    canvas = Image.new("L", (28, 28))
    canvas.paste(large, corner)
    return np.asarray(canvas)


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for key in _KEYS:
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return "sha256:" + digest.hexdigest()


def _check(name: str, arrays: Arrays, contract: Contract) -> None:
    """Check, before a long training, that the arrays fit the contract."""
    shape = contract.input_shape
    wanted = shape if contract.channels > 1 else shape[:2]
    for part in ("train", "test"):
        pixels, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != wanted or not len(pixels):
            raise DatasetUnavailable(
                f"The {part} pictures of {name} are {pixels.dtype} of shape "
                f"{pixels.shape}; expected uint8 of shape (n, "
                f"{', '.join(map(str, wanted))})."
            )
        whole = labels.dtype == np.int64 and len(labels) == len(pixels)
        if not whole or labels.min() < 0 or labels.max() >= len(contract.labels):
            raise DatasetUnavailable(
                f"The {part} labels of {name} are {labels.dtype} of shape "
                f"{labels.shape}; expected {len(pixels)} integers from 0 to "
                f"{len(contract.labels) - 1}."
            )
