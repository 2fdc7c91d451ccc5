# SPDX-License-Identifier: Apache-2.0
"""Counts how far recent pictures and answers are from the baseline of their version.

A request leaves its inputs and scores where there is room, and a thread counts them in
the bins of the baseline. The counts of a process are those of its last pictures.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client.core import GaugeMetricFamily, Metric

from inkling.errors import InklingError
from inkling.model.drift import (
    FIGURE,
    LEAST_PICTURES,
    Baseline,
    stability_index,
)
from inkling_serving.runtime.metrics import NOW
from inkling_serving.runtime.poller import Repeating

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy.typing as npt

    from inkling.model.repository import Repository
    from inkling_serving.engines.base import Servable

    Floats: TypeAlias = npt.NDArray[np.float32]

__all__ = ["Drift", "Drifted"]

_PAUSE_S = 1.0
# What is counted of each second, by pictures and by bytes; the rest is passed over.
_PICTURES, _BYTES = 64, 4 * 1024**2
# The counts begin anew after so many pictures and seconds. The last but one are kept.
_WINDOW, _WINDOW_S = 1000, 300.0


@dataclass(frozen=True)
class Drifted:
    """How far a version's recent pictures are from its baseline.

    Attributes:
        pictures: The number of recent pictures that were counted.
        index: The population stability index by statistic; empty with fewer pictures
            than `LEAST_PICTURES`, and without a baseline.
        has_baseline: Whether the version's card has a baseline.
    """

    pictures: int
    index: Mapping[str, float]
    has_baseline: bool


class _Window:
    """The counts of the last pictures of one version."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.now: Counter[str] = Counter()
        self.before: Counter[str] = Counter()

    def add(self, counts: Mapping[str, Sequence[int]], pictures: int) -> None:
        is_over = time.monotonic() - self.began >= _WINDOW_S
        if is_over and self.now["pictures"] >= _WINDOW:
            self.began = time.monotonic()
            self.before, self.now = self.now, Counter()
        self.now["pictures"] += pictures
        for name, bins in counts.items():
            for place, count in enumerate(bins):
                self.now[f"{name}/{place}"] += count


class Drift:
    """The recent pictures of each version in a process, in the bins of its baseline."""

    def __init__(self, repository: Repository) -> None:
        """Start the thread that counts; the versions' cards are in the repository."""
        self._repository = repository
        self._waiting: list[tuple[Servable, Floats, Floats]] = []
        self._room = (_PICTURES, _BYTES)
        self._baselines: dict[tuple[str, str], Baseline | None] = {}
        self._windows: dict[tuple[str, str], _Window] = {}
        self._lock = threading.Lock()
        self._thread = Repeating("counting for drift", self.look, lambda: _PAUSE_S)

    def close(self) -> None:
        """Stop counting."""
        self._thread.stop()

    def offer(self, servable: Servable, inputs: Floats, scores: Floats) -> None:
        """Leave a request's inputs and scores for the thread, if there is room.

        Args:
            servable: The version that answered.
            inputs: The model inputs, (n, *input_shape).
            scores: The scores of all labels, (n, classes).
        """
        pictures, size = self._room
        count = len(inputs)
        kept = min(count, pictures, size * count // max(1, inputs.nbytes))
        if not kept:
            return
        if kept < count:
            inputs, scores = inputs[:kept].copy(), scores[:kept]
        self._room = (pictures - kept, size - inputs.nbytes)
        self._waiting.append((servable, inputs, scores))

    def look(self) -> None:
        """Count what waits; requests that come meanwhile wait for the next look."""
        waiting, self._waiting = self._waiting, []
        self._room = (_PICTURES, _BYTES)
        for servable, inputs, scores in waiting:
            key = (servable.model, str(servable.version))
            baseline = self._baseline(*key)
            counts = {} if baseline is None else baseline.count(inputs, scores)
            with self._lock:
                self._windows.setdefault(key, _Window()).add(counts, len(inputs))

    def counts(self) -> dict[str, float]:
        """Return the counts of this process: by model, version, statistic and bin."""
        with self._lock:
            return {
                f"{NOW}{model}/{version}/{name}": float(count)
                for (model, version), window in self._windows.items()
                for name, count in (window.now + window.before).items()
            }

    def found(
        self, counts: Iterable[Mapping[str, float]]
    ) -> dict[tuple[str, str], Drifted]:
        """Return the drift by model and version, for the counts of all processes."""
        summed: dict[tuple[str, str], Counter[str]] = {}
        for one in counts:
            for name, count in one.items():
                model, version, rest = name.removeprefix(NOW).split("/", 2)
                summed.setdefault((model, version), Counter())[rest] += int(count)
        return {
            key: self._drifted(self._baseline(*key), one)
            for key, one in sorted(summed.items())
        }

    def families(self, counts: Sequence[dict[str, float]]) -> Iterator[Metric]:
        """Yield the metrics for the counters of all processes."""
        index = GaugeMetricFamily(
            "inkling_drift",
            "The population stability index of recent pictures against the baseline.",
            labels=("model", "version", "statistic"),
        )
        for key, one in self.found(counts).items():
            for statistic, value in one.index.items():
                index.add_metric((*key, statistic), value)
        yield index

    def _baseline(self, model: str, version: str) -> Baseline | None:
        key = (model, version)
        if key not in self._baselines:
            try:
                figures = self._repository.files(model, int(version)).metrics()
            except InklingError:  # the versions of another engine may have no files
                figures = {}
            self._baselines[key] = Baseline.of_json(figures.get(FIGURE))
        return self._baselines[key]

    @staticmethod
    def _drifted(baseline: Baseline | None, counts: Counter[str]) -> Drifted:
        pictures = counts["pictures"]
        if baseline is None or pictures < LEAST_PICTURES:
            return Drifted(pictures, {}, baseline is not None)
        index = {
            name: stability_index(
                expected, [counts[f"{name}/{place}"] for place in range(len(expected))]
            )
            for name, expected in baseline.counts.items()
        }
        return Drifted(pictures, index, True)
