# SPDX-License-Identifier: Apache-2.0
"""The moments at which requests are due: a Poisson process with a changing rate."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Stage", "arrivals"]


@dataclass(frozen=True)
class Stage:
    """A part of a load test with one kind of load.

    Attributes:
        name: Its name in the report.
        seconds: How long it lasts.
        start: Arrivals per second at its beginning; in a closed loop, users.
        end: The same at its end; in between, the level changes linearly.
        is_open: Whether requests arrive independently of the answers to others.
        measured: Whether its requests count in the totals.
    """

    name: str
    seconds: float
    start: float
    end: float
    is_open: bool = True
    measured: bool = True

    def level(self, at_s: float) -> float:
        """Return the rate, or the number of users, at a time after the beginning."""
        share = min(max(at_s / self.seconds, 0.0), 1.0)
        return self.start + (self.end - self.start) * share

    def share(self, parts: int) -> dict[str, Any]:
        """Return the share of one of several processes, as plain values."""
        return {**vars(self), "start": self.start / parts, "end": self.end / parts}


def arrivals(stage: Stage, seed: str) -> Iterator[float]:
    """Yield the seconds after the stage's beginning at which requests are due.

    The number of arrivals up to a time has a Poisson distribution: an arrival is where
    the integral of the rate reaches the sum of so many exponential variates.
    """
    chance = random.Random(seed)
    slope = (stage.end - stage.start) / stage.seconds
    due = chance.expovariate(1.0)
    while (at_s := _inverse(due, stage.start, slope)) < stage.seconds:
        yield at_s
        due += chance.expovariate(1.0)


def _inverse(expected: float, start: float, slope: float) -> float:
    """Return the time t at which start t + slope t^2 / 2 = expected."""
    if abs(slope) < 1e-12:
        return expected / start if start > 0 else math.inf
    root = start * start + 2 * slope * expected
    return (math.sqrt(root) - start) / slope if root >= 0 else math.inf
