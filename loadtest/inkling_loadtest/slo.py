"""Service level objectives: what is promised, as text, and whether it was kept."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from inkling.errors import InvalidRequest

__all__ = ["GRAMMAR", "Condition", "Finding", "check", "latency_limits", "parse"]

GRAMMAR = (
    "conditions separated by commas, each a figure, one of < <= > >=, and a bound: "
    "p50, p99, p99.9 (any percentile), mean or max with us, ms or s; errors, refused "
    "or accuracy with %; rate or goodput in answers per second. For example: "
    "p99<50ms,errors<0.1%"
)

_CONDITION = re.compile(
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
class Condition:
    """One promise.

    Attributes:
        figure: What is compared, such as `p99` or `errors`.
        sign: How.
        bound: Microseconds for a latency, 0 to 1 for a share, or answers per second.
        text: As it was written.
    """

    figure: str
    sign: str
    bound: float
    text: str

    @property
    def is_latency(self) -> bool:
        """Whether the figure is a time."""
        return self.figure not in _SHARES + _RATES

    def holds(self, value: float) -> bool:
        """Return whether a value keeps the promise."""
        return _SIGNS[self.sign](value, self.bound)


@dataclass(frozen=True)
class Finding:
    """What was measured for a condition; None where there was nothing to measure."""

    condition: Condition
    value: float | None

    @property
    def met(self) -> bool:
        """Whether the promise was kept; it was not if nothing was measured."""
        return self.value is not None and self.condition.holds(self.value)


def parse(text: str) -> tuple[Condition, ...]:
    """Return the conditions in a text such as `p99<50ms,errors<0.1%`.

    Raises:
        InvalidRequest: It is not of the grammar.
    """
    return tuple(_condition(part.strip()) for part in text.split(","))


def check(
    conditions: Sequence[Condition], value_of: Callable[[str], float | None]
) -> list[Finding]:
    """Return a finding per condition; `value_of` gives a figure in the bound's unit."""
    return [Finding(item, value_of(item.figure)) for item in conditions]


def latency_limits(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """Return the conditions that hold a latency down."""
    return tuple(c for c in conditions if c.is_latency and c.sign in ("<", "<="))


def _condition(text: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if not found:
        raise InvalidRequest(f"--slo: {text!r:.60} is not understood; give {GRAMMAR}")
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
    return Condition(figure, found["sign"], bound, text)
