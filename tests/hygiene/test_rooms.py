# SPDX-License-Identifier: Apache-2.0
"""Distributions, and the rooms inside them, import each other in one direction only.

A room is a sub-package of a distribution's package, or a module directly in it.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = {
    "inkling": ROOT / "client",
    "inkling_serving": ROOT / "serving",
    "inkling_training": ROOT / "training",
    "inkling_loadtest": ROOT / "loadtest",
}
_MOST_MODULES = 15

# A name -> the names that it imports, each with a place where it does so.
Imports = dict[str, dict[str, str]]


def _imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, of modules or of things in them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _rooms(package: str) -> Imports:
    """Return which rooms of a package import which others."""
    base = PACKAGES[package] / package
    found: Imports = defaultdict(dict)
    for path in base.rglob("*.py"):
        parts = path.relative_to(base).with_suffix("").parts
        for name in _imported(path):
            top, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            is_room = (base / room).is_dir() or (base / f"{room}.py").is_file()
            if top == package and is_room and room != parts[0]:
                found[parts[0]][room] = f"{path.relative_to(ROOT)} imports {name}"
    return found


def _circles(imports: Imports) -> list[str]:
    """Return the imports that lead back to where they come from, by others or at once."""

    def reached(name: str, seen: set[str]) -> set[str]:
        for other in set(imports.get(name, ())) - seen:
            seen.add(other)
            reached(other, seen)
        return seen

    return [
        where
        for name, others in imports.items()
        for other, where in others.items()
        if name in reached(other, {other})
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_distributions_import_inkling_and_no_other(package: str) -> None:
    """A distribution imports itself and `inkling`; `inkling` imports none of the others."""
    others = set(PACKAGES) - {package, "inkling"}
    for path in (PACKAGES[package] / package).rglob("*.py"):
        found = {name.partition(".")[0] for name in _imported(path)}
        assert not found & others, path


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_one_way(package: str) -> None:
    """No room is imported by one that it imports itself, by whatever way round."""
    rooms = _rooms(package)

    assert rooms
    assert _circles(rooms) == []


def test_a_circle_of_rooms_would_be_seen() -> None:
    """Three rooms that import each other in a circle are three findings, a fourth none."""
    circle: Imports = {"a": {"b": "ab"}, "b": {"c": "bc"}, "c": {"a": "ca"}}

    assert _circles({**circle, "d": {"a": "da"}}) == ["ab", "bc", "ca"]


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_are_small(package: str) -> None:
    """No folder of a package holds more than fifteen modules."""
    base = PACKAGES[package] / package
    for folder in [base, *(path for path in base.rglob("*") if path.is_dir())]:
        modules = [path for path in folder.glob("*.py") if path.stem[:2] != "__"]
        assert len(modules) <= _MOST_MODULES, folder
