"""Finds the pictures of a folder, each with the label that it has there."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inkling.errors import InvalidRequest

__all__ = ["CSV_FILE", "Collection", "Labelled", "find"]

CSV_FILE = "labels.csv"
_ENDINGS = (".png", ".jpg", ".jpeg")
# Pictures, too, which Inkling does not read: they are refused and reported.
_OTHER_ENDINGS = (".gif", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".heif", ".avif")
_FORMS = (
    f"a folder for each label, names such as 7_001.png, or a {CSV_FILE} with the "
    "columns file and label"
)


@dataclass(frozen=True)
class Labelled:
    """A picture with its label and its source.

    Attributes:
        path: The file.
        label: One of the model's labels.
        source: Who or what made the picture, by folder or CSV; empty if unknown.
    """

    path: Path
    label: str
    source: str = ""


@dataclass
class Collection:
    """The pictures of a folder.

    Attributes:
        pictures: Those with a label that the model knows, in the order of their names.
        unknown: The other labels, with the number of their pictures.
        unlabelled: Pictures without a label.
    """

    pictures: list[Labelled] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    unlabelled: list[Path] = field(default_factory=list)

    def add(self, path: Path, label: str, source: str, known: dict[str, str]) -> None:
        """Add a picture; `known` maps a label as it is written to the model's."""
        if label in known:
            self.pictures.append(Labelled(path, known[label], source))
        else:
            self.unknown[label] += 1


def find(folder: Path, labels: Sequence[str]) -> Collection:
    """Return the pictures of a folder with their labels.

    The labels come from `labels.csv` if it exists; else from the names of the folders
    if any of them is a label; else from the file names, up to the last `_`. In names,
    `_` may stand for the `/` of a label.

    Args:
        folder: The pictures may lie at any depth; hidden files are passed over.
        labels: The labels of the model.

    Raises:
        InvalidRequest: No picture has a label that the model knows.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is not a folder; name one with pictures.")
    known = {label.replace("/", "_"): label for label in labels}
    known |= {label: label for label in labels}
    if (folder / CSV_FILE).is_file():
        found = _by_csv(folder, known)
    else:
        found = _by_names(folder, known)
    if not found.pictures:
        raise InvalidRequest(_nothing_found(folder, found, labels))
    return found


def _by_csv(folder: Path, known: dict[str, str]) -> Collection:
    found, path = Collection(), folder / CSV_FILE
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                name, label = row.get("file"), row.get("label")
                if not name or not label:
                    raise InvalidRequest(
                        f"{path} has a row without file or label; expected a first row "
                        "file,label or file,label,source, and each row as long."
                    )
                found.add(folder / name, label, row.get("source") or "", known)
    except (OSError, UnicodeDecodeError, csv.Error):
        raise InvalidRequest(
            f"{path} cannot be read; expected CSV in UTF-8 with the columns file and "
            "label."
        ) from None
    return found


def _by_names(folder: Path, known: dict[str, str]) -> Collection:
    files = list(_picture_files(folder))
    folders_are_labels = any(not known.keys().isdisjoint(f.parts[:-1]) for f in files)
    found = Collection()
    for file in files:
        parents = list(file.parts[:-1])
        label = file.stem.rpartition("_")[0] or "/".join(parents)
        if folders_are_labels:
            # The innermost folder; an unknown label is shown with its whole path.
            label = next(
                (p for p in reversed(parents) if p in known), "/".join(parents)
            )
            parents = [parent for parent in parents if parent != label]
        if label:
            found.add(folder / file, label, "/".join(parents), known)
        else:
            found.unlabelled.append(folder / file)
    return found


def _picture_files(folder: Path) -> Iterator[Path]:
    """Yield the pictures below a folder, relative to it, by name."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if (
                not name.startswith(".")
                and path.suffix.lower() in _ENDINGS + _OTHER_ENDINGS
            ):
                yield path.relative_to(folder)


def _nothing_found(folder: Path, found: Collection, labels: Sequence[str]) -> str:
    if not found.unknown:
        return f"{folder} has no pictures with labels; expected {_FORMS}."
    unknown = ", ".join(sorted(found.unknown))
    return (
        f"The labels in {folder} are not the model's: there are {unknown:.200}; it "
        f"knows {', '.join(labels):.200}. Expected {_FORMS}."
    )
