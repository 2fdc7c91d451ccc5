"""A folder of pictures as a dataset: one subfolder for each label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inkling.contract import Contract, TrainingData
from inkling.errors import InklingError
from inkling.image.preprocess import to_input
from inkling_training.data.datasets import Dataset, Split
from inkling_training.errors import DatasetUnavailable

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

__all__ = ["load_folder"]

# Of each label's pictures; the rest is trained on.
_TEST_SHARE = 0.15
_VALIDATION_SHARE = 0.10
# With fewer, chance alone would decide on a split.
_LEAST_PICTURES = 10
_NAMED = 3
# MNIST's digits fill a box of 20 in 28.
_BOX_SHARE = 20 / 28


@dataclass
class _Pictures:
    """The pictures of one label, each once.

    Attributes:
        label: Its place among the labels.
        prepared: The digest of a file -> its pixels as the model sees them, uint8,
            shape (size, size, channels).
        num_copies: Files with the very content of another.
        skipped: What is wrong with the files that cannot be used.
    """

    label: int
    prepared: dict[bytes, Pixels] = field(default_factory=dict)
    num_copies: int = 0
    skipped: list[str] = field(default_factory=list)

    def add(self, path: Path, contract: Contract) -> None:
        """Prepare a file once, by the code that prepares what is served."""
        try:
            image = path.read_bytes()
            inputs = to_input(image, contract)
        except OSError:
            self.skipped.append(f"{path} (cannot be read)")
        except InklingError as error:
            self.skipped.append(f"{path} ({error.message})")
        else:
            digest = hashlib.sha256(image).digest()
            self.num_copies += digest in self.prepared
            self.prepared[digest] = np.round(inputs / contract.scale).astype(np.uint8)


def load_folder(folder: Path | None, *, size: int, ink: bool) -> Dataset:
    """Return the pictures of a folder.

    The content of a picture decides on its split, so that no copy of a picture that
    was trained on is in the test set, and that its name does not matter.

    Args:
        folder: Has a subfolder for each label with PNG and JPEG files.
        size: Side of the model input in pixels.
        ink: Whether each shows one thing written on paper, to be found and framed as
            digits are; others are scaled as a whole, with their proportions.

    Raises:
        DatasetUnavailable: It has fewer than two labels, or too few pictures of one.
    """
    if folder is None or not folder.is_dir():
        raise DatasetUnavailable(
            f"There is no folder {folder or ''} with pictures; name it with --data-dir."
        )
    names = _label_names(folder)
    contract = _contract(folder, names, size, ink)
    found = []
    for label, name in enumerate(names):
        pictures = _Pictures(label)
        for path in sorted((folder / name).iterdir()):
            if path.is_file() and not path.name.startswith("."):
                pictures.add(path, contract)
        found.append(pictures)
    _report(found)
    for name, pictures in zip(names, found, strict=True):
        _check_count(folder / name, len(pictures.prepared))
    return _dataset(found, contract)


def _label_names(folder: Path) -> tuple[str, ...]:
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    )
    if len(names) < 2:
        has = f"only the subfolder {names[0]}" if names else "no subfolder"
        raise DatasetUnavailable(
            f"{folder} has {has}; expected one for each label, at least two, such as "
            f"{folder / 'cat'} and {folder / 'dog'} with the pictures inside."
        )
    return tuple(names)


def _contract(folder: Path, names: tuple[str, ...], size: int, ink: bool) -> Contract:
    data = TrainingData(folder.resolve().name, "sha256:")
    if ink:
        return Contract(
            height=size,
            width=size,
            channels=1,
            labels=names,
            kind="photo_of_one_object",
            finder="ink-1",
            box=round(size * _BOX_SHARE),
            training_data=data,
        )
    return Contract(
        height=size,
        width=size,
        channels=3,
        labels=names,
        kind="sample",
        polarity="as_is",
        alpha="white",
        centring="none",
        training_data=data,
    )


def _report(found: Sequence[_Pictures]) -> None:
    """Print what was left out, and why, by name."""
    skipped = [reason for pictures in found for reason in pictures.skipped]
    for reason in skipped[:_NAMED]:
        print(f"Skipped {reason}", flush=True)
    if len(skipped) > _NAMED:
        print(f"Skipped {len(skipped)} files in all.", flush=True)
    copies = sum(pictures.num_copies for pictures in found)
    if copies:
        print(f"Left out copies of other pictures: {copies}.", flush=True)


def _check_count(folder: Path, count: int) -> None:
    if count < _LEAST_PICTURES:
        raise DatasetUnavailable(
            f"{folder} has {count} different pictures that can be decoded; expected "
            f"at least {_LEAST_PICTURES} of each label."
        )


def _dataset(found: Sequence[_Pictures], contract: Contract) -> Dataset:
    grey = all(_is_grey(pictures) for pictures in found)
    splits: list[list[tuple[bytes, Pixels, int]]] = [[], [], []]
    for pictures in found:
        ordered = sorted(pictures.prepared)
        num_test = round(len(ordered) * _TEST_SHARE)
        num_kept = num_test + max(1, round(len(ordered) * _VALIDATION_SHARE))
        ends = (0, num_test, num_kept, len(ordered))
        for split, start, end in zip(splits, ends, ends[1:], strict=False):
            split += [
                (digest, pictures.prepared[digest], pictures.label)
                for digest in ordered[start:end]
            ]
    digest = hashlib.sha256()
    for split in splits:
        # By content again, which mixes the labels.
        split.sort(key=lambda picture: (picture[0], picture[2]))
        for name, _, label in split:
            digest.update(name + bytes([label % 256]))
    data = replace(contract.training_data, digest=f"sha256:{digest.hexdigest()}")
    test, validation, train = (
        Split(
            np.stack([pixels[..., 0] if grey else pixels for _, pixels, _ in split]),
            np.array([label for _, _, label in split], np.int64),
        )
        for split in splits
    )
    contract = replace(contract, channels=1 if grey else 3, training_data=data)
    return Dataset(data.name, train, validation, test, contract)


def _is_grey(pictures: _Pictures) -> bool:
    """Tell whether no picture has any colour.

    As each is of one grey then, preparing it in grey would give the same pixels.
    """
    return all(
        (pixels == pixels[..., :1]).all() for pixels in pictures.prepared.values()
    )
