# SPDX-License-Identifier: Apache-2.0
"""The rooms of the load test: arrows between them point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import inkling_loadtest

# A room imports itself, the rooms before it, and the modules that stand in no room.
_ROOMS = ("load", "answers", "measures", "report", "locust_side")


def _imported_rooms(path: Path) -> set[str]:
    names = [
        node.module or ""
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
    ]
    parts = [name.split(".") for name in names if name.startswith("inkling_loadtest.")]
    return {part[1] for part in parts if part[1] in _ROOMS}


def test_rooms_import_one_way() -> None:
    """No room imports a later one, and the options and objectives import no room."""
    [folder] = inkling_loadtest.__path__
    found = {room: set[str]() for room in _ROOMS}
    for room in _ROOMS:
        for path in Path(folder, room).glob("*.py"):
            found[room] |= _imported_rooms(path)

    for place, room in enumerate(_ROOMS):
        assert found[room] <= set(_ROOMS[: place + 1]), room
    assert set() == _imported_rooms(Path(folder, "options.py"))
    assert set() == _imported_rooms(Path(folder, "slo.py"))
