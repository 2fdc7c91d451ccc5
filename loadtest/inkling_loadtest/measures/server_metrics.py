# SPDX-License-Identifier: Apache-2.0
"""The gateway's own metrics, read from `/metrics` while it is loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from inkling.errors import InklingError
from inkling.gateway.http_transport import HttpTransport
from inkling_loadtest.options import Options

__all__ = ["PHASES", "ServerMetrics"]

PHASES = ("receive", "decode", "preprocess", "queue", "engine", "encode")
_CPU, _MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"
_PHASE = "inkling_phase_seconds"


@dataclass(frozen=True)
class _Snapshot:
    """The figures at one moment.

    Attributes:
        at_s: The moment, in seconds of the run.
        cpu_s: CPU time that all processes of the gateway have taken.
        memory: Bytes that they hold.
        sums: By phase, seconds that requests have spent in it.
        counts: By phase, the number of these requests.
        buckets: By phase and upper bound in seconds, the number that took no longer.
    """

    at_s: float
    cpu_s: float
    memory: float
    sums: Mapping[str, float]
    counts: Mapping[str, float]
    buckets: Mapping[str, Mapping[float, float]]


class ServerMetrics:
    """Reads the metrics from time to time, and sums them up."""

    def __init__(self, options: Options) -> None:
        """Take the options, and read for the first time."""
        connection = options.metrics_connection()
        self._url = connection.target
        self._transport = HttpTransport(connection)
        self._began_s = perf_counter()
        self._snapshots: list[_Snapshot] = []
        self._missing = ""
        self.read()

    def read(self) -> None:
        """Read the metrics; not again where they could not be read at first."""
        if self._missing:
            return
        try:
            answer = self._transport.once("GET", "")
            why = f"answers {answer.status}"
            if answer.status == HTTPStatus.OK:
                text = answer.body.decode()
                self._snapshots.append(_snapshot(text, perf_counter() - self._began_s))
                return
        except (InklingError, ValueError):
            why = "cannot be read"
        if not self._snapshots:
            self._missing = f"{self._url} {why}; --metrics-url gives another address."

    def findings(self, spans: Sequence[tuple[float, float]]) -> dict[str, Any]:
        """Return CPU and memory over time, and the phases during the given spans."""
        self.read()
        if len(self._snapshots) < 2:
            return {"missing": self._missing or f"{self._url} was read too seldom."}
        pairs = zip(self._snapshots, self._snapshots[1:], strict=False)
        return {
            "url": self._url,
            "cpu": [
                [round(b.at_s, 2), round((b.cpu_s - a.cpu_s) / (b.at_s - a.at_s), 3)]
                for a, b in pairs
                if b.at_s - a.at_s > 0.2
            ],
            "memory": [[round(one.at_s, 2), one.memory] for one in self._snapshots],
            "phases": self._phases(spans),
        }

    def _phases(self, spans: Sequence[tuple[float, float]]) -> dict[str, Any]:
        """Return mean and 99th percentile in milliseconds, and the count, by phase."""
        sums: defaultdict[str, float] = defaultdict(float)
        counts: defaultdict[str, float] = defaultdict(float)
        buckets: dict[str, defaultdict[float, float]] = {}
        for start_s, end_s in spans:
            first = min(self._snapshots, key=lambda one: abs(one.at_s - start_s))
            last = min(self._snapshots, key=lambda one: abs(one.at_s - end_s))
            for phase, total in last.sums.items():
                sums[phase] += total - first.sums.get(phase, 0)
                counts[phase] += last.counts[phase] - first.counts.get(phase, 0)
                before = first.buckets.get(phase, {})
                known = buckets.setdefault(phase, defaultdict(float))
                for bound, count in last.buckets.get(phase, {}).items():
                    known[bound] += count - before.get(bound, 0)
        return {
            phase: {
                "mean_ms": round(sums[phase] / counts[phase] * 1e3, 4),
                "p99_ms": _percentile_ms(buckets[phase], counts[phase], 0.99),
                "count": counts[phase],
            }
            for phase in sorted(sums, key=_order)
            if counts[phase]
        }


def _snapshot(text: str, at_s: float) -> _Snapshot:
    """Return the figures in a text of Prometheus's format.

    Raises:
        ValueError: The text has another form.
    """
    cpu_s = memory = 0.0
    sums: defaultdict[str, float] = defaultdict(float)
    counts: defaultdict[str, float] = defaultdict(float)
    buckets: defaultdict[str, defaultdict[float, float]] = defaultdict(
        lambda: defaultdict(float)
    )
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            phase = sample.labels.get("phase", "")
            if sample.name == _CPU:
                cpu_s += sample.value
            elif sample.name == _MEMORY:
                memory += sample.value
            elif sample.name == f"{_PHASE}_sum":
                sums[phase] += sample.value
            elif sample.name == f"{_PHASE}_count":
                counts[phase] += sample.value
            elif sample.name == f"{_PHASE}_bucket":
                buckets[phase][float(sample.labels["le"])] += sample.value
    return _Snapshot(at_s, cpu_s, memory, sums, counts, buckets)


def _percentile_ms(
    buckets: Mapping[float, float], count: float, share: float
) -> float | None:
    """Return a percentile, interpolated linearly within its bucket."""
    below, bound_below = 0.0, 0.0
    for bound, reached in sorted(buckets.items()):
        if reached >= share * count:
            if bound == float("inf"):
                return round(bound_below * 1e3, 4)
            part = (share * count - below) / max(reached - below, 1e-9)
            return round((bound_below + (bound - bound_below) * part) * 1e3, 4)
        below, bound_below = reached, bound
    return None


def _order(phase: str) -> tuple[int, str]:
    return (PHASES.index(phase) if phase in PHASES else len(PHASES), phase)
