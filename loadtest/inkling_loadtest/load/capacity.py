# SPDX-License-Identifier: Apache-2.0
"""The search for the highest rate at which the objectives are met.

The rate is doubled until a trial fails, then bisected as a ratio. One trial is noisy:
another program that runs for a second moves a p99. So up to five trials are made at a
rate while their results differ; a higher rate is tried after the first that failed; and
the rate that is found has to hold in a longer trial.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

__all__ = ["Capacity", "Trial", "TrialResult", "search"]

_FIRST_RATE = 50.0
_HIGHEST_RATE = 1e5
_MIN_REQUESTS = 300
_TRIAL_S = (5.0, 10.0)
_CONFIRMING_S = (10.0, 20.0)
_CLOSE = 1.04
_STEP_DOWN = 0.95
_MAX_REPEATS = 5
_MAX_VOID = 3


@dataclass(frozen=True)
class Trial:
    """A rate to try, for how long, and for which step of the search."""

    rate: float
    seconds: float
    purpose: str


@dataclass(frozen=True)
class TrialResult:
    """The result of a trial.

    Attributes:
        met: Whether every objective was met.
        why: The objectives that were missed, in a few words.
        elapsed_s: Seconds since the search began.
        void: Whether the load generator was at fault, and not the server.
    """

    met: bool
    why: str
    elapsed_s: float
    void: bool = False


@dataclass(frozen=True)
class Capacity:
    """The result of a search.

    Attributes:
        rate: The highest rate at which the objectives were met; 0 if at none.
        confirmed: Whether they were met in a longer trial, too.
        limit: The objectives that were missed at a higher rate.
        trials: The number of trials.
    """

    rate: float
    confirmed: bool
    limit: str
    trials: int


_Search = Generator[Trial, TrialResult, Capacity]
_Verdict = Generator[Trial, TrialResult, TrialResult]


def search(first_rate: float | None, max_seconds: float) -> _Search:
    """Yield trials, receive the result of each, and return the capacity.

    It ends within `max_seconds`, of which a fifth is kept for the last, longer trial.
    """
    searcher = _Searcher(max_seconds)
    return (yield from searcher.run(first_rate or _FIRST_RATE))


class _Searcher:
    """The state of a search."""

    def __init__(self, max_seconds: float) -> None:
        self._until_s = max_seconds * 0.8
        self._end_s = max_seconds
        self._trials = 0
        self._elapsed_s = 0.0
        self._limit = "nothing; the search stopped at its highest rate"

    def run(self, first_rate: float) -> _Search:
        good, bad = yield from self._bracket(first_rate)
        while bad / good > _CLOSE and good > 0.1 and self._elapsed_s < self._until_s:
            middle = (good * bad) ** 0.5
            if (yield from self._verdict(middle, "bisect")).met:
                good = middle
            else:
                bad = middle
        return (yield from self._confirm(good))

    def _bracket(
        self, rate: float
    ) -> Generator[Trial, TrialResult, tuple[float, float]]:
        """Return a rate that met the objectives, and one that did not."""
        good, bad = 0.0, 0.0
        while not (good and bad) and 0.1 < rate < _HIGHEST_RATE:
            if self._elapsed_s >= self._until_s:
                break
            met = (yield from self._verdict(rate, "bracket")).met
            # Another program can spoil all trials at one rate; a higher rate tells.
            if met or (not bad and (yield from self._is_met_beyond(rate))):
                good, rate = rate, rate * 2
            else:
                bad, rate = rate, rate / 2
        return good or 0.1, bad or good

    def _is_met_beyond(self, rate: float) -> Generator[Trial, TrialResult, bool]:
        trial = Trial(rate * 1.5, _seconds(rate, *_TRIAL_S), "beyond")
        return (yield from self._try(trial)).met

    def _verdict(self, rate: float, purpose: str) -> _Verdict:
        """Return the result of most trials at a rate."""
        seconds = _seconds(rate, *_TRIAL_S)
        votes = {True: 0, False: 0}
        while True:
            result = yield from self._try(Trial(rate, seconds, purpose))
            votes[result.met] += 1
            ahead = abs(votes[True] - votes[False])
            enough = 1 if purpose == "bracket" and result.met else 2
            if ahead >= enough or sum(votes.values()) >= _MAX_REPEATS:
                break
            if self._elapsed_s >= self._until_s:
                break
        if votes[True] > votes[False]:
            return TrialResult(True, "", self._elapsed_s)
        self._limit = result.why or self._limit
        return (
            result
            if not result.met
            else TrialResult(False, self._limit, self._elapsed_s)
        )

    def _confirm(self, rate: float) -> _Search:
        """Try the rate for longer, and a lower one while the objectives are missed."""
        failures = 0
        while rate > 0.1:
            seconds = _seconds(rate, *_CONFIRMING_S)
            if self._elapsed_s + seconds > self._end_s:
                return Capacity(rate, False, self._limit, self._trials)
            result = yield from self._try(Trial(rate, seconds, "confirm"))
            if result.met:
                return Capacity(rate, True, self._limit, self._trials)
            self._limit = result.why
            failures += 1
            rate *= 1.0 if failures % 2 else _STEP_DOWN
        return Capacity(0.0, False, self._limit, self._trials)

    def _try(self, trial: Trial) -> _Verdict:
        for _ in range(_MAX_VOID):
            self._trials += 1
            result = yield trial
            self._elapsed_s = result.elapsed_s
            if not result.void or self._elapsed_s >= self._until_s:
                break
        return result


def _seconds(rate: float, least: float, most: float) -> float:
    """Return the seconds in which a trial has enough requests for a p99."""
    return min(max(least, _MIN_REQUESTS / rate), most)
