# SPDX-License-Identifier: Apache-2.0
"""Figures of tallies, for the objectives and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

from inkling_loadtest.measures.recorded import Recorded
from inkling_loadtest.measures.tallies import Tally

__all__ = ["curve", "generator_limit", "latency", "summary", "value_of"]

_SHARE_OF = {"errors": ("failed", "offered"), "refused": ("refused", "offered")}
_RATE_OF = {"rate": "right", "goodput": "good"}

# From these limits on, the load generator is the bottleneck.
_BUSY_SHARE = 0.9
_LATE_US = 5_000
_LATE_SHARE = 0.2
# As hdrh plots them: five points until half of the rest of the values is left.
_STEPS_PER_HALVING = 5
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
    recorded = Recorded(histogram)
    if not recorded.total:
        return None
    if figure == "mean":
        return recorded.mean
    if figure == "max":
        return recorded.most
    return recorded.percentiles([float(figure[1:])])[0]


def latency(histogram: HdrHistogram) -> dict[str, float] | None:
    """Return mean, percentiles and maximum in microseconds; None if it is empty."""
    recorded = Recorded(histogram)
    if not recorded.total:
        return None
    names = [f"p{percent:g}" for percent in _PERCENTILES]
    found = dict(zip(names, recorded.percentiles(_PERCENTILES), strict=True))
    return {"mean": round(recorded.mean, 1), **found, "max": recorded.most}


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
    recorded = Recorded(histogram)
    if not recorded.total:
        return []
    halvings = math.ceil(math.log2(recorded.total)) + 1
    levels = [
        100 - 100 / 2 ** (step / _STEPS_PER_HALVING)
        for step in range(halvings * _STEPS_PER_HALVING)
    ]
    levels.append(100.0)
    return list(zip(levels, recorded.percentiles(levels), strict=True))


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
