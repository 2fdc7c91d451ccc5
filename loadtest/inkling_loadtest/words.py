"""How figures are said, in the page and on the terminal."""

from __future__ import annotations

from typing import Any

__all__ = ["count", "headline", "latency", "share", "verdict"]


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
    """Return a share from 0 to 1 in per cent; small ones keep their digits."""
    if value is None:
        return "-"
    return f"{100 * value:.3g}%" if value < 0.99 else f"{100 * value:.5g}%"


def count(number: float) -> str:
    """Return a whole number, in groups of three digits."""
    return f"{number:,.0f}"


def headline(report: dict[str, Any]) -> str:
    """Return what was found, in a line."""
    options, total = report["options"], report["total"]
    target = options["target"]
    if report["capacity"]:
        limits = options["slo"]
        return f"{target}: {report['capacity']['rate']:.4g} requests/s at {limits}"
    times = total["latency_us"] or {}
    p99 = latency(times.get("p99"))
    return f"{target}: {total['right_per_s']:.4g} answers/s, p99 {p99}"


def verdict(report: dict[str, Any]) -> tuple[bool, str]:
    """Return whether all is well, and a word for it."""
    if report["interrupted"]:
        return False, "interrupted"
    if report["capacity"]:
        capacity = report["capacity"]
        if capacity["confirmed"]:
            return True, f"capacity {capacity['rate']:.4g}/s"
        return False, f"capacity {capacity['rate']:.4g}/s, not confirmed"
    if report["exit_code"] == 0:
        return True, "all promises kept"
    missed = [item["text"] for item in report["slo"] if not item["met"]]
    return False, f"missed {missed[0]}" if missed else "failures"
