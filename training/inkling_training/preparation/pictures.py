# SPDX-License-Identifier: Apache-2.0
"""The pictures with which a given model is tried: the caller's, or generated ones."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageDraw

from inkling.errors import InklingError, InvalidRequest
from inkling.image.budget import Budget
from inkling.image.decoding import decode
from inkling.image.formats.catalogue import EXPECTED, SUFFIXES
from inkling.image.preprocess import to_input
from inkling.labels import by_normal_form, normal_form
from inkling.model.litter import is_litter
from inkling_training.data.labelled_folder import find, tagged
from inkling_training.data.labels_csv import table_in
from inkling_training.data.layout import files_below

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract

__all__ = ["Pictures", "folder_labels", "generated", "read_pictures"]

# The places of a picture's labels; None if they are not known.
_Places = tuple[int, ...]

_MOST = 1000
_NAMED = 3
_GENERATED = 48
_GOLDEN = 12
# A golden picture is published with the model, so a large one is scaled down first.
_GOLDEN_BYTES, _GOLDEN_SIDE = 200_000, 640


@dataclass(frozen=True)
class Pictures:
    """Pictures as files, in a mixed order.

    Attributes:
        images: Files, encoded.
        labels: The place of each picture's label, shape (n,); or, if a picture may have
            several, whether it has each of them, shape (n, labels); None if they are
            not known.
        are_generated: True if nobody photographed them.
        digest: `sha256:` and the SHA-256 of all of them with their labels.
    """

    images: tuple[bytes, ...]
    labels: npt.NDArray[Any] | None
    are_generated: bool
    digest: str

    def inputs(self, contract: Contract, count: int) -> npt.NDArray[np.float32]:
        """Return the model inputs of the first pictures."""
        return np.stack([to_input(one, contract) for one in self.images[:count]])

    def batches(
        self, contract: Contract, size: int
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the model inputs of all pictures."""
        for start in range(0, len(self.images), size):
            part = self.images[start : start + size]
            yield np.stack([to_input(image, contract) for image in part])

    def golden(self) -> list[bytes]:
        """Return the pictures that are published with the model."""
        return [_small(image) for image in self.images[:_GOLDEN]]

    def only(self, wanted: npt.NDArray[np.bool_]) -> Pictures:
        """Return the pictures without those of the first ones that are not wanted."""
        rest = self.images[len(wanted) :]
        first = zip(self.images, wanted, strict=False)
        return replace(self, images=(*(one for one, is_ in first if is_), *rest))

    def first(self, count: int) -> Pictures:
        """Return the first pictures."""
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, images=self.images[:count], labels=labels)


def folder_labels(folder: Path) -> tuple[str, ...]:
    """Return the labels that the names of the folders state, in alphabetical order.

    This is the order of Keras's `image_dataset_from_directory`.

    Raises:
        InvalidRequest: The folder cannot be read, or two names spell the same label.
    """
    return tuple(by_normal_form(sorted(_folders(folder))))


def _folders(folder: Path) -> list[str]:
    try:
        return [
            path.name
            for path in folder.iterdir()
            if path.is_dir() and not is_litter(path.name)
        ]
    except OSError:
        raise InvalidRequest(
            f"--pictures is {folder}, which cannot be read; expected a folder with a "
            "folder of pictures for each label, or with pictures."
        ) from None


def read_pictures(
    folder: Path, labels: tuple[str, ...], contract: Contract
) -> tuple[Pictures, list[str]]:
    """Return the pictures of a folder, and sentences about those that were left out.

    Args:
        folder: A folder of pictures for each label, one with a `labels.csv`, or one
            with pictures.
        labels: The labels of the model.
        contract: The contract by which each picture must be readable.

    Raises:
        InvalidRequest: A folder is no label of the model, or no picture can be read.
    """
    several = not contract.scores_sum_to_one
    found: list[tuple[Path, _Places | None]] = []
    found += _found(folder, labels, several=several)
    labelled = bool(found)
    if not labelled:
        found = [(path, None) for path in _files(folder)]
    random.Random(0).shuffle(found)
    kept, notes = _readable(found, contract)
    if not kept:
        raise InvalidRequest(
            f"{folder} has no {EXPECTED} file that can be read. {' '.join(notes)}"
        )
    digest = hashlib.sha256()
    for image, places in kept:
        digest.update(hashlib.sha256(image).digest() + _written(places).encode())
    known = _truth([places for _, places in kept], len(labels), several=several)
    images = tuple(image for image, _ in kept)
    return (
        Pictures(
            *(images, known if labelled else None, False),
            digest=f"sha256:{digest.hexdigest()}",
        ),
        notes,
    )


def _found(
    folder: Path, labels: tuple[str, ...], *, several: bool
) -> list[tuple[Path, _Places]]:
    """Return the labelled pictures of a folder, each with the places of its labels."""
    names = _folders(folder)
    if table_in(folder) is None and not (several and names):
        places = {name: _place(name, labels) for name in sorted(names)}
        return [
            (path, (place,))
            for name, place in places.items()
            for path in _files(folder / name)
        ]
    found = find(folder, labels, several=several)
    for unknown in found.unknown:
        _place(unknown, labels)
    if several:
        return [
            (one.path, tuple(sorted(map(labels.index, one.labels))))
            for one in tagged(found.pictures)
        ]
    return [(one.path, (labels.index(one.label),)) for one in found.pictures]


def _written(places: _Places | None) -> str:
    """Return the labels of a picture, as the digest of all pictures has them."""
    return "None" if places is None else ",".join(map(str, places))


def _truth(
    found: Sequence[_Places | None], count: int, *, several: bool
) -> npt.NDArray[Any]:
    if not several:
        return np.array([places[0] if places else -1 for places in found])
    truth = np.zeros((len(found), count), np.bool_)
    for row, places in zip(truth, found, strict=True):
        row[list(places or ())] = True
    return truth


def _place(name: str, labels: tuple[str, ...]) -> int:
    label = normal_form(name)
    if label in labels:
        return labels.index(label)
    near = get_close_matches(label, labels, 1)
    hint = f" Is it {near[0]}?" if near else ""
    raise InvalidRequest(
        f"{name} in --pictures is no label of the model, which has "
        f"{', '.join(labels):.200}.{hint}"
    )


def _files(folder: Path) -> list[Path]:
    try:
        return [p for p in files_below(folder) if p.suffix.lower() in SUFFIXES]
    except OSError:
        raise InvalidRequest(f"A folder in {folder} cannot be read.") from None


def _readable(
    found: Sequence[tuple[Path, _Places | None]], contract: Contract
) -> tuple[list[tuple[bytes, _Places | None]], list[str]]:
    kept: list[tuple[bytes, _Places | None]] = []
    skipped: list[str] = []
    for path, place in found:
        if len(kept) == _MOST:
            break
        try:
            image = path.read_bytes()
            to_input(image, contract)
        except OSError:
            skipped.append(f"Skipped {path} (cannot be read).")
        except InklingError as error:
            skipped.append(f"Skipped {path} ({error.message})")
        else:
            kept.append((image, place))
    notes = skipped[:_NAMED]
    if len(skipped) > _NAMED:
        notes.append(f"Skipped {len(skipped)} files in all.")
    if len(found) > len(kept) + len(skipped):
        notes.append(f"Used {_MOST:,} of {len(found):,} pictures, chosen by chance.")
    return kept, notes


def generated(contract: Contract) -> Pictures:
    """Return pictures that nobody photographed: shapes on noise, in odd sizes."""
    images = tuple(_picture(number, contract) for number in range(_GENERATED))
    return Pictures(images, None, True, "generated")


def _picture(number: int, contract: Contract) -> bytes:
    chance = np.random.default_rng([2026, number])
    width, height = (
        int(side * chance.uniform(0.8, 1.6)) + 1
        for side in (min(contract.width, 512), min(contract.height, 512))
    )
    coarse = chance.integers(0, 256, (chance.integers(2, 9), 7, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(chance.integers(1, 6))):
        left, top = int(chance.integers(0, width)), int(chance.integers(0, height))
        box = (left, top, left + width // 3, top + height // 3)
        colour = tuple(chance.integers(0, 256, 3).tolist())
        (draw.ellipse if chance.random() < 0.5 else draw.rectangle)(box, colour)
    return _png(picture)


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _small(image: bytes) -> bytes:
    """Return a picture in a file that is small enough to be published.

    Its orientation, its transparent parts and the colours below them stay.
    """
    if len(image) <= _GOLDEN_BYTES:
        return image
    found = decode(image, _GOLDEN_SIDE, Budget())
    scale = min(1.0, _GOLDEN_SIDE / max(found.picture.size))
    width, height = (max(1, round(side * scale)) for side in found.picture.size)
    # Pillow would make transparent parts black, so each band is scaled on its own.
    bands = [band.resize((width, height)) for band in found.picture.split()]
    small = Image.merge(found.picture.mode, bands)
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = found.orientation
    if small.mode == "RGBA":
        small.save(file, "WEBP", quality=90, exact=True, exif=exif)
    else:
        small.save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()
