"""What the gateway says of itself at `/metrics` while it is loaded."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from inkling_loadtest.options import Options

__all__ = ["PHASES", "Watch"]

PHASES = ("receive", "decode", "preprocess", "queue", "engine", "encode")
_CPU, _MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"
_PHASE = "inkling_phase_seconds"
_GATEWAY_PORT = 8080
_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class _Look:
    """The figures at one moment.

    Attributes:
        at_s: When, in seconds of the run.
        cpu_s: CPU time that all processes of the gateway have taken.
        memory: Bytes that they hold.
        sums: By phase, seconds that requests have spent in it.
        counts: By phase, how many have.
        buckets: By phase, by upper bound in seconds, how many took no longer.
    """

    at_s: float
    cpu_s: float
    memory: float
    sums: Mapping[str, float]
    counts: Mapping[str, float]
    buckets: Mapping[str, Mapping[float, float]]


class Watch:
    """Looks at the metrics from time to time, and says what they came to."""

    def __init__(self, options: Options) -> None:
        """Take the options, and look for the first time."""
        self._url = _address(options)
        self._began_s = perf_counter()
        self._looks: list[_Look] = []
        self._missing = ""
        self.look()

    def look(self) -> None:
        """Read the metrics; if they cannot be read at first, do so never again."""
        if self._missing:
            return
        try:
            with urllib.request.urlopen(self._url, timeout=_TIMEOUT_S) as response:
                text = response.read().decode("utf-8")
            self._looks.append(_look(text, perf_counter() - self._began_s))
        except urllib.error.HTTPError as error:
            why = f"answers {error.code}"
        except (OSError, ValueError):
            why = "cannot be read"
        else:
            return
        if not self._looks:
            self._missing = f"{self._url} {why}; without it there is nothing to show."

    def findings(self, spans: Sequence[tuple[float, float]]) -> dict[str, Any]:
        """Return CPU and memory over time, and the phases during the given spans."""
        self.look()
        if len(self._looks) < 2:
            return {"missing": self._missing or f"{self._url} was read too seldom."}
        return {
            "url": self._url,
            "cpu": [
                [round(b.at_s, 2), round((b.cpu_s - a.cpu_s) / (b.at_s - a.at_s), 3)]
                for a, b in zip(self._looks, self._looks[1:], strict=False)
                if b.at_s - a.at_s > 0.2
            ],
            "memory": [[round(look.at_s, 2), look.memory] for look in self._looks],
            "phases": self._phases(spans),
        }

    def _phases(self, spans: Sequence[tuple[float, float]]) -> dict[str, Any]:
        """Return mean and 99th percentile in milliseconds, and the count, by phase."""
        sums: defaultdict[str, float] = defaultdict(float)
        counts: defaultdict[str, float] = defaultdict(float)
        buckets: dict[str, defaultdict[float, float]] = {}
        for start_s, end_s in spans:
            first = min(self._looks, key=lambda look: abs(look.at_s - start_s))
            last = min(self._looks, key=lambda look: abs(look.at_s - end_s))
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


def _address(options: Options) -> str:
    if options.metrics_url:
        return options.metrics_url
    if options.protocol == "grpc":
        host = options.address.rpartition(":")[0]
        return f"http://{host}:{_GATEWAY_PORT}/metrics"
    return f"{options.target}/metrics"


def _look(text: str, at_s: float) -> _Look:
    """Return the figures in a text of Prometheus's format.

    Raises:
        ValueError: It is no such text.
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
    return _Look(at_s, cpu_s, memory, sums, counts, buckets)


def _percentile_ms(
    buckets: Mapping[float, float], count: float, share: float
) -> float | None:
    """Return a percentile as far as buckets tell: on a line within its bucket."""
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
