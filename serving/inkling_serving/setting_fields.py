# SPDX-License-Identifier: Apache-2.0
"""The fields of the settings: how one is stated, read from a text, and checked."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inkling.errors import InvalidRequest
from inkling_serving.environment import variable_of

__all__ = ["check_choice", "check_range", "kind_of", "parsed", "setting"]


def setting(
    default: Any, help_text: str, low: float | None = None, high: float = math.inf
) -> Any:
    """Return a field of a dataclass with its default, its meaning and its range."""
    metadata = {"help": help_text, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=metadata)


def kind_of(item: dataclasses.Field[Any]) -> Callable[[str], Any]:
    """Return the function that makes a field's value of a text."""
    if isinstance(item.default, bool):
        return _switch
    kinds: dict[str, Callable[[str], Any]] = {"models_dir": Path, "host": _host}
    return kinds.get(item.name, type(item.default))


def parsed(item: dataclasses.Field[Any], text: str) -> Any:
    """Return the value of a field from the text of its variable.

    Raises:
        InvalidRequest: The text is not of the field's type.
    """
    kind = kind_of(item)
    try:
        return kind(text)
    except ValueError:
        raise InvalidRequest(
            f"{variable_of(item.name)} is {text!r:.60}; expected a value of type "
            f"{type(item.default).__name__}."
        ) from None


def check_range(item: dataclasses.Field[Any], value: Any) -> None:
    """Check that a value is within the range of its field.

    Raises:
        InvalidRequest: It is not.
    """
    low, high = item.metadata["low"], item.metadata["high"]
    if low is not None and not low <= value <= high:
        upper = "or more" if high == math.inf else f"to {high:g}"
        raise InvalidRequest(
            f"{variable_of(item.name)} is {value}; expected {low:g} {upper}."
        )


def check_choice(settings: object, name: str, choices: tuple[str, ...]) -> None:
    """Check that a setting is one of its choices.

    Raises:
        InvalidRequest: It is none; the message names the most similar one.
    """
    value = getattr(settings, name)
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1) or choices
        raise InvalidRequest(
            f"{variable_of(name)} is {value!r:.60}; expected one of "
            f"{', '.join(choices)}. Did you mean {near[0]}?"
        )


def _host(text: str) -> str:
    """Return an address as the system takes it: [::1] has brackets in URLs only."""
    return text.strip().removeprefix("[").removesuffix("]")


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"
