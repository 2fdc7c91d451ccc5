# SPDX-License-Identifier: Apache-2.0
"""Figures of tallies, for the objectives and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

from inkling_loadtest.measures.tallies import Tally

__all__ = ["curve", "generator_limit", "latency", "summary", "value_of"]

_SHARE_OF = {"errors": ("failed", "offered"), "refused": ("refused", "offered")}
_RATE_OF = {"rate": "right", "goodput": "good"}

# From these limits on, the load generator is the bottleneck.
_BUSY_SHARE = 0.9
_LATE_US = 5_000
_LATE_SHARE = 0.2
_PERCENTILES = (50, 90, 95, 99, 99.9, 99.99)


def value_of(figure: str, tally: Tally, seconds: float) -> float | None:
    """Return the figure of an objective; None if nothing was measured.

    A latency is in microseconds, a share from 0 to 1, a rate in answers per second.
    """
    counts = tally.counts
    if figure in _RATE_OF:
        return counts[_RATE_OF[figure]] / seconds
    if figure == "accuracy":
        return counts["correct"] / counts["labelled"] if counts["labelled"] else None
    if figure in _SHARE_OF:
        part, whole = _SHARE_OF[figure]
        return counts[part] / counts[whole] if counts[whole] else None
    return _latency(figure, tally.histogram("latency"))


def _latency(figure: str, histogram: HdrHistogram) -> float | None:
    if not histogram.get_total_count():
        return None
    if figure == "mean":
        return float(histogram.get_mean_value())
    if figure == "max":
        return float(histogram.get_max_value())
    return float(histogram.get_value_at_percentile(float(figure[1:])))


def latency(histogram: HdrHistogram) -> dict[str, float] | None:
    """Return mean, percentiles and maximum in microseconds; None if it is empty."""
    if not histogram.get_total_count():
        return None
    found = {
        f"p{p:g}": float(histogram.get_value_at_percentile(p)) for p in _PERCENTILES
    }
    mean, most = histogram.get_mean_value(), histogram.get_max_value()
    return {"mean": round(float(mean), 1), **found, "max": float(most)}


def summary(tally: Tally, seconds: float) -> dict[str, Any]:
    """Return counts, rates and latencies of requests, as plain values."""
    counts = tally.counts
    return {
        "seconds": round(seconds, 3),
        "counts": dict(counts),
        "offered_per_s": round(counts["offered"] / seconds, 3),
        "right_per_s": round(counts["right"] / seconds, 3),
        "goodput_per_s": round(counts["good"] / seconds, 3),
        "refused_per_s": round(counts["refused"] / seconds, 3),
        "pictures_per_s": round(counts["pictures"] / seconds, 3),
        "errors": value_of("errors", tally, seconds),
        "refused": value_of("refused", tally, seconds),
        "accuracy": value_of("accuracy", tally, seconds),
        "latency_us": latency(tally.histogram("latency")),
        "service_us": latency(tally.histogram("service")),
        "refused_us": latency(tally.histogram("refused")),
        "failed_us": latency(tally.histogram("failed")),
        "late_us": latency(tally.histogram("late")),
        "reasons": dict(tally.reasons.most_common()),
        "examples": tally.details,
    }


def curve(histogram: HdrHistogram) -> list[tuple[float, float]]:
    """Return (percent, microseconds) along a histogram, denser in its tail."""
    if not histogram.get_total_count():
        return []
    return [
        (float(item.percentile_level_iterated_to), float(item.value_iterated_to))
        for item in histogram.get_percentile_iterator(5)
    ]


def generator_limit(tally: Tally, shares: Sequence[float]) -> str:
    """Return why the load generator was the bottleneck; empty if it was not.

    Args:
        tally: The requests of a time.
        shares: Shares of a core that its processes took then, second by second.
    """
    busiest = sorted(shares)[int(len(shares) * 0.75)] if shares else 0.0
    if busiest >= _BUSY_SHARE:
        return f"one of its processes took {busiest:.0%} of a core; use --processes"
    late_us = _latency("p99", tally.histogram("late")) or 0.0
    p99_us = _latency("p99", tally.histogram("latency")) or 0.0
    if late_us >= _LATE_US and late_us >= _LATE_SHARE * p99_us:
        return (
            f"it sent 1 of 100 requests {late_us / 1e3:.1f} ms late or more with users "
            "free; its machine is busy with something else"
        )
    return ""
