# SPDX-License-Identifier: Apache-2.0
"""The metrics of the gateway for Prometheus: counts and durations of all requests.

Each request is counted with a few additions in plain Python, because this code runs in
each request; prometheus_client only writes the format. Each of several workers writes a
snapshot into a shared directory once a second. The worker that answers `/metrics` adds
the snapshots up. The snapshots of workers that have ended stay, so that no counter ever
decreases.
"""

from __future__ import annotations

import json
import os
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from inkling_serving.runtime.logs import AccessLog, dropped_lines
from inkling_serving.runtime.timings import PHASES, Timings

__all__ = ["CONTENT_TYPE_LATEST", "Counted", "Metrics", "Served", "Total"]

# Upper bounds in seconds, from a small model's forward pass to a whole timeout.
_BUCKETS = (
    *(5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# A worker whose snapshot is older has ended; its memory is free.
_GONE_AFTER_S = 5.0


class _Histogram:
    """Counts of seconds by bucket."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_BUCKETS, seconds)] += 1
        self.total += seconds

    def merge(self, counts: Iterable[int], total: float) -> None:
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
        """Return the counters of this process."""

    def families(self, counts: Sequence[dict[str, float]]) -> Iterator[Metric]:
        """Yield the metrics for the counters of all processes."""


class Metrics:
    """Counts the requests of a process; several threads may use it."""

    def __init__(
        self,
        folder: Path | None = None,
        access: AccessLog | None = None,
        capture: Counted | None = None,
    ) -> None:
        """Start at zero.

        Args:
            folder: The directory that all workers share, if any.
            access: Logs the requests that are counted; None logs none.
            capture: The captures of this process; None for none.
        """
        self._capture = capture
        self._folder = folder
        self._access = access or AccessLog(0.0)
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._seconds: dict[tuple[str, ...], _Histogram] = {}
        self._phases: dict[tuple[str, ...], list[_Histogram]] = {}
        # For each model, version and `ok` or `failed`: requests, seconds, pictures, and
        # the time of the last one.
        self._served: dict[tuple[str, str, str], list[float]] = {}

    def observe(self, protocol: str, code: str, timings: Timings) -> None:
        """Count an answered request under `ok` or the code of its error."""
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

    def save(self) -> None:
        """Write a snapshot for the other workers, if there are any."""
        if self._folder is None:
            return
        path = self._folder / f"{os.getpid()}.json"
        written = path.with_suffix(".new")
        # Systems clean their directory of temporary files.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        written.write_text(json.dumps(self._snapshot()), encoding="utf-8")
        written.replace(path)

    def exposition(self) -> bytes:
        """Return the figures of all workers in Prometheus's text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Sum([self._snapshot(), *self._others()], self._capture))
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
            for (phase, model, version), _, seconds in snapshot["phases"]:
                found[model, version].phases[phase] += seconds
        return list(found.values())

    def _others(self) -> Iterator[dict[str, Any]]:
        if self._folder is None:
            return
        own = f"{os.getpid()}.json"
        for path in self._folder.glob("*.json"):
            if path.name != own:
                try:
                    snapshot = json.loads(path.read_text(encoding="utf-8"))
                except (OSError, ValueError):  # it was removed meanwhile
                    continue
                if time.time() - snapshot["at"] > _GONE_AFTER_S:
                    snapshot["memory"] = snapshot["workers"] = 0
                    snapshot["capture"]["stopped"] = 0
                yield snapshot

    def _snapshot(self) -> dict[str, Any]:
        with self._lock:
            return {
                "at": time.time(),
                "workers": 1,
                "cpu": time.process_time(),
                "memory": _resident_bytes(),
                "log_lines_dropped": dropped_lines(),
                "capture": self._capture.counts() if self._capture else {},
                "served": [[*key, *one] for key, one in self._served.items()],
                "requests": [[*key, n] for key, n in self._requests.items()],
                "seconds": [
                    [key, one.counts, one.total] for key, one in self._seconds.items()
                ],
                "phases": [
                    [(name, *key), one.counts, one.total]
                    for key, phases in self._phases.items()
                    for name, one in zip(PHASES, phases, strict=True)
                ],
            }


class _Sum:
    """A collector of prometheus_client that adds snapshots up."""

    def __init__(
        self, snapshots: list[dict[str, Any]], capture: Counted | None
    ) -> None:
        self._snapshots = snapshots
        self._capture = capture

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
        yield from self._process()
        if self._capture is not None:
            counts = [snapshot["capture"] for snapshot in self._snapshots]
            yield from self._capture.families(counts)

    def _histograms(
        self, part: str, name: str, text: str, labels: tuple[str, ...]
    ) -> Metric:
        family = HistogramMetricFamily(name, text, labels=labels)
        merged: dict[tuple[str, ...], _Histogram] = {}
        for snapshot in self._snapshots:
            for key, counts, total in snapshot[part]:
                merged.setdefault(tuple(key), _Histogram()).merge(counts, total)
        bounds = [str(bound) for bound in _BUCKETS] + ["+Inf"]
        for key, one in sorted(merged.items()):
            below, buckets = 0, []
            for bound, count in zip(bounds, one.counts, strict=True):
                below += count
                buckets.append((bound, below))
            family.add_metric(key, buckets, one.total)
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


def _resident_bytes() -> int:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:  # only Linux has this file
        return 0
    return int(pages) * _PAGE_BYTES
