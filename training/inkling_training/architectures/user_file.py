# SPDX-License-Identifier: Apache-2.0
"""Calls a function in a user's Python file; its errors point at the user's own line."""

from __future__ import annotations

import hashlib
import linecache
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from inkling_training.errors import UnusableArchitecture

__all__ = ["UserFunction", "load_function"]

# The name under which the file's classes are registered.
_MODULE = "inkling_user_file"
_MOST_TEXT = 300


@dataclass(frozen=True)
class UserFunction:
    """A function in a user's file.

    Attributes:
        name: The file and the function, `my_models.py:build`.
        digest: `sha256:` and the SHA-256 of the file.
        path: The file.
        function: The function.
    """

    name: str
    digest: str
    path: Path
    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        """Call the function.

        Raises:
            UnusableArchitecture: It raises; the message has the user's own line.
        """
        return _ran(lambda: self.function(*arguments), self.path)


def load_function(path: Path, name: str) -> UserFunction:
    """Run a Python file and return one of its functions.

    The file can import modules beside it. Nothing is written beside it.

    Raises:
        UnusableArchitecture: The file is missing or raises, or has no such function.
    """
    try:
        source = path.read_bytes()
    except OSError:
        raise UnusableArchitecture(
            f"{path} cannot be read; expected a Python file with the function {name}."
        ) from None
    module = ModuleType(_MODULE)
    module.__file__ = str(path)
    sys.modules[_MODULE] = module
    beside = str(path.resolve().parent)
    if beside not in sys.path:
        sys.path.insert(0, beside)
    _ran(lambda: exec(compile(source, str(path), "exec"), vars(module)), path)
    function = vars(module).get(name)
    if not callable(function):
        raise UnusableArchitecture(_without(path, name, vars(module)))
    digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
    return UserFunction(f"{path.name}:{name}", digest, path, function)


def _without(path: Path, name: str, found: Mapping[str, Any]) -> str:
    functions = [
        one
        for one, value in found.items()
        if getattr(value, "__module__", None) == _MODULE and callable(value)
    ]
    has = f"it has {', '.join(functions):.200}" if functions else "it has none"
    near = get_close_matches(name, functions, 1)
    hint = f" Is it {path}:{near[0]}?" if near else ""
    return f"{path} has no function {name}; {has}.{hint}"


def _ran(run: Callable[[], Any], path: Path) -> Any:
    try:
        return run()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any code may raise it
        raise UnusableArchitecture(_raised(error, path)) from None


def _raised(error: BaseException, path: Path) -> str:
    """Return a sentence with the last line of the user's file that took part."""
    said = " ".join(str(error).split())[:_MOST_TEXT]
    kind = type(error).__name__ + (f": {said}" if said else "")
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = (error.text or "").strip()
        return f"{path}, line {error.lineno}: {line!r} is no Python ({error.msg})."
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(path)]
    if not own:
        return f"{path} raised {kind}"
    number = own[-1].lineno or 0
    line = linecache.getline(str(path), number).strip()
    return f"{path}, line {number}, in {own[-1].name}: {line!r} raised {kind}"
