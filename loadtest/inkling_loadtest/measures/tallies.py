# SPDX-License-Identifier: Apache-2.0
"""Counts and latency histograms, in microseconds, merged over processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hdrh.histogram import HdrHistogram

from inkling_loadtest.answers.references import Verdict
from inkling_loadtest.measures.recorded import Recorded

__all__ = ["Sample", "Tally", "TallyTable", "percentile_ms"]

_LONGEST_US = 120_000_000
_Key = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """A request that ended; its times are in seconds of one clock.

    Attributes:
        stage: Place of the stage in which it was due.
        window: Window of the whole run in which it was due.
        kind: Kind of request.
        pictures: The number of its pictures.
        due_s: When it should have been sent.
        awaited: Whether a user was free at that moment.
        sent_s: When it was sent.
        ended_s: When its answer had arrived.
        verdict: What became of it.
    """

    stage: int
    window: int
    kind: str
    pictures: int
    due_s: float
    awaited: bool
    sent_s: float
    ended_s: float
    verdict: Verdict


class Tally:
    """Counts and histograms of a number of requests.

    Attributes:
        counts: `offered`, `sent`, `right`, `good` (right and within the deadline),
            `refused`, `failed`, `not_sent`, `queued` (no user was free when due),
            `pictures` (answered), `labelled`, `correct`.
        reasons: Counts of failures and refusals by their reason.
        details: The words of one failure of each reason.
        latency: Histograms by name, in microseconds: `latency` of right answers, from
            when they were due; `service` of the same, from when they were sent;
            `refused` and `failed`, from when they were due; `late`, from due to sent
            where a user was free, which is the delay of the load generator itself.
    """

    def __init__(self, digits: int) -> None:
        """Take the number of digits that are kept of a latency."""
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.details: dict[str, str] = {}
        self.latency: dict[str, HdrHistogram] = {}
        self._digits = digits

    def add(self, sample: Sample, deadline_s: float) -> None:
        """Count a sample."""
        verdict, counts = sample.verdict, self.counts
        taken_s = sample.ended_s - sample.due_s
        counts["offered"] += 1
        counts["sent"] += 1
        counts[verdict.outcome] += 1
        if sample.awaited:
            self._record("late", sample.sent_s - sample.due_s)
        else:
            counts["queued"] += 1
        if verdict.outcome == "right":
            counts["good"] += taken_s <= deadline_s
            counts["pictures"] += sample.pictures
            counts["labelled"] += verdict.labelled
            counts["correct"] += verdict.correct
            self._record("latency", taken_s)
            self._record("service", sample.ended_s - sample.sent_s)
            return
        self._record(verdict.outcome, taken_s)
        self.reasons[f"{verdict.outcome}: {verdict.reason}"] += 1
        if verdict.detail:
            self.details.setdefault(verdict.reason, verdict.detail)

    def add_not_sent(self, count: int) -> None:
        """Count requests for which no user was free before their stage ended."""
        if count:
            self.counts["offered"] += count
            self.counts["failed"] += count
            self.counts["not_sent"] += count
            self.reasons["failed: never sent, all users were busy"] += count

    def merge(self, other: Tally) -> None:
        """Add the counts and histograms of another tally."""
        self.counts.update(other.counts)
        self.reasons.update(other.reasons)
        self.details = {**other.details, **self.details}
        for name, histogram in other.latency.items():
            self.histogram(name).add(histogram)

    def histogram(self, name: str) -> HdrHistogram:
        """Return the histogram of a name, empty if nothing was recorded."""
        if name not in self.latency:
            self.latency[name] = HdrHistogram(1, _LONGEST_US, self._digits)
        return self.latency[name]

    def encoded(self) -> list[Any]:
        """Return the tally as plain values, for a message."""
        latency = {name: h.encode().decode() for name, h in self.latency.items()}
        return [dict(self.counts), dict(self.reasons), self.details, latency]

    def absorb(self, encoded: list[Any]) -> None:
        """Add a tally that was encoded."""
        counts, reasons, details, latency = encoded
        self.counts.update(counts)
        self.reasons.update(reasons)
        self.details = {**details, **self.details}
        for name, text in latency.items():
            self.histogram(name).decode_and_add(text.encode())

    def _record(self, name: str, seconds: float) -> None:
        microseconds = min(max(int(seconds * 1e6), 1), _LONGEST_US)
        self.histogram(name).record_value(microseconds)


class TallyTable:
    """Tallies by stage and kind, and by window."""

    def __init__(self, deadline_s: float) -> None:
        """Take the deadline within which an answer is good."""
        self._deadline_s = deadline_s
        self._tallies: dict[_Key, Tally] = {}

    def record(self, sample: Sample) -> None:
        """Count a sample in its stage and in its window."""
        self._tally(("stage", sample.stage, sample.kind)).add(sample, self._deadline_s)
        self._tally(("window", sample.window, "")).add(sample, self._deadline_s)

    def record_not_sent(self, stage: int, windows: Iterable[int]) -> None:
        """Count requests that were never sent, by the windows of when they were due."""
        for window, count in Counter(windows).items():
            self._tally(("window", window, "")).add_not_sent(count)
            self._tally(("stage", stage, "")).add_not_sent(count)

    def drain(self) -> list[Any]:
        """Return the tallies since the last call, as plain values."""
        tallies, self._tallies = self._tallies, {}
        return [[*key, tally.encoded()] for key, tally in tallies.items()]

    def absorb(self, rows: list[Any]) -> None:
        """Add the tallies that another process drained."""
        for part, place, kind, encoded in rows:
            self._tally((part, place, kind)).absorb(encoded)

    def stages(self, *places: int) -> Tally:
        """Return the sum over stages."""
        return self._sum(
            key for key in self._tallies if key[0] == "stage" and key[1] in places
        )

    def kinds(self, *places: int) -> dict[str, Tally]:
        """Return the sums over stages by kind of request."""
        names = sorted({k for part, place, k in self._tallies if part == "stage" and k})
        return {
            name: self._sum(("stage", place, name) for place in places)
            for name in names
        }

    def windows(self) -> dict[int, Tally]:
        """Return the tallies by window."""
        found = {key[1]: t for key, t in self._tallies.items() if key[0] == "window"}
        return dict(sorted(found.items()))

    def window(self, *places: int) -> Tally:
        """Return the sum over windows."""
        return self._sum(("window", place, "") for place in places)

    def _tally(self, key: _Key) -> Tally:
        if key not in self._tallies:
            # Windows are many, and only drawn; objectives are checked for stages.
            self._tallies[key] = Tally(2 if key[0] == "window" else 3)
        return self._tallies[key]

    def _sum(self, keys: Iterable[_Key]) -> Tally:
        total: Tally | None = None
        for key in keys:
            if key in self._tallies:
                total = total or Tally(2 if key[0] == "window" else 3)
                total.merge(self._tallies[key])
        return total or Tally(3)


def percentile_ms(histogram: HdrHistogram, percent: float) -> float | None:
    """Return a percentile in milliseconds; None for an empty histogram."""
    recorded = Recorded(histogram)
    return recorded.percentiles([percent])[0] / 1e3 if recorded.total else None
