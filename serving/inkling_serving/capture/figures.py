# SPDX-License-Identifier: Apache-2.0
"""The metrics of the captures and of the feedback."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from inkling.capture.store import LiveAccuracy
from inkling_serving.runtime.metrics import NOW

__all__ = ["REASONS", "counted", "fed_back"]

# Why a picture of the share was not stored.
REASONS = ("queue", "full", "disk", "redaction")


def counted(counts: Sequence[Mapping[str, float]]) -> Iterator[Metric]:
    """Yield the metrics of the captures, summed over the processes."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    yield CounterMetricFamily(
        "inkling_capture_pictures", "Pictures that were captured.", total["stored"]
    )
    dropped = CounterMetricFamily(
        "inkling_capture_dropped",
        "Pictures of the share that were not captured: the queue or the bound on bytes "
        "was full, the disk failed, or the redaction gave none.",
        labels=("reason",),
    )
    for reason in REASONS:
        dropped.add_metric((reason,), total[reason])
    yield dropped
    yield GaugeMetricFamily(
        "inkling_capture_stopped",
        "Workers that cannot write captures now, because the disk is full or fails.",
        total[f"{NOW}stopped"],
    )


def fed_back(found: Sequence[LiveAccuracy]) -> Iterator[Metric]:
    """Yield the metrics of the feedback."""
    names = ("model", "version")
    count = GaugeMetricFamily(
        "inkling_feedback", "Answers that have feedback.", labels=names
    )
    right = GaugeMetricFamily(
        "inkling_feedback_right", "Answers of these that were right.", labels=names
    )
    accuracy = GaugeMetricFamily(
        "inkling_live_accuracy",
        "Share of the answers with feedback that were right.",
        labels=names,
    )
    for one in found:
        labels = (one.model, str(one.version))
        count.add_metric(labels, one.count)
        right.add_metric(labels, one.right)
        accuracy.add_metric(labels, one.right / one.count)
    yield from (count, right, accuracy)
