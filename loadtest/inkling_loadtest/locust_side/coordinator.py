# SPDX-License-Identifier: Apache-2.0
"""Runs the stages of a load test, in the process that coordinates the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from time import perf_counter

import gevent

from inkling_loadtest.load import shapes
from inkling_loadtest.load.arrivals import Stage
from inkling_loadtest.load.capacity import Trial, TrialResult, search
from inkling_loadtest.measures.figures import generator_limit, value_of
from inkling_loadtest.measures.results import Results, StageRun
from inkling_loadtest.measures.tallies import percentile_ms
from inkling_loadtest.options import Options
from inkling_loadtest.slo import check, latency_limits

__all__ = ["Coordinator"]

_SETTLE_S = 0.1
_PAUSE_S = 0.5
_GROWTH = 2.0
_GROWTH_FROM = 0.125
_SHOW_EVERY_S = 5.0


class Coordinator:
    """Runs the stages of a shape, or the trials of a search for capacity.

    Attributes:
        users: The number of users that there should be now.
        finished: Whether all stages have run.
        num_processes: The number of processes that send.
    """

    def __init__(
        self,
        options: Options,
        results: Results,
        begin: Callable[[int, Stage], None],
        end: Callable[[], None],
    ) -> None:
        """Take what begins a stage in all processes, and what ends it in all."""
        self.options = options
        self.finished = False
        self.num_processes = 1
        self._results = results
        self._begin, self._end = begin, end
        self._window_s = shapes.window_s(options)
        self._started_s: float | None = None
        self._shown_s = 0.0
        first = next(iter(shapes.stages(options)))
        self.users = options.users if options.is_open else max(1, round(first.start))

    def run(self) -> None:
        """Run all stages."""
        if self.options.shape == "capacity":
            self._search()
        else:
            for stage in shapes.stages(self.options):
                self._run_stage(stage)
        self._show_line("")
        self.finished = True

    def _search(self) -> None:
        """Run the trials of a search until it ends."""
        options = self.options
        rate = options.rate or 0
        if options.warmup_s:
            low = rate or 20.0
            self._run_stage(
                Stage("warm-up", options.warmup_s, low, low, measured=False)
            )
        began_s = perf_counter()
        searching = search(options.rate, options.seconds - options.warmup_s)
        try:
            trial = next(searching)
            while True:
                result = self._try(trial, began_s)
                trial = searching.send(result)
        except StopIteration as stop:
            self._results.capacity = stop.value

    def _try(self, trial: Trial, began_s: float) -> TrialResult:
        stage = Stage(
            f"{trial.purpose} {trial.rate:.4g}/s", trial.seconds, trial.rate, trial.rate
        )
        place = self._run_stage(stage)
        # The server finishes what is under way before the next trial.
        gevent.sleep(_PAUSE_S)
        return self._result(place, stage, perf_counter() - began_s)

    def _result(self, place: int, stage: Stage, elapsed_s: float) -> TrialResult:
        """Return whether a stage met every objective, without failures and refusals."""
        tally = self._results.tallies.stages(place)
        found = check(
            self.options.slo, lambda figure: value_of(figure, tally, stage.seconds)
        )
        missed = [item.objective.text for item in found if not item.met]
        counts = tally.counts
        missed += [f"{counts[k]} {k}" for k in ("failed", "refused") if counts[k]]
        if self._is_growing(place):
            missed.append("latency was still growing")
        met = not missed
        busy = generator_limit(tally, self._results.shares([place], self._window_s))
        why = ", ".join([*missed, *([busy] if busy else [])])
        self._show_line(f"{stage.name:>24}: {'met' if met else why}", final=True)
        return TrialResult(met, why, elapsed_s, void=bool(busy) and not met)

    def _is_growing(self, place: int) -> bool:
        """Return whether a queue grew, so that the latency would go on growing."""
        results, length = self._results, self._window_s
        stage_run = results.stage_runs[place]
        third_s = stage_run.seconds / 3
        p50_ms = []
        for start_s in (stage_run.start_s, stage_run.start_s + 2 * third_s):
            windows = range(
                round(start_s / length), round((start_s + third_s) / length)
            )
            tally = results.tallies.window(*windows)
            p50_ms.append(percentile_ms(tally.histogram("latency"), 50) or 0.0)
        limit_ms = min(c.bound for c in latency_limits(self.options.slo)) / 1e3
        return p50_ms[1] > _GROWTH * max(p50_ms[0], _GROWTH_FROM * limit_ms)

    def _run_stage(self, stage: Stage) -> int:
        """Run a stage to its end; return its place."""
        now_s = perf_counter()
        self._started_s = self._started_s or now_s
        place = len(self._results.stage_runs)
        stage_run = StageRun(now_s - self._started_s, stage)
        self._results.stage_runs.append(stage_run)
        self._begin(place, stage)
        for elapsed_s in _ticks(stage.seconds):
            stage_run.seconds = max(elapsed_s, 1e-3)
            if not stage.is_open:
                self.users = max(1, round(stage.level(elapsed_s)))
            self._show(stage, elapsed_s)
        stage_run.seconds = stage.seconds
        # A request that is due at the last moment is sent before the stage ends.
        gevent.sleep(_SETTLE_S)
        self._end()
        return place

    def _show(self, stage: Stage, elapsed_s: float) -> None:
        """Show the figures of the last few windows."""
        now_s = perf_counter() - (self._started_s or 0)
        if not sys.stderr.isatty() and now_s - self._shown_s < _SHOW_EVERY_S:
            return
        self._shown_s = now_s
        last = int(now_s / self._window_s)
        tally = self._results.tallies.window(*range(max(0, last - 4), last))
        seconds = min(4, max(1, last)) * self._window_s
        counts = tally.counts
        p50, p99 = (percentile_ms(tally.histogram("latency"), p) for p in (50, 99))
        latency = f"p50 {p50:.1f} ms  p99 {p99:.1f} ms" if p50 and p99 else ""
        unit = "/s" if stage.is_open else " users"
        self._show_line(
            f"{stage.name:>24} {elapsed_s:4.0f}/{stage.seconds:.0f} s  "
            f"{stage.level(elapsed_s):.4g}{unit}  {latency}  "
            f"right {counts['right'] / seconds:.0f}/s  "
            f"refused {counts['refused']}  failed {counts['failed']}"
        )

    def _show_line(self, line: str, final: bool = False) -> None:
        if sys.stderr.isatty():
            print(
                f"\r\x1b[K{line}",
                end="\n" if final else "",
                file=sys.stderr,
                flush=True,
            )
        elif line:
            print(line, file=sys.stderr, flush=True)


def _ticks(seconds: float) -> Iterator[float]:
    """Yield the time that has passed, four times a second, until it is `seconds`."""
    began_s = perf_counter()
    while (elapsed_s := perf_counter() - began_s) < seconds:
        yield elapsed_s
        gevent.sleep(min(0.25, seconds - elapsed_s))
