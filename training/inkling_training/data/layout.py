# SPDX-License-Identifier: Apache-2.0
"""Finds the pictures of a training folder: the label of each, and its split if given.

Three forms are understood: a folder for each label; folders `train` and `test` (and
`val`) with a folder for each label in them; a table `labels.csv`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from inkling.errors import InvalidRequest
from inkling.labels import by_normal_form, is_text
from inkling.model.litter import is_litter
from inkling_training.data.labels_csv import read_table, table_in
from inkling_training.errors import DatasetUnavailable

__all__ = ["Found", "Layout", "files_below", "layout_of"]

_SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
# Also `training_set`, `test-images` and the like.
_SPLIT_ENDS = re.compile(r"[ _-]*(set|data|images|pictures)$")
# A copy of a test picture is taken out of the other splits, so the test comes first.
_ORDER = ("test", "validation", "train")
_NAMED = 3


@dataclass(frozen=True)
class Found:
    """A file that may be a picture.

    Attributes:
        split: `train`, `validation` or `test`; empty if the folder does not say.
    """

    path: Path
    label: str
    split: str = ""


@dataclass
class Layout:
    """The files of a training folder.

    Attributes:
        labels: All labels, sorted.
        files: In the order in which they are to be read.
        notes: What was left out, as sentences.
    """

    labels: tuple[str, ...]
    files: list[Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def layout_of(folder: Path) -> Layout:
    """Return the files of a folder with their labels.

    Raises:
        DatasetUnavailable: The folder has fewer than two labels, two of its names spell
            one label, or its table cannot be read.
    """
    try:
        table = table_in(folder)
        if table is not None:
            return _by_table(table)
        splits = _split_folders(folder)
        return _by_splits(folder, splits) if splits else _by_labels(folder)
    except DatasetUnavailable:
        raise
    except InvalidRequest as error:
        raise DatasetUnavailable(error.message) from None


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder at any depth, sorted; litter is passed over.

    Links are followed, also to folders; one that leads back to a folder above itself
    is passed over.
    """
    yield from _walked(folder, frozenset())


def _walked(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    found = os.stat(folder)
    identity = (found.st_dev, found.st_ino)
    if identity in above:
        return
    for path in sorted(folder.iterdir()):
        if is_litter(path.name):
            continue
        if path.is_dir():
            yield from _walked(path, above | {identity})
        else:
            yield path


def _folders(folder: Path) -> list[str]:
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(name for name in names if not is_litter(name))


def _split_folders(folder: Path) -> Mapping[str, str]:
    """Return the folder of each split; empty if the folders are labels."""
    found: dict[str, str] = {}
    for name in _folders(folder):
        split = _SPLITS.get(_SPLIT_ENDS.sub("", name.casefold()))
        if split and _folders(folder / name):
            if split in found:
                raise DatasetUnavailable(
                    f"{folder / found[split]} and {folder / name} are the same split; "
                    "put their pictures together."
                )
            found[split] = name
    return found if "train" in found else {}


def _by_labels(folder: Path) -> Layout:
    names = by_normal_form(_folders(folder))
    _check_labels(folder, tuple(names))
    layout = Layout(tuple(sorted(names)))
    for label in layout.labels:
        layout.files += [
            Found(path, label) for path in files_below(folder / names[label])
        ]
    return layout


def _by_splits(folder: Path, splits: Mapping[str, str]) -> Layout:
    train = folder / splits["train"]
    labels = tuple(sorted(by_normal_form(_folders(train))))
    _check_labels(train, labels)
    layout = Layout(labels, notes=_left_out(folder, splits))
    for split in _ORDER:
        if split not in splits:
            continue
        place = folder / splits[split]
        for label, name in sorted(by_normal_form(_folders(place)).items()):
            _check_known(place / name, label, labels)
            layout.files += [
                Found(path, label, split) for path in files_below(place / name)
            ]
    return layout


def _by_table(table: Path) -> Layout:
    rows = read_table(table)
    labels = tuple(sorted({row.label for row in rows}))
    by_normal_form(labels)
    if len(labels) < 2:
        has = f"only the label {labels[0]}" if labels else "no row"
        raise DatasetUnavailable(f"{table} has {has}; expected at least two labels.")
    files = sorted((Found(row.path, row.label) for row in rows), key=_by_label)
    return Layout(labels, files)


def _by_label(found: Found) -> tuple[str, Path]:
    return found.label, found.path


def _check_labels(folder: Path, labels: tuple[str, ...]) -> None:
    if len(labels) >= 2:
        return
    inner = (
        _folders(folder / labels[0]) if labels and _is_folder(folder, labels) else []
    )
    hint = ""
    if len(inner) >= 2:
        hint = f" If {folder / labels[0]} holds the labels, give that folder."
    has = f"only the subfolder {labels[0]}" if labels else "no subfolder"
    raise DatasetUnavailable(
        f"{folder} has {has}; expected one subfolder of pictures for each of at least "
        f"two labels, such as {folder / 'cat'} and {folder / 'dog'}.{hint}"
    )


def _is_folder(folder: Path, labels: tuple[str, ...]) -> bool:
    return is_text(labels[0]) and (folder / labels[0]).is_dir()


def _check_known(folder: Path, label: str, labels: tuple[str, ...]) -> None:
    if label in labels:
        return
    near = get_close_matches(label, labels, 1)
    hint = f" Is it {near[0]}?" if near else ""
    raise DatasetUnavailable(
        f"{folder} is a label that the training pictures do not have; they have "
        f"{', '.join(labels):.200}.{hint}"
    )


def _left_out(folder: Path, splits: Mapping[str, str]) -> list[str]:
    """Return a sentence about folders beside the splits."""
    others = [name for name in _folders(folder) if name not in splits.values()]
    shown = ", ".join(str(folder / name) for name in others[:_NAMED])
    if not others:
        return []
    return [
        f"Left out {len(others)} folders that are no split with a folder for each "
        f"label: {shown}."
    ]
