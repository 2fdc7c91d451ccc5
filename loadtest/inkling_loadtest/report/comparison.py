# SPDX-License-Identifier: Apache-2.0
"""Compares two reports: their figures side by side, and the changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from inkling.errors import InvalidRequest
from inkling_loadtest.report.formatting import latency, share

__all__ = ["compare"]

# Two equal runs differ by as much on a machine that does other work, too.
_NOISE = 0.10
_LATENCIES = ("p50", "p90", "p99", "p99.9", "max")
_SAME = ("target", "model", "shape", "loop", "rate", "users", "seconds", "mix", "batch")
_Report = dict[str, Any]
_Row = tuple[str, float | None, float | None, Callable[[float | None], str]]


def compare(before: Path, after: Path) -> int:
    """Print the figures of two reports side by side; return 0.

    Raises:
        InvalidRequest: A directory has no report.
    """
    one, other = _read(before), _read(after)
    for name in _SAME:
        values = one["options"][name], other["options"][name]
        if values[0] != values[1]:
            print(f"different: {name} was {values[0]}, is {values[1]}")
    print(f"{'FIGURE':22} {'A':>12} {'B':>12}  CHANGE")
    for name, a, b, shown in _rows(one, other):
        print(f"{name:22} {shown(a):>12} {shown(b):>12}  {_change(a, b)}")
    return 0


def _read(directory: Path) -> _Report:
    try:
        report: _Report = json.loads((directory / "report.json").read_bytes())
    except (OSError, ValueError):
        raise InvalidRequest(
            f"{directory} has no report.json; name the directories of two reports."
        ) from None
    return report


def _rows(one: _Report, other: _Report) -> Iterator[_Row]:
    rates = [_figure(r["capacity"], "rate") for r in (one, other)]
    yield "capacity", rates[0], rates[1], _per_second
    for name in ("offered", "right", "goodput", "refused"):
        found = [report["total"][f"{name}_per_s"] for report in (one, other)]
        yield f"{name} per second", found[0], found[1], _per_second
    for name in ("errors", "accuracy"):
        yield name, one["total"][name], other["total"][name], share
    for part, title in (("latency_us", "latency"), ("refused_us", "refusal")):
        tables = [report["total"][part] or {} for report in (one, other)]
        for name in _LATENCIES:
            yield f"{title} {name}", tables[0].get(name), tables[1].get(name), latency
    phases = [report["server"].get("phases") or {} for report in (one, other)]
    for phase in {**phases[0], **phases[1]}:
        means = [_figure(found.get(phase), "mean_ms") for found in phases]
        a, b = (None if mean is None else mean * 1e3 for mean in means)
        yield f"server, {phase}", a, b, latency


def _figure(row: _Report | None, name: str) -> float | None:
    return float(row[name]) if row else None


def _per_second(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}/s"


def _change(a: float | None, b: float | None) -> str:
    if not a or b is None:
        return ""
    change = b / a - 1
    mark = "" if abs(change) <= _NOISE else "  more than noise"
    return f"{change:+.1%}{mark}"
