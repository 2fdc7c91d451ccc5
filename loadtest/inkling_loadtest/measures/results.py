# SPDX-License-Identifier: Apache-2.0
"""The results of a load test so far, from all its processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from inkling_loadtest.load.arrivals import Stage
from inkling_loadtest.load.capacity import Capacity
from inkling_loadtest.measures.tallies import TallyTable

__all__ = ["Results", "StageRun"]


@dataclass
class StageRun:
    """A stage that ran; it began at `start_s` of the run, and took `seconds`."""

    start_s: float
    stage: Stage
    seconds: float = 1e-3


@dataclass
class Results:
    """The sum of what all processes have reported.

    Attributes:
        tallies: The sum of their tallies.
        cpu: Windows with the share of a core that a process took in it.
        versions: Model versions that answered.
        labelled: The number of pictures with a label that the model knows.
        stage_runs: The stages so far.
        capacity: The result of the search for capacity; None without one.
    """

    tallies: TallyTable
    cpu: list[tuple[int, float]] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)
    labelled: int = 0
    stage_runs: list[StageRun] = field(default_factory=list)
    capacity: Capacity | None = None

    def absorb(self, report: dict[str, Any]) -> None:
        """Add what a process reported."""
        self.tallies.absorb(report["rows"])
        self.cpu += [(window, share) for window, share in report["cpu"]]
        self.versions.update(report["versions"])
        self.labelled = max(self.labelled, report["labelled"])

    def measured(self) -> list[int]:
        """Return the places of the measured stages; of a search, its last trial."""
        places = [i for i, run in enumerate(self.stage_runs) if run.stage.measured]
        return places[-1:] if self.capacity else places

    def seconds(self, places: Sequence[int]) -> float:
        """Return the seconds that stages lasted together."""
        return sum(self.stage_runs[place].seconds for place in places) or 1e-3

    def shares(self, places: Sequence[int], window_s: float) -> list[float]:
        """Return the shares of a core that the processes took during stages."""
        windows = {
            window
            for run in (self.stage_runs[place] for place in places)
            for window in range(
                int(run.start_s / window_s),
                int((run.start_s + run.seconds) / window_s) + 1,
            )
        }
        return [share for window, share in self.cpu if window in windows]

    def spans(self) -> list[tuple[float, float]]:
        """Return beginning and end of the measured stages, in seconds of the run."""
        chosen = [self.stage_runs[place] for place in self.measured()]
        return [(p.start_s, p.start_s + p.seconds) for p in chosen]
