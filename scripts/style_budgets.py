# SPDX-License-Identifier: Apache-2.0
"""Prints the style budgets and the measured values of the code.

The exit code is 1 if a budget is exceeded. Code lines are the lines without docstrings,
blank lines and comments. Generated code is left out.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "inkling": ROOT / "client",
    "inkling_serving": ROOT / "serving",
    "inkling_training": ROOT / "training",
    "inkling_loadtest": ROOT / "loadtest",
    "examples": ROOT,
}
_MOCKS = re.compile(r"\b(Mock|MagicMock|patch)\(|monkeypatch\.setattr|mocker\.")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """A Python file, with its text, its tree and the numbers of its code lines."""

    path: Path
    tree: ast.Module
    code_lines: frozenset[int]
    text: str

    @classmethod
    def read(cls, path: Path) -> Source:
        """Parse a file."""
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        return cls(path, tree, frozenset(_code_lines(text, tree)), text)

    def functions(self) -> Iterator[_Function]:
        """Yield all functions and methods."""
        for node in ast.walk(self.tree):
            if isinstance(node, _Function):
                yield node

    def length(self, node: _Function) -> int:
        """Return a function's number of code lines."""
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        return len(self.code_lines.intersection(lines))


@dataclass(frozen=True)
class Row:
    """One budget and the measured value."""

    measure: str
    found: float
    budget: str
    holds: bool
    where: str = ""


def main() -> int:
    """Print the table; return 1 if a budget is exceeded."""
    sources = [Source.read(path) for path in _python_files()]
    tests = [Source.read(path) for path in sorted((ROOT / "tests").rglob("*.py"))]
    rows = [
        _largest_module(sources),
        _longest_lesson(sources),
        _long_functions(sources),
        _typed_arguments(sources),
        _broad_excepts(sources),
        _import_cycles(sources),
        _mocks(tests),
        _tests_to_source(sources, tests),
        _client_dependencies(),
        _readme_lines(),
    ]
    print(f"{'MEASURE':34} {'FOUND':>7}  {'BUDGET':12}")
    for row in rows:
        mark = "ok" if row.holds else "OVER"
        print(f"{row.measure:34} {row.found:7g}  {row.budget:12} {mark:5} {row.where}")
    return 0 if all(row.holds for row in rows) else 1


def _python_files() -> Iterator[Path]:
    for name, folder in PACKAGES.items():
        for path in sorted((folder / name).rglob("*.py")):
            if "_pb2" not in path.name:  # generated
                yield path


def _code_lines(text: str, tree: ast.Module) -> Iterator[int]:
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT}
    skipped |= {tokenize.DEDENT, tokenize.ENDMARKER}
    docs = {
        line
        for node in ast.walk(tree)
        if isinstance(node, _Function | ast.ClassDef | ast.Module) and node.body
        if isinstance(first := node.body[0], ast.Expr)
        if isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
        for line in range(first.lineno, (first.end_lineno or first.lineno) + 1)
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            yield from set(range(token.start[0], token.end[0] + 1)) - docs


def _largest_module(sources: list[Source]) -> Row:
    largest = max(sources, key=lambda source: source.text.count("\n"))
    lines = largest.text.count("\n")
    return Row(
        "largest module, lines", lines, "<= 400", lines <= 400, largest.path.name
    )


def _longest_lesson(sources: list[Source]) -> Row:
    lessons = [source for source in sources if source.path.name.startswith("lesson_")]
    longest = max(lessons, key=lambda source: source.text.count("\n"))
    lines = longest.text.count("\n")
    return Row(
        "longest lesson, lines", lines, "<= 120", lines <= 120, longest.path.name
    )


def _long_functions(sources: list[Source]) -> Row:
    long = [
        node.name
        for source in sources
        for node in source.functions()
        if source.length(node) > 40
    ]
    return Row("functions over 40 code lines", len(long), "0", not long, " ".join(long))


def _typed_arguments(sources: list[Source]) -> Row:
    typed, bare = 0, []
    for source in sources:
        for node in source.functions():
            given = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            for argument in given:
                if argument.annotation or argument.arg in ("self", "cls"):
                    typed += 1
                else:
                    bare.append(f"{node.name}:{argument.arg}")
    share = 100 * typed / (typed + len(bare))
    return Row("typed arguments, %", share, "100", not bare, " ".join(bare))


def _broad_excepts(sources: list[Source]) -> Row:
    broad = [
        source.path.name
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler)
        if node.type is None
        or (isinstance(node.type, ast.Name) and node.type.id.endswith("Exception"))
    ]
    lines = sum(len(source.code_lines) for source in sources)
    share = round(1000 * len(broad) / lines, 1)
    where = " ".join(broad)
    return Row("broad excepts per 1,000 lines", share, "<= 1", share <= 1, where)


def _import_cycles(sources: list[Source]) -> Row:
    modules = {_module_name(source.path): source for source in sources}
    arrows = {
        name: {
            target
            for node in ast.walk(source.tree)
            for target in _imported(node)
            if target in modules and target != name
        }
        for name, source in modules.items()
    }
    cyclic = [name for name in arrows if name in _reachable(name, arrows)]
    return Row(
        "modules in import cycles", len(cyclic), "0", not cyclic, " ".join(cyclic)
    )


def _module_name(path: Path) -> str:
    folder = next(each for each in PACKAGES.values() if path.is_relative_to(each))
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    front = set(arrows[start])
    while front:
        seen |= front
        front = {target for name in front for target in arrows[name]} - seen
    return seen


def _mocks(tests: list[Source]) -> Row:
    count = sum(
        node.name.startswith("test_") for source in tests for node in source.functions()
    )
    mocks = sum(len(_MOCKS.findall(source.text)) for source in tests)
    share = round(100 * mocks / max(1, count), 1)
    return Row("mocks per 100 tests", share, "<= 5", share <= 5)


def _tests_to_source(sources: list[Source], tests: list[Source]) -> Row:
    """Compare all lines, because the budget comes from counts of all lines.

    Lessons are left out: they teach, and no user runs them in production.
    """
    shipped = [
        source for source in sources if ROOT / "examples" not in source.path.parents
    ]
    share = _lines(tests) / _lines(shipped)
    holds = 1.0 <= share <= 1.6
    return Row("test lines per source line", round(share, 2), "1 to 1.6", holds)


def _lines(files: list[Source]) -> int:
    return sum(file.text.count("\n") for file in files)


def _client_dependencies() -> Row:
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
    count = len(project["dependencies"])
    return Row("distributions the client asks for", count, "<= 5", count <= 5)


def _readme_lines() -> Row:
    lines = len((ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    return Row("lines of README.md", lines, "<= 150", lines <= 150)


if __name__ == "__main__":
    sys.exit(main())
