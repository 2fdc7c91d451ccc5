# SPDX-License-Identifier: Apache-2.0
"""The comparison of versions with shadows in figures, and its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

__all__ = ["Compared", "Comparisons", "comparison_metrics", "comparisons_of"]


@dataclass
class Compared:
    """The comparison of a version's answers with those of a shadow.

    Attributes:
        pictures: The pictures that both answered.
        agreed: Those of them for which both have the same label.
        difference: The largest difference of a score.
        seconds: The sum of the seconds in which the engine answered them.
        shadow_seconds: The same of the shadow.
        dropped: The pictures that were not compared, because the gateway was busy.
        failed: The pictures that the shadow could not answer.
    """

    pictures: int = 0
    agreed: int = 0
    difference: float = 0.0
    seconds: float = 0.0
    shadow_seconds: float = 0.0
    dropped: int = 0
    failed: int = 0

    def add(self, other: Compared) -> None:
        """Add the figures of further pictures."""
        difference = max(self.difference, other.difference)
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        self.difference = difference


# By model, version and shadow.
Comparisons: TypeAlias = dict[tuple[str, str, str], Compared]
_SHADOW_METRICS: dict[str, tuple[str, str, Any]] = {
    "pictures": (
        "inkling_shadow_pictures",
        "Pictures that a version and a shadow answered.",
        CounterMetricFamily,
    ),
    "agreed": (
        "inkling_shadow_agreed",
        "Those of them for which both have the same label.",
        CounterMetricFamily,
    ),
    "difference": (
        "inkling_shadow_largest_difference",
        "The largest difference of a score.",
        GaugeMetricFamily,
    ),
    "seconds": (
        "inkling_shadow_answer_seconds",
        "Seconds in which the engine ran the version that answered.",
        CounterMetricFamily,
    ),
    "shadow_seconds": (
        "inkling_shadow_seconds",
        "Seconds in which the engine ran the shadow.",
        CounterMetricFamily,
    ),
    "dropped": (
        "inkling_shadow_dropped",
        "Pictures that were not compared, because the gateway was busy.",
        CounterMetricFamily,
    ),
    "failed": (
        "inkling_shadow_failed",
        "Pictures that the shadow could not answer.",
        CounterMetricFamily,
    ),
}


def comparisons_of(
    snapshots: Iterable[Mapping[str, Any]],
) -> Comparisons:
    """Return the sum of the comparisons in the snapshots of all workers."""
    found: Comparisons = {}
    for snapshot in snapshots:
        for (model, version, shadow), values in snapshot["compared"]:
            one = found.setdefault((model, version, shadow), Compared())
            one.add(Compared(**values))
    return found


def comparison_metrics(found: Comparisons) -> Iterator[Metric]:
    """Yield a metric for each figure."""
    for attribute, (name, text, kind) in _SHADOW_METRICS.items():
        family = kind(name, text, labels=("model", "version", "shadow"))
        for labels, one in sorted(found.items()):
            family.add_metric(labels, getattr(one, attribute))
        yield family
