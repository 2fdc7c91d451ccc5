"""The search for the highest rate at which a promise is kept.

The rate is doubled until a trial fails, then bisected as a ratio. One trial is noisy: a
neighbour's second on the machine moves a p99. So a verdict is that of trials which
agree, of up to five at the same rate while they contradict each other; the rate beyond
one that failed is tried, too; and what is found has to be held for longer.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

__all__ = ["Capacity", "Reading", "Trial", "search"]

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
    """A rate to try, and for how long."""

    rate: float
    seconds: float
    purpose: str


@dataclass(frozen=True)
class Reading:
    """What a trial found.

    Attributes:
        kept: Whether every promise was kept.
        why: What was not, in a few words.
        elapsed_s: Time since the search began.
        void: Whether it says nothing of the server, since the generator was at fault.
    """

    kept: bool
    why: str
    elapsed_s: float
    void: bool = False


@dataclass(frozen=True)
class Capacity:
    """What a search found.

    Attributes:
        rate: The highest rate at which the promise was kept; 0 if at none.
        confirmed: Whether it was held in a longer trial.
        limit: What stops it from being higher.
        trials: How many trials it took.
    """

    rate: float
    confirmed: bool
    limit: str
    trials: int


_Search = Generator[Trial, Reading, Capacity]
_Verdict = Generator[Trial, Reading, Reading]


def search(first_rate: float | None, max_seconds: float) -> _Search:
    """Yield trials, be sent what each found, and return the capacity.

    It ends within `max_seconds`: what is left for the last, longer trial is kept back.
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
            if (yield from self._verdict(middle, "bisect")).kept:
                good = middle
            else:
                bad = middle
        return (yield from self._confirm(good))

    def _bracket(self, rate: float) -> Generator[Trial, Reading, tuple[float, float]]:
        """Return a rate that was kept, or a very low one, and one that was not."""
        good, bad = 0.0, 0.0
        while not (good and bad) and 0.1 < rate < _HIGHEST_RATE:
            if self._elapsed_s >= self._until_s:
                break
            kept = (yield from self._verdict(rate, "bracket")).kept
            # A neighbour can spoil one rate for long enough; the next one tells.
            if kept or (not bad and (yield from self._is_kept_beyond(rate))):
                good, rate = rate, rate * 2
            else:
                bad, rate = rate, rate / 2
        return good or 0.1, bad or good

    def _is_kept_beyond(self, rate: float) -> Generator[Trial, Reading, bool]:
        trial = Trial(rate * 1.5, _seconds(rate, *_TRIAL_S), "beyond")
        return (yield from self._try(trial)).kept

    def _verdict(self, rate: float, purpose: str) -> _Verdict:
        """Return what most trials at a rate find, as soon as one side is ahead."""
        seconds = _seconds(rate, *_TRIAL_S)
        votes = {True: 0, False: 0}
        while True:
            reading = yield from self._try(Trial(rate, seconds, purpose))
            votes[reading.kept] += 1
            ahead = abs(votes[True] - votes[False])
            enough = 1 if purpose == "bracket" and reading.kept else 2
            if ahead >= enough or sum(votes.values()) >= _MAX_REPEATS:
                break
            if self._elapsed_s >= self._until_s:
                break
        if votes[True] > votes[False]:
            return Reading(True, "", self._elapsed_s)
        self._limit = reading.why or self._limit
        return (
            reading
            if not reading.kept
            else Reading(False, self._limit, self._elapsed_s)
        )

    def _confirm(self, rate: float) -> _Search:
        """Hold the rate for longer; where it does not hold, a little less."""
        failures = 0
        while rate > 0.1:
            seconds = _seconds(rate, *_CONFIRMING_S)
            if self._elapsed_s + seconds > self._end_s:
                return Capacity(rate, False, self._limit, self._trials)
            reading = yield from self._try(Trial(rate, seconds, "confirm"))
            if reading.kept:
                return Capacity(rate, True, self._limit, self._trials)
            self._limit = reading.why
            failures += 1
            rate *= 1.0 if failures % 2 else _STEP_DOWN
        return Capacity(0.0, False, self._limit, self._trials)

    def _try(self, trial: Trial) -> _Verdict:
        for _ in range(_MAX_VOID):
            self._trials += 1
            reading = yield trial
            self._elapsed_s = reading.elapsed_s
            if not reading.void or self._elapsed_s >= self._until_s:
                break
        return reading


def _seconds(rate: float, least: float, most: float) -> float:
    """Return how long a trial takes to have enough requests for a p99."""
    return min(max(least, _MIN_REQUESTS / rate), most)
