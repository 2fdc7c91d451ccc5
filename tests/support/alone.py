# SPDX-License-Identifier: Apache-2.0
"""Finds the tests that measure short times, beside which no other test may run."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

# A test beside another takes longer by a second at most, and by far less as a rule.
_PATIENT_S = 2


@cache
def alone_in(file: Path) -> frozenset[str]:
    """Return the functions of a test file that bound a time shorter than two seconds.

    Those are functions that call `within` with a shorter limit, or with one that is no
    plain number, that raise `TooSlow`, or that use a function of the file that does so.
    """
    used = {
        node.name: frozenset(_used(node))
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    found = {"TooSlow"}
    while more := {name for name, uses in used.items() if uses & found} - found:
        found |= more
    return frozenset(found)


def _used(function: ast.AST) -> list[str]:
    """Return the names that a function uses; a `within` with a short limit counts as `TooSlow`."""
    names = []
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            names.append(node.id)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "within":
            limit = node.args[1]
            patient = isinstance(limit, ast.Constant) and limit.value >= _PATIENT_S
            names.append("within" if patient else "TooSlow")
    return names
