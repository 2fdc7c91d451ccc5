"""What a load test has found so far, from all its processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inkling_loadtest.load.arrivals import Stage
from inkling_loadtest.load.capacity import Capacity
from inkling_loadtest.measures.tallies import Ledger

__all__ = ["Played", "Results"]


@dataclass
class Played:
    """A stage, when it began in seconds of the run, and how long it went on."""

    start_s: float
    stage: Stage
    seconds: float = 1e-3


@dataclass
class Results:
    """What all processes have reported.

    Attributes:
        ledger: The sum of their ledgers.
        cpu: Windows with the share of a core that a process took.
        versions: Model versions that answered.
        labelled: Pictures whose label the model knows.
        played: The stages so far.
        capacity: What the search found, where one was made.
    """

    ledger: Ledger
    cpu: list[tuple[int, float]] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)
    labelled: int = 0
    played: list[Played] = field(default_factory=list)
    capacity: Capacity | None = None

    def absorb(self, report: dict[str, Any]) -> None:
        """Add what a process reported."""
        self.ledger.absorb(report["rows"])
        self.cpu += [(window, share) for window, share in report["cpu"]]
        self.versions.update(report["versions"])
        self.labelled = max(self.labelled, report["labelled"])

    def measured(self) -> list[int]:
        """Return the places of the stages that count.

        Of a search it is the last, longer trial: the others only led there.
        """
        places = [i for i, played in enumerate(self.played) if played.stage.measured]
        return places[-1:] if self.capacity else places

    def seconds(self, places: Sequence[int]) -> float:
        """Return how long stages lasted together."""
        return sum(self.played[place].seconds for place in places) or 1e-3

    def shares(self, places: Sequence[int], window_s: float) -> list[float]:
        """Return the shares of a core that processes took during stages."""
        windows = {
            window
            for played in (self.played[place] for place in places)
            for window in range(
                int(played.start_s / window_s),
                int((played.start_s + played.seconds) / window_s) + 1,
            )
        }
        return [share for window, share in self.cpu if window in windows]

    def spans(self) -> list[tuple[float, float]]:
        """Return when the stages that count began and ended, in seconds of the run."""
        chosen = [self.played[place] for place in self.measured()]
        return [(p.start_s, p.start_s + p.seconds) for p in chosen]
