# SPDX-License-Identifier: Apache-2.0
"""Reads a table of pictures and their labels, as people and spreadsheets write them.

The first row names the columns. Commas, semicolons, tabs or bars part the cells; spaces
around a cell, blank rows and rows that begin with `#` do not count.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from inkling.errors import InvalidRequest
from inkling.labels import Spellings, normal_form
from inkling.model.litter import is_litter

__all__ = ["CSV_FILE", "Row", "read_table", "table_in"]

CSV_FILE = "labels.csv"
_FILES = (CSV_FILE, "labels.tsv")
_DELIMITERS = ",;\t|"
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "file": (
        *("file", "filename", "file_name", "path", "filepath", "file_path", "image"),
        *("image_path", "picture"),
    ),
    "label": ("label", "class", "category", "class_name", "label_name"),
    "source": ("source", "writer", "author"),
}
_EXPECTED = (
    "expected a first row with the columns file and label, such as file,label, and "
    "then a row for each picture, such as a/1.png,cat"
)
# How tables with a column for each label say that a picture has it, or not.
_FLAGS = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "x"), True),
    **dict.fromkeys(("0", "0.0", "false", "no", ""), False),
}
# Excel begins its files with this line, if it is told to.
_SEPARATOR_LINE = re.compile(r'"?sep=.?"?', re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        path: The picture, which need not exist.
        label: The label in its normal form; empty if the picture has none.
        source: Who or what made the picture; empty if unknown.
    """

    path: Path
    label: str
    source: str = ""


@dataclass(frozen=True)
class _Columns:
    """The columns of a table.

    Attributes:
        delimiter: What parts the cells.
        places: The place of `file`, and of `label` and `source` if they are there.
        flags: The place of the column of each label, where each has one.
    """

    delimiter: str
    places: Mapping[str, int]
    flags: Mapping[str, int]


def table_in(folder: Path) -> Path | None:
    """Return the table of a folder, `labels.csv` in any capitals; None without one."""
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    tables = [name for name in names if name.lower() in _FILES]
    return folder / min(tables, key=lambda name: name != CSV_FILE) if tables else None


def read_table(path: Path, several: Spellings | None = None) -> list[Row]:
    """Return the rows of a table; the pictures' paths are relative to its folder.

    Args:
        path: The table.
        several: The labels of a model whose pictures may have several of them, or none.
            A label may then be empty. In place of the column `label` there may be a
            column for each label, with 1 or 0; a picture then has a row for each of its
            labels. None for other models.

    Raises:
        InvalidRequest: The file is not such a table; the message names the row.
    """
    lines = _text(path).splitlines()
    places = (place for place, line in enumerate(lines) if not _is_skipped(line))
    start = next(places, None)
    if start is None:
        raise InvalidRequest(f"{path} is empty; {_EXPECTED}.")
    columns = _header(path, lines[start], several)
    found, pictures = [], _Pictures(path.parent)
    text = io.StringIO("\n".join(lines[start + 1 :]))
    reader = csv.reader(text, delimiter=columns.delimiter, skipinitialspace=True)
    for number, cells in _rows(path, reader, start + 1):
        if not any(cells) or (cells[0].startswith("#") and not pictures.has(cells[0])):
            continue
        _check_row(path, number, cells, columns, may_lack_label=several is not None)
        by_name = {name: _cell(cells, at) for name, at in columns.places.items()}
        picture, source = pictures.path(by_name["file"]), by_name.get("source", "")
        labels = [normal_form(by_name.get("label", ""))]
        if columns.flags:
            labels = _flagged(path, number, cells, columns.flags) or [""]
        found += [Row(picture, label, source) for label in labels]
    return found


def _cell(cells: Sequence[str], place: int) -> str:
    return cells[place] if place < len(cells) else ""


def _flagged(
    path: Path, number: int, cells: Sequence[str], flags: Mapping[str, int]
) -> list[str]:
    """Return the labels whose column says that the picture has them."""
    found = []
    for label, place in flags.items():
        flag = _FLAGS.get(_cell(cells, place).casefold())
        if flag is None:
            raise InvalidRequest(
                f"Line {number} of {path} has {cells[place]!r:.40} under {label}; "
                "expected 1 if the picture has the label, else 0."
            )
        found += [label] * flag
    return found


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError:
        raise InvalidRequest(f"{path} cannot be read.") from None
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest(
            f'{path} is not UTF-8; save it as "CSV UTF-8" in the spreadsheet.'
        ) from None


def _is_skipped(line: str) -> bool:
    """Return whether a line before the first row says nothing."""
    bare = line.strip()
    return not bare or bare.startswith("#") or bool(_SEPARATOR_LINE.fullmatch(bare))


def _header(path: Path, line: str, several: Spellings | None) -> _Columns:
    """Return what parts the cells, and the place of each known column."""
    for delimiter in _DELIMITERS:
        cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
        names = [re.sub(r"[\s-]+", "_", cell.strip().casefold()) for cell in cells]
        places = {
            column: names.index(name)
            for column, known in _COLUMNS.items()
            for name in known[::-1]
            if name in names
        }
        if {"file", "label"} <= places.keys():
            return _Columns(delimiter, places, {})
        flags = _flags(cells, several) if "file" in places and several else {}
        if flags:
            return _Columns(delimiter, places, flags)
    raise InvalidRequest(f"{path} begins with {line!r:.100}; {_EXPECTED}.")


def _flags(cells: Sequence[str], several: Spellings) -> dict[str, int]:
    spelled = {several.get(cell): place for place, cell in enumerate(cells)}
    return {label: place for label, place in spelled.items() if label is not None}


def _rows(
    path: Path, reader: Iterator[list[str]], before: int
) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield each row with the number of its line; its cells lose outer spaces."""
    try:
        for cells in reader:
            number = before + getattr(reader, "line_num", 0)
            yield number, [cell.strip() for cell in cells]
    except csv.Error:
        raise InvalidRequest(f"{path} is not a table of text; {_EXPECTED}.") from None


def _check_row(
    path: Path,
    number: int,
    cells: Sequence[str],
    columns: _Columns,
    *,
    may_lack_label: bool,
) -> None:
    needed = ["file"] if may_lack_label else ["file", "label"]
    if not all(_cell(cells, columns.places[name]) for name in needed):
        raise InvalidRequest(
            f"Line {number} of {path} has no file or no label: "
            f"{','.join(cells)!r:.100}; {_EXPECTED}."
        )
    known = [*columns.places.values(), *columns.flags.values()]
    if len(known) == max(known) + 1 and any(cells[len(known) :]):
        raise InvalidRequest(
            f"Line {number} of {path} has more cells than the first row; put a text "
            'that holds the separator into quotes, such as "T-shirt, red".'
        )


class _Pictures:
    """Finds the files that a table names, as another system would spell them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._spelled: Mapping[str, Path] | None = None

    def has(self, name: str) -> bool:
        """Return whether there is a file of exactly this name."""
        return (self._folder / name).is_file()

    def path(self, name: str) -> Path:
        """Return the path of a named file; a missing one keeps its name."""
        for spelling in (name, name.replace("\\", "/")):
            if self.has(spelling):
                return self._folder / spelling
        if self._spelled is None:
            self._spelled = {_folded(str(one)): one for one in _below(self._folder)}
        relative = self._spelled.get(_folded(name))
        return self._folder / (relative or name)


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_litter(name)]
        for name in names:
            yield Path(place, name).relative_to(folder)


def _folded(name: str) -> str:
    """Return the path in lower case, with `/`, composed."""
    return normal_form(PureWindowsPath(name).as_posix()).casefold()
