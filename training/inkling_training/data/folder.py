# SPDX-License-Identifier: Apache-2.0
"""Loads a folder of labelled pictures as a dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import Progress

from inkling.contract import Contract, TrainingData
from inkling.errors import InklingError
from inkling.image.budget import Budget
from inkling.image.decoding import decode
from inkling.image.preprocess import decoded_to_pixels
from inkling_training.data.datasets import Dataset, Split
from inkling_training.data.layout import Found, Layout, layout_of
from inkling_training.data.stored import Store, StoredPixels
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
# Pictures that are decoded at once, in as many threads as there are cores.
_READ_AT_ONCE = 64
# MNIST's digits fill a box of 20 x 20 in 28 x 28 pixels.
_BOX_SHARE = 20 / 28


@dataclass(frozen=True)
class _Read:
    """A file that was read: its picture, or the reason why it is none.

    Attributes:
        digest: The SHA-256 of its bytes.
        pixels: The pixels of the model input; uint8, shape (size, size, channels).
        reason: Why it cannot be used; empty if it can.
    """

    digest: bytes = b""
    pixels: Pixels | None = None
    reason: str = ""


@dataclass
class _Pictures:
    """The pictures of one label, without duplicates.

    Attributes:
        label: The index of the label.
        places: The place of each picture in the store, by the SHA-256 of its file.
        splits: The split of each of them; empty where the folder does not say.
        num_copies: The number of files with the same bytes as another.
        skipped: The path of each unusable file, and the reason.
    """

    label: int
    places: dict[bytes, int] = field(default_factory=dict)
    splits: dict[bytes, str] = field(default_factory=dict)
    num_copies: int = 0
    skipped: list[str] = field(default_factory=list)

    def add(self, found: Found, read: _Read, store: Store) -> None:
        """Take in a file."""
        if read.pixels is None:
            self.skipped.append(f"{found.path} ({read.reason})")
        elif read.digest in self.places:
            self.num_copies += 1
        else:
            self.splits[read.digest] = found.split
            self.places[read.digest] = store.add(read.pixels)

    def in_split(self, split: str) -> list[bytes]:
        """Return the hashes of the pictures that the folder puts into a split."""
        return sorted(one for one, known in self.splits.items() if known == split)


def load_folder(
    folder: Path | None,
    *,
    size: int,
    ink: bool,
    colour: bool = False,
    disk: Path | None = None,
) -> Dataset:
    """Return the pictures of a folder as a dataset.

    Where the folder does not state the splits, the hash of a file's bytes decides. So a
    copy of a training picture is never in the test set, and the file's name does not
    matter.

    Args:
        folder: One of the forms of `inkling_training.data.layout`, with pictures in
            formats that Inkling reads.
        size: Side of the model input, in pixels.
        ink: True if each picture shows one object written on paper, which is found and
            framed as digits are. Otherwise the whole picture is scaled, with its
            proportions.
        colour: True if the model takes colour even where all pictures are grey.
        disk: The folder whose disk holds the prepared pictures, in a file without a
            name; None for temporary files'.

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
    try:
        layout = layout_of(folder)
    except OSError as error:
        raise DatasetUnavailable(
            f"{error.filename or folder} cannot be read; change its permissions."
        ) from None
    contract = _contract(folder, layout.labels, size, ink)
    found = {label: _Pictures(place) for place, label in enumerate(layout.labels)}
    store = Store(disk, contract.input_shape)
    for file, read in _read_all(layout.files, contract):
        found[file.label].add(file, read, store)
    _report(layout, list(found.values()))
    for label, pictures in found.items():
        _check_count(folder, label, pictures)
    is_grey = store.are_grey and not (colour and not ink)
    return _dataset(list(found.values()), contract, store, is_grey=is_grey)


def _read_all(
    files: Sequence[Found], contract: Contract
) -> Iterator[tuple[Found, _Read]]:
    """Yield each file with its picture, in order; show the progress in a terminal."""
    console = Console(highlight=False)
    progress = Progress(
        console=console, transient=True, disable=not console.is_terminal
    )
    with progress as bar, ThreadPoolExecutor() as pool:
        task = bar.add_task("  reading pictures", total=len(files))
        for start in range(0, len(files), _READ_AT_ONCE):
            part = files[start : start + _READ_AT_ONCE]
            read = pool.map(lambda found: _read(found.path, contract), part)
            yield from zip(part, read, strict=True)
            bar.advance(task, len(part))


def _read(path: Path, contract: Contract) -> _Read:
    """Prepare a file, with the same code that prepares served pictures."""
    try:
        if not path.is_file():
            raise FileNotFoundError
        image = path.read_bytes()
        budget = Budget()
        decoded = decode(image, contract.min_side, budget)
        pixels = decoded_to_pixels(decoded, contract, budget).astype(np.uint8)
    except OSError:
        return _Read(reason=_why(path))
    except InklingError as error:
        return _Read(reason=error.message)
    return _Read(hashlib.sha256(image).digest(), pixels)


def _why(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return "is a link to a file that is not there"
    if not path.exists():
        return "is not there"
    return "cannot be read"


def _contract(folder: Path, names: tuple[str, ...], size: int, ink: bool) -> Contract:
    # The name of a folder need not be Unicode text.
    name = folder.resolve().name.encode(errors="backslashreplace").decode()
    data = TrainingData(name, "sha256:")
    if ink:
        return Contract(
            height=size,
            width=size,
            channels=1,
            labels=names,
            kind="photo_of_one_object",
            finder="ink-3",
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


def _report(layout: Layout, found: Sequence[_Pictures]) -> None:
    """Print which files were left out, and why."""
    for note in layout.notes:
        print(note, flush=True)
    skipped = [reason for pictures in found for reason in pictures.skipped]
    for reason in skipped[:_NAMED]:
        print(f"Skipped {reason}", flush=True)
    if len(skipped) > _NAMED:
        print(f"Skipped {len(skipped)} files in all.", flush=True)
    copies = sum(pictures.num_copies for pictures in found)
    if copies:
        print(f"Left out copies of other pictures: {copies}.", flush=True)
    _report_contradictions(layout, found)


def _report_contradictions(layout: Layout, found: Sequence[_Pictures]) -> None:
    """Print how many pictures lie under two labels, of which one must be wrong."""
    seen: dict[bytes, int] = {}
    twice = []
    for pictures in found:
        for digest in pictures.places:
            if digest in seen:
                twice.append((seen[digest], pictures.label))
            seen.setdefault(digest, pictures.label)
    if twice:
        first, second = (layout.labels[label] for label in twice[0])
        print(
            f"Pictures that lie under two labels: {len(twice)}, the first under "
            f"{first} and {second}. Take each out of the wrong one.",
            flush=True,
        )


def _check_count(folder: Path, label: str, pictures: _Pictures) -> None:
    count = len(pictures.places) - len(pictures.in_split("test"))
    if count < _LEAST_PICTURES:
        raise DatasetUnavailable(
            f"{label} has {count} different pictures that can be decoded, in {folder}; "
            f"expected at least {_LEAST_PICTURES} of each label. Add pictures, or take "
            "the label away."
        )


def _hashes(found: Sequence[_Pictures], place: int) -> tuple[list[bytes], ...]:
    """Return the hashes of a label's pictures in the test, validation and train split.

    A split that the folder has not is cut from the training pictures.
    """
    pictures = found[place]
    test, validation, train = map(pictures.in_split, ("test", "validation", "train"))
    rest = sorted([*pictures.in_split(""), *train])
    total = len(rest)
    if not any(other.in_split("test") for other in found):
        count = round(total * _TEST_SHARE)
        test, rest = rest[:count], rest[count:]
    if not any(other.in_split("validation") for other in found):
        count = max(1, round(total * _VALIDATION_SHARE))
        validation, rest = rest[:count], rest[count:]
    return test, validation, rest


def _dataset(
    found: Sequence[_Pictures], contract: Contract, store: Store, *, is_grey: bool
) -> Dataset:
    splits: list[list[tuple[bytes, int, int]]] = [[], [], []]
    for place, pictures in enumerate(found):
        for split, hashes in zip(splits, _hashes(found, place), strict=True):
            split += [(one, pictures.places[one], pictures.label) for one in hashes]
    digest = hashlib.sha256()
    for split in splits:
        # The order by hash mixes the labels.
        split.sort(key=lambda picture: (picture[0], picture[2]))
        for name, _, label in split:
            digest.update(name + bytes([label % 256]))
    data = replace(contract.training_data, digest=f"sha256:{digest.hexdigest()}")
    test, validation, train = (
        Split(
            StoredPixels(
                store, np.array([at for _, at, _ in split], np.int64), is_grey=is_grey
            ),
            np.array([label for _, _, label in split], np.int64),
            is_prepared=True,
        )
        for split in splits
    )
    # In a grey picture all channels are equal, so preparing it with one channel would
    # give the same pixels.
    contract = replace(
        contract,
        channels=1 if is_grey else 3,
        grey="contrast" if is_grey else "luminance",
        training_data=data,
    )
    return Dataset(data.name, train, validation, test, contract)
