# SPDX-License-Identifier: Apache-2.0
"""The metrics of the gateway for Prometheus: counts and durations of all requests.

Each request is counted with a few additions in plain Python, because this code runs in
each request; prometheus_client only writes the format. Each of several workers writes a
snapshot into a shared directory once a second. The worker that answers `/metrics` adds
the snapshots up. The snapshots of workers that have ended stay, so that no counter ever
decreases.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPEN_METRICS
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from prometheus_client.samples import Exemplar

from inkling_serving.comparison import (
    Compared,
    Comparisons,
    comparison_metrics,
    comparisons_of,
)
from inkling_serving.runtime.files import ProcessFiles
from inkling_serving.runtime.logs import AccessLog, dropped_lines
from inkling_serving.runtime.memory import resident_bytes
from inkling_serving.runtime.timings import PHASES, Timings

__all__ = [
    "CONTENT_TYPE_LATEST",
    "NOW",
    "OPEN_METRICS",
    "Counted",
    "Metrics",
    "Served",
    "Total",
]

# Upper bounds in seconds, from a small model's forward pass to a whole timeout.
_BUCKETS = (
    *(5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_Bucket = tuple[str, float] | tuple[str, float, Exemplar]
# Counters of parts whose names begin so are the state of a worker.
NOW = "now/"
# A worker whose snapshot is older has ended; its memory is free.
_GONE_AFTER_S = 5.0


class _Histogram:
    """Counts of seconds by bucket, and the last traced request of each."""

    __slots__ = ("counts", "exemplars", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.total = 0.0
        # Trace, seconds and time, by the place of the bucket as a text, as JSON has it.
        self.exemplars: dict[str, tuple[str, float, float]] = {}

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_BUCKETS, seconds)] += 1
        self.total += seconds

    def exemplify(self, seconds: float, trace_id: str) -> None:
        place = str(bisect_left(_BUCKETS, seconds))
        self.exemplars[place] = (trace_id, seconds, time.time())

    def merge(
        self,
        counts: Iterable[int],
        total: float,
        exemplars: Mapping[str, tuple[str, float, float]],
    ) -> None:
        for place, one in exemplars.items():
            before = self.exemplars.get(place)
            if before is None or before[2] < one[2]:
                self.exemplars[place] = one
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]
        self.total += total


@dataclass
class Total:
    """A number of requests, and the sum of their durations in seconds."""

    count: int = 0
    seconds: float = 0.0


@dataclass
class Served:
    """The requests that one version has had, over all processes and protocols.

    Attributes:
        model: The model's name.
        version: The version's number.
        answered: The requests that were answered.
        failed: The requests that were refused after the version was found.
        images: The pictures and model inputs of the answered requests.
        last: When the last one was answered, in seconds since 1970.
        phases: The seconds of each phase of all these requests.
    """

    model: str
    version: str
    answered: Total = field(default_factory=Total)
    failed: Total = field(default_factory=Total)
    images: int = 0
    last: float = 0.0
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))

    @property
    def count(self) -> int:
        """The number of all these requests."""
        return self.answered.count + self.failed.count


class Counted(Protocol):
    """A part of the gateway with metrics of its own."""

    def counts(self) -> dict[str, float]:
        """Return the counters of this process; those of `NOW` end with it."""

    def families(self, counts: Sequence[dict[str, float]]) -> Iterator[Metric]:
        """Yield the metrics for the counters of all processes."""


class Metrics:
    """Counts the requests of a process; several threads may use it."""

    def __init__(
        self,
        folder: Path | None = None,
        access: AccessLog | None = None,
        trace: Callable[[str, str, Timings], None] | None = None,
        parts: Mapping[str, Counted] = MappingProxyType({}),
    ) -> None:
        """Start at zero.

        Args:
            folder: The directory that all workers share, if any.
            access: Logs the requests that are counted; None logs none.
            trace: Traces requests that are counted, and gives each its trace; None
                traces none.
            parts: The parts of this process with metrics of their own, by name.
        """
        self._parts = parts
        self._files = ProcessFiles(folder, "json")
        self._access = access or AccessLog(0.0)
        self._trace = trace
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._seconds: dict[tuple[str, ...], _Histogram] = {}
        self._phases: dict[tuple[str, ...], list[_Histogram]] = {}
        # For each model, version and `ok` or `failed`: requests, seconds, pictures, and
        # the time of the last one.
        self._served: dict[tuple[str, str, str], list[float]] = {}
        self._compared: Comparisons = {}

    def observe(self, protocol: str, code: str, timings: Timings) -> None:
        """Count an answered request under `ok` or the code of its error."""
        if self._trace is not None:
            self._trace(protocol, code, timings)
        self._access.tell(protocol, code, timings)
        with self._lock:
            self._requests[protocol, timings.model, code] += 1
            if timings.version:
                self._time(protocol, "ok" if code == "ok" else "failed", timings)

    def _time(self, protocol: str, end: str, timings: Timings) -> None:
        version = str(timings.version)
        whole = (protocol, timings.model, version)
        seconds = self._seconds.get(whole)
        if seconds is None:
            seconds = self._seconds[whole] = _Histogram()
        duration = time.perf_counter() - timings.started
        seconds.add(duration)
        if timings.trace_id and timings.is_traced and self._trace is not None:
            seconds.exemplify(duration, timings.trace_id)
        served = self._served.setdefault(
            (timings.model, version, end), [0, 0.0, 0, 0.0]
        )
        served[0] += 1
        served[1] += duration
        served[2] += timings.images
        served[3] = time.time()
        phases = self._phases.get((timings.model, version))
        if phases is None:
            phases = [_Histogram() for _ in PHASES]
            self._phases[timings.model, version] = phases
        for name, phase in zip(PHASES, phases, strict=True):
            phase.add(getattr(timings, name))

    def compare(self, model: str, version: str, shadow: str, found: Compared) -> None:
        """Count the comparison of a version with a shadow."""
        with self._lock:
            self._compared.setdefault((model, version, shadow), Compared()).add(found)

    def comparisons(self) -> Comparisons:
        """Return the comparisons over all workers, by model, version and shadow."""
        return comparisons_of([self._snapshot(), *self._others()])

    def counts_of(self, part: str) -> list[dict[str, float]]:
        """Return the counters of a part in each worker."""
        return [one["parts"][part] for one in [self._snapshot(), *self._others()]]

    def save(self) -> None:
        """Write a snapshot for the other workers, if there are any."""
        self._files.write(self._snapshot())

    def exposition(
        self, state: Iterable[Metric] = (), form: str = CONTENT_TYPE_LATEST
    ) -> bytes:
        """Return the figures of all workers in Prometheus's text format.

        Args:
            state: More metrics, which are the same in all workers.
            form: `CONTENT_TYPE_LATEST`, or `OPEN_METRICS` for the format that also has
                an exemplar of each bucket: a request that was traced.
        """
        registry = CollectorRegistry(auto_describe=False)
        snapshots = [self._snapshot(), *self._others()]
        registry.register(_Sum(snapshots, state, self._parts))
        if form == OPEN_METRICS:
            page: bytes = open_metrics(registry)  # type: ignore[no-untyped-call]
            return page
        return generate_latest(registry)

    def served(self) -> list[Served]:
        """Return what each version has had, over all workers."""
        found: dict[tuple[str, str], Served] = {}
        for snapshot in [self._snapshot(), *self._others()]:
            for model, version, end, count, seconds, images, last in snapshot["served"]:
                one = found.setdefault((model, version), Served(model, version))
                total = one.answered if end == "ok" else one.failed
                total.count += count
                total.seconds += seconds
                if end == "ok":
                    one.images += images
                    one.last = max(one.last, last)
            for (phase, model, version), _, seconds, _ in snapshot["phases"]:
                found[model, version].phases[phase] += seconds
        return list(found.values())

    def _others(self) -> Iterator[dict[str, Any]]:
        for told in self._files.others():
            snapshot = told.content
            if time.time() - snapshot["at"] > _GONE_AFTER_S:
                snapshot["memory"] = snapshot["workers"] = 0
                snapshot["parts"] = {
                    name: {k: n for k, n in one.items() if not k.startswith(NOW)}
                    for name, one in snapshot["parts"].items()
                }
            yield snapshot

    def _snapshot(self) -> dict[str, Any]:
        with self._lock:
            return {
                "at": time.time(),
                "workers": 1,
                "cpu": time.process_time(),
                "memory": resident_bytes(),
                "log_lines_dropped": dropped_lines(),
                "parts": {name: one.counts() for name, one in self._parts.items()},
                "served": [[*key, *one] for key, one in self._served.items()],
                "compared": [[key, asdict(one)] for key, one in self._compared.items()],
                "requests": [[*key, n] for key, n in self._requests.items()],
                "seconds": [
                    [key, one.counts, one.total, dict(one.exemplars)]
                    for key, one in self._seconds.items()
                ],
                "phases": [
                    [(name, *key), one.counts, one.total, {}]
                    for key, phases in self._phases.items()
                    for name, one in zip(PHASES, phases, strict=True)
                ],
            }


class _Sum:
    """A collector of prometheus_client that adds snapshots up."""

    def __init__(
        self,
        snapshots: list[dict[str, Any]],
        state: Iterable[Metric],
        parts: Mapping[str, Counted],
    ) -> None:
        self._snapshots = snapshots
        self._state = state
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        requests = CounterMetricFamily(
            "inkling_requests",
            "Answered requests; code is ok or the code of the error.",
            labels=("protocol", "model", "code"),
        )
        counted: Counter[tuple[str, ...]] = Counter()
        for snapshot in self._snapshots:
            for *labels, count in snapshot["requests"]:
                counted[tuple(labels)] += count
        for labels, count in sorted(counted.items()):
            requests.add_metric(labels, count)
        yield requests
        yield self._histograms(
            "seconds",
            "inkling_request_seconds",
            "Seconds from the head of a request to its response, if a model was found.",
            ("protocol", "model", "version"),
        )
        yield self._histograms(
            "phases",
            "inkling_phase_seconds",
            "Seconds of each phase of a request: " + ", ".join(PHASES) + ".",
            ("phase", "model", "version"),
        )
        yield self._by_version()
        yield from comparison_metrics(comparisons_of(self._snapshots))
        yield from self._process()
        yield from self._state
        for name, part in self._parts.items():
            yield from part.families([one["parts"][name] for one in self._snapshots])

    def _histograms(
        self, part: str, name: str, text: str, labels: tuple[str, ...]
    ) -> Metric:
        family = HistogramMetricFamily(name, text, labels=labels)
        merged: dict[tuple[str, ...], _Histogram] = {}
        for snapshot in self._snapshots:
            for key, *figures in snapshot[part]:
                merged.setdefault(tuple(key), _Histogram()).merge(*figures)
        bounds = [str(bound) for bound in _BUCKETS] + ["+Inf"]
        for key, one in sorted(merged.items()):
            below, buckets = 0, list[_Bucket]()
            for place, count in enumerate(one.counts):
                below += count
                traced = one.exemplars.get(str(place))
                bucket = (bounds[place], float(below))
                buckets.append((*bucket, _exemplar(traced)) if traced else bucket)
            family.add_metric(key, buckets, one.total)
        return family

    def _by_version(self) -> Metric:
        family = CounterMetricFamily(
            "inkling_version_requests",
            "Requests by the version that they were for; outcome is ok or failed.",
            labels=("model", "version", "outcome"),
        )
        counted: Counter[tuple[str, str, str]] = Counter()
        for snapshot in self._snapshots:
            for model, version, outcome, count, *_ in snapshot["served"]:
                counted[model, version, outcome] += count
        for labels, count in sorted(counted.items()):
            family.add_metric(labels, count)
        return family

    def _process(self) -> Iterator[Metric]:
        def sum_of(name: str) -> float:
            return float(sum(snapshot[name] for snapshot in self._snapshots))

        yield CounterMetricFamily(
            "process_cpu_seconds", "CPU time of all workers.", sum_of("cpu")
        )
        yield CounterMetricFamily(
            "inkling_log_lines_dropped",
            "Log lines that were dropped, because the log was not read.",
            sum_of("log_lines_dropped"),
        )
        yield GaugeMetricFamily(
            "process_resident_memory_bytes", "Memory of all workers.", sum_of("memory")
        )
        yield GaugeMetricFamily(
            "inkling_workers", "Workers that are alive.", sum_of("workers")
        )


def _exemplar(of: tuple[str, float, float]) -> Exemplar:
    trace_id, seconds, at = of
    return Exemplar({"trace_id": trace_id}, seconds, at)
