# SPDX-License-Identifier: Apache-2.0
"""Service level objectives: their text form, and whether they were met."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inkling.errors import InvalidRequest

__all__ = ["GRAMMAR", "Finding", "Objective", "check", "latency_limits", "parse"]

GRAMMAR = (
    "objectives separated by commas, each a figure, one of < <= > >=, and a bound: "
    "p50, p99, p99.9 (any percentile), mean or max with us, ms or s; errors, refused "
    "or accuracy with %; rate or goodput in answers per second. For example: "
    "p99<50ms,errors<0.1%"
)

_OBJECTIVE = re.compile(
    r"(?P<figure>p\d{1,2}(?:\.\d+)?|mean|max|errors|refused|accuracy|rate|goodput)"
    r"\s*(?P<sign><=|>=|<|>)\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>us|ms|s|%|/s)?"
)
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MICROSECONDS = {"us": 1.0, "ms": 1e3, "s": 1e6}
_SHARES = ("errors", "refused", "accuracy")
_RATES = ("rate", "goodput")


@dataclass(frozen=True)
class Objective:
    """One objective.

    Attributes:
        figure: The figure that is compared, such as `p99` or `errors`.
        sign: One of `<`, `<=`, `>` and `>=`.
        bound: Microseconds for a latency, 0 to 1 for a share, or answers per second.
        text: The objective as it was written.
    """

    figure: str
    sign: str
    bound: float
    text: str

    @property
    def is_latency(self) -> bool:
        """Whether the figure is a latency."""
        return self.figure not in _SHARES + _RATES

    def holds(self, value: float) -> bool:
        """Return whether a value meets the objective."""
        return _SIGNS[self.sign](value, self.bound)


@dataclass(frozen=True)
class Finding:
    """The measured value for an objective; None where nothing was measured."""

    objective: Objective
    value: float | None

    @property
    def met(self) -> bool:
        """Whether the objective was met; it was not if nothing was measured."""
        return self.value is not None and self.objective.holds(self.value)


def parse(text: str) -> tuple[Objective, ...]:
    """Return the objectives in a text such as `p99<50ms,errors<0.1%`.

    Raises:
        InvalidRequest: The text is not of this grammar.
    """
    return tuple(_objective(part.strip()) for part in text.split(","))


def check(
    objectives: Sequence[Objective], value_of: Callable[[str], float | None]
) -> list[Finding]:
    """Return a finding per objective; `value_of` gives a figure in the bound's unit."""
    return [Finding(item, value_of(item.figure)) for item in objectives]


def latency_limits(objectives: Sequence[Objective]) -> tuple[Objective, ...]:
    """Return the objectives that limit a latency."""
    return tuple(c for c in objectives if c.is_latency and c.sign in ("<", "<="))


def _objective(text: str) -> Objective:
    found = _OBJECTIVE.fullmatch(text)
    if not found:
        raise InvalidRequest(f"--slo: {text!r:.60} cannot be read; give {GRAMMAR}")
    figure, unit = found["figure"], found["unit"]
    number = float(found["number"])
    if figure in _SHARES:
        bound, fits = number / 100, unit == "%"
    elif figure in _RATES:
        bound, fits = number, unit in (None, "/s")
    else:
        bound, fits = number * _MICROSECONDS.get(unit, 0), unit in _MICROSECONDS
    if not fits:
        raise InvalidRequest(
            f"--slo: {text!r:.60} has the wrong unit or none; give {GRAMMAR}"
        )
    return Objective(figure, found["sign"], bound, text)
