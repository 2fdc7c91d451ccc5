# SPDX-License-Identifier: Apache-2.0
"""Finds the pictures of a folder, each with the label that it has there."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from inkling.errors import InvalidRequest
from inkling.image.formats.catalogue import FOREIGN_SUFFIXES, SUFFIXES
from inkling.labels import Spellings
from inkling_training.data.labels_csv import CSV_FILE, read_table, table_in
from inkling_training.data.layout import files_below

__all__ = ["Collection", "Labelled", "Tagged", "find", "tagged"]

# A model refuses some of these pictures, which are then reported.
_ENDINGS = SUFFIXES | FOREIGN_SUFFIXES
# What parts several labels in one text.
_MARKS = ("|", ";", ",", "+", " ", "_")
_FORMS = (
    f"a folder for each label, names such as 7_001.png, or a {CSV_FILE} with the "
    "columns file and label"
)


@dataclass(frozen=True)
class Labelled:
    """A picture with its label and its source.

    Attributes:
        path: The file.
        label: One of the model's labels; empty if the picture has none of them, which
            only a table can tell.
        source: Who or what made the picture, by folder or CSV; empty if unknown.
    """

    path: Path
    label: str
    source: str = ""


@dataclass(frozen=True)
class Tagged:
    """A picture with all its labels.

    Attributes:
        path: The file.
        labels: The model's labels that the picture has; it may have none.
        source: Who or what made the picture, by folder or CSV; empty if unknown.
    """

    path: Path
    labels: frozenset[str]
    source: str = ""


@dataclass
class Collection:
    """The pictures of a folder.

    Attributes:
        folder: The folder.
        several: Whether a picture may have several labels.
        pictures: Those with a label that the model knows, in the order of their names.
        unknown: The other labels, with the number of their pictures.
        unlabelled: Pictures without a label.
        others: Files that are no pictures by the end of their names.
    """

    folder: Path
    several: bool = False
    pictures: list[Labelled] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    unlabelled: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def add(self, path: Path, label: str, source: str, known: _Known) -> None:
        """Add a picture with its label, or with several, as they are written."""
        spelled = known.named(label)
        if not spelled:
            self.unknown[label] += 1
        self.pictures += [Labelled(path, one, source) for one in spelled]

    @cached_property
    def copies(self) -> list[list[Path]]:
        """Pictures with the same bytes under several paths, each group in its order.

        They count as often as they occur. Where pictures may have several labels,
        copies are one picture, and this list is empty.
        """
        if self.several:
            return []
        sizes = {picture.path: _size(picture.path) for picture in self.pictures}
        often = Counter(sizes.values())
        groups: dict[str, list[Path]] = {}
        for path, size in sizes.items():
            if often[size] > 1:
                groups.setdefault(_digest(path), []).append(path)
        return [group for group in groups.values() if len(group) > 1]


class _Known:
    """Finds the model's labels by any spelling of them."""

    def __init__(self, labels: Sequence[str], several: bool) -> None:
        self.spellings = Spellings(labels)
        self.several = several

    def named(self, text: str) -> list[str]:
        """Return the labels in a text; nothing if it names anything else."""
        one = self.spellings.get(text)
        if one is not None:
            return [one]
        if not self.several:
            return []
        if not text:
            return [""]
        for mark in _MARKS:
            parts = [self.spellings.get(part) for part in text.split(mark)]
            known = [part for part in parts if part is not None]
            if len(known) == len(parts):
                return known
        return []


def _digest(path: Path) -> str:
    """Return what tells the content of a file from others."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return str(path)  # asking about it says what is wrong with it


def tagged(pictures: Iterable[Labelled]) -> list[Tagged]:
    """Return each picture once, with all labels under which it occurs.

    The same file in several folders, or in several rows of a table, is one picture.
    Files are the same if their bytes are.
    """
    paths: dict[str, Path] = {}
    labels: dict[str, set[str]] = {}
    sources: dict[str, str] = {}
    for picture in pictures:
        key = _digest(picture.path)
        paths.setdefault(key, picture.path)
        sources[key] = sources.get(key) or picture.source
        labels.setdefault(key, set()).update({picture.label} - {""})
    return [
        Tagged(path, frozenset(labels[key]), sources[key])
        for key, path in paths.items()
    ]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def find(folder: Path, labels: Sequence[str], *, several: bool = False) -> Collection:
    """Return the pictures of a folder with their labels.

    The labels come from `labels.csv` (see `inkling_training.data.labels_csv`) if it
    exists; else from the names of the folders
    if any of them is a label; else from the file names, up to the last `_`. In names,
    `_` may stand for the `/` of a label. Labels are compared in their normal form.

    Args:
        folder: The pictures may lie at any depth; hidden files and the litter of file
            managers are passed over.
        labels: The labels of the model.
        several: Whether a picture may have several labels, or none: a text may then
            name several, such as `wet|cold`, and a table may have an empty label or a
            column for each label. The picture then occurs once for each label.

    Raises:
        InvalidRequest: No picture has a label that the model knows.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is not a folder; name one with pictures.")
    known = _Known(labels, several)
    try:
        table = table_in(folder)
        found = _by_table(folder, table, known) if table else _by_names(folder, known)
    except OSError as error:
        raise InvalidRequest(
            f"{error.filename or folder} cannot be read; change its permissions."
        ) from None
    if not found.pictures:
        raise InvalidRequest(_nothing_found(folder, found, labels))
    return found


def _by_table(folder: Path, table: Path, known: _Known) -> Collection:
    found = Collection(folder, known.several)
    for row in read_table(table, known.spellings if known.several else None):
        found.add(row.path, row.label, row.source, known)
    return found


def _by_names(folder: Path, known: _Known) -> Collection:
    found = Collection(folder, known.several)
    files: list[Path] = []
    for path in files_below(folder):
        is_picture = path.suffix.lower() in _ENDINGS
        (files if is_picture else found.others).append(path.relative_to(folder))
    folders = {part for file in files for part in file.parts[:-1]}
    labels = {part for part in folders if known.named(part)}
    for file in files:
        parents = list(file.parts[:-1])
        label = file.stem.rpartition("_")[0] or "/".join(parents)
        if labels:
            # The innermost folder; an unknown label is shown with its whole path.
            label = next((p for p in reversed(parents) if p in labels), "")
            parents = [parent for parent in parents if parent != label]
            label = label or "/".join(parents)
        if label:
            found.add(folder / file, label, "/".join(parents), known)
        else:
            found.unlabelled.append(folder / file)
    return found


def _nothing_found(folder: Path, found: Collection, labels: Sequence[str]) -> str:
    if not found.unknown:
        others = f" It has {_counted(found.others)}." if found.others else ""
        return f"{folder} has no pictures with labels; expected {_FORMS}.{others}"
    unknown = ", ".join(sorted(found.unknown))
    return (
        f"The labels in {folder} are not the model's: there are {unknown:.200}; it "
        f"knows {', '.join(labels):.200}. Expected {_FORMS}."
    )


def _counted(paths: Sequence[Path]) -> str:
    return f"{len(paths)} other files, such as {paths[0]}"
