"""Pictures in a folder, with the label that each has there."""

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
# What is taken for a picture; those that Inkling does not read are failures then.
_ENDINGS = (".png", ".jpg", ".jpeg")
_OTHER_ENDINGS = (".gif", ".bmp", ".tif", ".tiff", ".webp", ".heic", ".heif", ".avif")
_FORMS = (
    f"a folder for each label, names such as 7_001.png, or a {CSV_FILE} with the "
    "columns file and label"
)


@dataclass(frozen=True)
class Labelled:
    """A picture, what it shows, and where it is from.

    Attributes:
        path: The file.
        label: One of the model's.
        source: Who made the picture, by folder or CSV; empty where nobody says.
    """

    path: Path
    label: str
    source: str = ""


@dataclass
class Collection:
    """What was found in a folder.

    Attributes:
        pictures: Those with a label that the model knows, in the order of their names.
        unknown: Number of pictures by each label that it does not know.
        unlabelled: Pictures that nothing gives a label.
    """

    pictures: list[Labelled] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    unlabelled: list[Path] = field(default_factory=list)

    def add(self, path: Path, label: str, source: str, known: dict[str, str]) -> None:
        """Add a picture, by its label as it stands there."""
        if label in known:
            self.pictures.append(Labelled(path, known[label], source))
        else:
            self.unknown[label] += 1


def find(folder: Path, labels: Sequence[str]) -> Collection:
    """Return the pictures of a folder with their labels.

    The labels are those of `labels.csv` where there is one; else, where any folder is
    named as a label is, the names of the folders; else what stands before the last `_`
    in the names of the files. In names, `_` may stand for the `/` of a label.

    Args:
        folder: Where to look, at any depth; what is hidden is passed over.
        labels: Those of the model.

    Raises:
        InvalidRequest: There is no picture with a label that the model knows.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is no folder; name one with pictures in it.")
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
            # The innermost; an unknown label is told by the whole way to it.
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
