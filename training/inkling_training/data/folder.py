"""Loads a folder of pictures, with one subfolder for each label, as a dataset."""

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

# Shares of each label's pictures; the model trains on the rest.
_TEST_SHARE = 0.15
_VALIDATION_SHARE = 0.10
# With fewer pictures of a label, the test and validation splits have one picture each.
_LEAST_PICTURES = 10
_NAMED = 3
# MNIST's digits fill a box of 20 x 20 in 28 x 28 pixels.
_BOX_SHARE = 20 / 28


@dataclass
class _Pictures:
    """The pictures of one label, without duplicates.

    Attributes:
        label: The index of the label.
        prepared: The pixels of the model input by the SHA-256 of the file; uint8,
            shape (size, size, channels).
        num_copies: The number of files with the same bytes as another.
        skipped: The path of each unusable file, and the reason.
    """

    label: int
    prepared: dict[bytes, Pixels] = field(default_factory=dict)
    num_copies: int = 0
    skipped: list[str] = field(default_factory=list)

    def add(self, path: Path, contract: Contract) -> None:
        """Prepare a file, with the same code that prepares served pictures."""
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
    """Return the pictures of a folder as a dataset.

    The hash of a file's bytes decides on its split. So a copy of a training picture is
    never in the test set, and the file's name does not matter.

    Args:
        folder: A folder with one subfolder of PNG and JPEG files for each label.
        size: Side of the model input, in pixels.
        ink: True if each picture shows one object written on paper, which is found and
            framed as digits are. Otherwise the whole picture is scaled, with its
            proportions.

    Raises:
        DatasetUnavailable: The folder does not exist, it has fewer than two labels, or
            a label has too few pictures.
    """
    if folder is None or not folder.is_dir():
        raise DatasetUnavailable(
            f"{folder} is not a folder; give the pictures' folder with --data-dir."
            if folder
            else "--dataset folder needs the folder of the pictures: --data-dir."
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
            f"{folder} has {has}; expected one subfolder of pictures for each of at "
            f"least two labels, such as {folder / 'cat'} and {folder / 'dog'}."
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
            finder="ink-2",
            grey="contrast",
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
    """Print which files were left out, and why."""
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
        # The order by hash mixes the labels.
        split.sort(key=lambda picture: (picture[0], picture[2]))
        for name, _, label in split:
            digest.update(name + bytes([label % 256]))
    data = replace(contract.training_data, digest=f"sha256:{digest.hexdigest()}")
    test, validation, train = (
        Split(
            np.stack([pixels[..., 0] if grey else pixels for _, pixels, _ in split]),
            np.array([label for _, _, label in split], np.int64),
            is_prepared=True,
        )
        for split in splits
    )
    contract = replace(
        contract,
        channels=1 if grey else 3,
        grey="contrast" if grey else "luminance",
        training_data=data,
    )
    return Dataset(data.name, train, validation, test, contract)


def _is_grey(pictures: _Pictures) -> bool:
    """Return whether all pictures are grey.

    In a grey picture all channels are equal, so preparing it with one channel would
    give the same pixels.
    """
    return all(
        (pixels == pixels[..., :1]).all() for pixels in pictures.prepared.values()
    )
