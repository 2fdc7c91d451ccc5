# SPDX-License-Identifier: Apache-2.0
"""Reads labels in the forms in which people have them."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from inkling.errors import InvalidRequest
from inkling.labels import by_normal_form, normal_form

__all__ = ["distinct", "labels_in", "labels_of_json", "read_labels"]

_MAX_BYTES = 16 * 1024**2
_NUMBERED = re.compile(r"(\d+)[ \t,:]+(\S.*)")
_FORMS = (
    "a,b,c, a text file with a label on each line, or a JSON file with a list, with "
    'an object such as {"0": "cat"} or {"cat": 0}'
)


def read_labels(given: str) -> tuple[str, ...]:
    """Return the labels that `--labels` names.

    Args:
        given: The name of a file, or labels with commas between them.

    Raises:
        InvalidRequest: The file cannot be read, or two labels are the same.
    """
    path = Path(given)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # a list of labels may be too long for a name
        is_file = False
    if not is_file:
        if "," not in given:
            raise InvalidRequest(
                f"--labels is {given!r:.80}, which is no file; expected {_FORMS}."
            )
        return labels_in(given.split(","))
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip()[:1] in ("[", "{"):
            return labels_of_json(json.loads(text), path.name)
    except (OSError, ValueError, RecursionError):
        raise InvalidRequest(
            f"The labels in {path} cannot be read; expected {_FORMS}, in UTF-8."
        ) from None
    names = _by_column(text) or _without_numbers(text.splitlines())
    return labels_in(distinct(names))


def _by_column(text: str) -> list[str]:
    """Return the names of a CSV table with their places, in any order of both columns.

    The label maps of TensorFlow Hub begin with `id,name`. Empty if it is no such table.
    """
    try:
        rows = [row for row in csv.reader(text.splitlines()) if row]
    except csv.Error:
        return []
    if not rows or any(len(row) != 2 for row in rows):
        return []
    table = rows[1:]
    for places, names in ((0, 1), (1, 0)):
        if rows[0][places].isdecimal() or not all(r[places].isdecimal() for r in table):
            continue
        by_place = {int(row[places]): row[names].strip() for row in table}
        if sorted(by_place) == list(range(len(table))):
            return [by_place[place] for place in range(len(table))]
    return []


def distinct(names: Iterable[str]) -> list[str]:
    """Return names of which none occurs twice: equal ones get their places behind them.

    ImageNet has two cranes and two maillots, so that lists of its names are not wrong.
    """
    found = list(names)
    counts = Counter(map(normal_form, found))
    return [
        f"{name} ({place})" if counts[normal_form(name)] > 1 else name
        for place, name in enumerate(found)
    ]


def labels_in(names: Iterable[str]) -> tuple[str, ...]:
    """Return labels in their normal form, in the order of the names.

    Raises:
        InvalidRequest: A name is empty, or two names spell the same label.
    """
    return tuple(by_normal_form(names))


def _without_numbers(lines: Iterable[str]) -> list[str]:
    """Return the lines that are not empty; `0 cat` is the label cat if all are so."""
    kept = [line.strip() for line in lines if line.strip()]
    numbered = [_NUMBERED.fullmatch(line) for line in kept]
    pairs = [(int(one[1]), one[2]) for one in numbered if one]
    if len(pairs) == len(kept) and [n for n, _ in pairs] == list(range(len(kept))):
        return [name for _, name in pairs]
    return kept


def labels_of_json(content: Any, name: str) -> tuple[str, ...]:
    """Return the labels in a JSON value.

    It is a list; an object from place to label, or from label to place; Keras's
    `imagenet_class_index.json`; or an object with one of them under `labels`,
    `label_names`, `id2label` or `class_names`.

    Args:
        content: The value.
        name: The name of the file, for the message.

    Raises:
        InvalidRequest: It holds something else.
    """
    if isinstance(content, dict):
        for key in ("labels", "label_names", "id2label", "class_names"):
            if isinstance(content.get(key), dict | list):
                content = content[key]
                break
    if isinstance(content, dict):
        content = _by_place(content)
    if isinstance(content, list) and content:
        names = _named(content)
        if names:
            return labels_in(distinct(names))
    raise InvalidRequest(
        f"The labels in {name} are neither a list of texts nor an object with the "
        f"places 0, 1, 2 and so on; expected {_FORMS}."
    )


def _by_place(content: dict[str, Any]) -> list[Any] | None:
    """Return the values of an object in the order of their places."""
    if all(type(place) is int for place in content.values()):
        pairs = sorted((place, name) for name, place in content.items())
    elif all(key.isdecimal() for key in content):
        pairs = sorted((int(key), key) for key in content)
        pairs = [(place, content[key]) for place, key in pairs]
    else:
        return None
    if [place for place, _ in pairs] != list(range(len(pairs))):
        return None
    return [name for _, name in pairs]


def _named(content: list[Any]) -> list[str] | None:
    """Return the texts of a list; of ImageNet's pairs, the name, and the id if needed.

    Two of ImageNet's names stand for two labels each.
    """
    if all(isinstance(one, str) for one in content):
        return content
    if not all(
        isinstance(one, list) and len(one) == 2 and all(isinstance(t, str) for t in one)
        for one in content
    ):
        return None
    names = [name for _, name in content]
    return [
        f"{name} ({key})" if names.count(name) > 1 else name for key, name in content
    ]
