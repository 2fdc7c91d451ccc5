# SPDX-License-Identifier: Apache-2.0
"""Figures and findings as text, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from inkling_loadtest.slo import latency_limits, parse

__all__ = ["count", "headline", "latency", "notes", "share", "verdict"]

# A latency at rest above this share of its limit passes the limit by chance.
_NEAR = 0.5


def latency(microseconds: float | None) -> str:
    """Return a time with three digits and its unit."""
    if microseconds is None:
        return "-"
    if microseconds >= 999_500:
        return f"{microseconds / 1e6:.3g} s"
    if microseconds >= 999.5:
        return f"{microseconds / 1e3:.3g} ms"
    return f"{microseconds:.0f} µs"


def share(value: float | None) -> str:
    """Return a share from 0 to 1 in per cent."""
    if value is None:
        return "-"
    return f"{100 * value:.3g}%" if value < 0.99 else f"{100 * value:.5g}%"


def count(number: float) -> str:
    """Return a whole number, in groups of three digits."""
    return f"{number:,.0f}"


def headline(report: dict[str, Any]) -> str:
    """Return the main result in a line."""
    options, total = report["options"], report["total"]
    target = options["target"]
    if report["capacity"]:
        limits = options["slo"]
        return f"{target}: {report['capacity']['rate']:.4g} requests/s at {limits}"
    times = total["latency_us"] or {}
    p99 = latency(times.get("p99"))
    return f"{target}: {total['right_per_s']:.4g} answers/s, p99 {p99}"


def verdict(report: dict[str, Any]) -> tuple[bool, str]:
    """Return whether the run succeeded, and the verdict in a few words."""
    if report["interrupted"]:
        return False, "interrupted"
    if report["capacity"]:
        capacity = report["capacity"]
        if capacity["confirmed"]:
            return True, f"capacity {capacity['rate']:.4g}/s"
        return False, f"capacity {capacity['rate']:.4g}/s, not confirmed"
    if report["exit_code"] == 0:
        return True, "all objectives met"
    missed = [item["text"] for item in report["slo"] if not item["met"]]
    return False, f"missed {missed[0]}" if missed else "failures"


def notes(report: dict[str, Any]) -> Iterator[str]:
    """Yield the reservations that a reader has to know."""
    if report["interrupted"]:
        yield "The run was interrupted; these are its figures until then."
    if report["generator"]["bottleneck"]:
        yield f"The generator was the bottleneck: {report['generator']['bottleneck']}."
    counts = report["total"]["counts"]
    queued = counts.get("queued", 0) + counts.get("not_sent", 0)
    if report["options"]["loop"] == "open" and queued > 0.01 * counts.get("offered", 0):
        yield (
            f"{count(queued)} requests were due while all "
            f"{report['options']['users']} users were busy. They waited, and their "
            "latency counts the waiting; --users gives more users."
        )
    if report["capacity"]:
        yield from _near_limits(report)
    if "missing" in report["server"]:
        yield f"No figures of the server: {report['server']['missing']}"
    if not report["labelled_pictures"]:
        yield (
            "No picture has a label that the model knows, so that the accuracy is not "
            "known; answers were still compared with those that the pictures had alone."
        )


def _near_limits(report: dict[str, Any]) -> Iterator[str]:
    """Yield a note for each limit that is near the latency at rest."""
    stages = [stage for stage in report["stages"] if stage["measured"]]
    gentlest = min(stages, key=lambda stage: stage["from"], default=None)
    times = (gentlest or {}).get("latency_us") or {}
    for limit in latency_limits(parse(report["options"]["slo"])):
        found = times.get(limit.figure)
        if gentlest and found is not None and found > _NEAR * limit.bound:
            yield (
                f"At only {gentlest['from']:.4g} requests/s {limit.figure} was "
                f"{latency(found)} already, so that chance decides where it passes "
                f"{latency(limit.bound)}. A wider limit gives a capacity that repeats."
            )
