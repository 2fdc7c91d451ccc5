# SPDX-License-Identifier: Apache-2.0
"""Assembles the report of a load test as plain values."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from inkling_loadtest import __version__
from inkling_loadtest.load import shapes
from inkling_loadtest.measures.figures import curve, generator_limit, summary, value_of
from inkling_loadtest.measures.results import Results
from inkling_loadtest.measures.tallies import Tally
from inkling_loadtest.options import Options
from inkling_loadtest.slo import Objective, check, parse

__all__ = ["RunInfo", "assemble"]

FORMAT = 1
_INTERRUPTED = 130
# A refused request has no answer, so that refusals have an objective by default.
_REFUSED = parse("refused<1%")


@dataclass(frozen=True)
class RunInfo:
    """What the report says of the run besides its results.

    Attributes:
        interrupted: Whether the run was ended early.
        processes: The number of processes that sent.
        server: The findings from the gateway's metrics; None without any.
    """

    interrupted: bool
    processes: int
    server: dict[str, Any] | None


def assemble(options: Options, results: Results, run_info: RunInfo) -> dict[str, Any]:
    """Return the report."""
    places = results.measured()
    seconds, window_s = results.seconds(places), shapes.window_s(options)
    total = results.tallies.stages(*places)
    objectives = _objectives(options)
    findings = check(objectives, lambda figure: value_of(figure, total, seconds))
    shares = results.shares(places, window_s)
    kinds = results.tallies.kinds(*places)
    report = {
        "format": FORMAT,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "options": _options(options),
        "machine": _machine(),
        "interrupted": run_info.interrupted,
        "versions": sorted(results.versions),
        "labelled_pictures": results.labelled,
        "slo": [
            {"text": f.objective.text, "value": f.value, "met": f.met} for f in findings
        ],
        "total": summary(total, seconds),
        "curves": {
            n: curve(total.histogram(n)) for n in ("latency", "service", "refused")
        },
        "histograms": {n: h.encode().decode() for n, h in total.latency.items()},
        "kinds": {kind: summary(tally, seconds) for kind, tally in kinds.items()},
        "stages": _stages(results),
        "capacity": asdict(results.capacity) if results.capacity else None,
        "window_s": window_s,
        "windows": _windows(results, window_s),
        "generator": {
            "processes": run_info.processes,
            "cpu": sorted(results.cpu),
            "busiest": max(shares, default=0.0),
            "bottleneck": generator_limit(total, shares),
        },
        "server": run_info.server or {"missing": "the test did not begin."},
    }
    return {**report, "exit_code": _exit_code(report)}


def _exit_code(report: dict[str, Any]) -> int:
    """Return 0 if the objectives were met, else 1; 130 if the run was interrupted.

    Without an objective for errors, no request may fail.
    """
    counts = report["total"]["counts"]
    if report["interrupted"]:
        return _INTERRUPTED
    if report["capacity"] is not None:
        return 0 if report["capacity"]["confirmed"] else 1
    strict = not any(item["text"].startswith("errors") for item in report["slo"])
    if not counts.get("right") or (strict and counts.get("failed")):
        return 1
    return 0 if all(item["met"] for item in report["slo"]) else 1


def _objectives(options: Options) -> Sequence[Objective]:
    named = {objective.figure for objective in options.slo}
    return options.slo if named & {"refused", "goodput"} else (*options.slo, *_REFUSED)


def _options(options: Options) -> dict[str, Any]:
    return {
        **asdict(options),
        "slo": ",".join(objective.text for objective in options.slo),
        "mix": dict(options.mix),
        "pictures": str(options.pictures) if options.pictures else "drawn digits",
        "report": str(options.report) if options.report else None,
        "loop": "open" if options.is_open else "closed",
        "protocol": options.protocol,
    }


def _machine() -> dict[str, Any]:
    return {
        "generator": f"inkling-loadtest {__version__}",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2)
        if sys.platform != "win32"
        else None,
    }


def _stages(results: Results) -> list[dict[str, Any]]:
    return [
        {
            "name": run.stage.name,
            "start_s": round(run.start_s, 3),
            "from": run.stage.start,
            "to": run.stage.end,
            "open": run.stage.is_open,
            "measured": run.stage.measured,
            **summary(results.tallies.stages(place), run.seconds),
        }
        for place, run in enumerate(results.stage_runs)
    ]


def _windows(results: Results, window_s: float) -> list[dict[str, Any]]:
    windows = results.tallies.windows()
    # A window without requests is kept, too: a stall shows as such a window.
    last = max(windows, default=-1)
    return [
        _window(windows.get(place, Tally(2)), place * window_s, window_s)
        for place in range(last + 1)
    ]


def _window(tally: Tally, start_s: float, window_s: float) -> dict[str, Any]:
    latency = {
        f"{name}_{figure}_us": value_of(figure, _only(tally, name), window_s)
        for name in ("latency", "service")
        for figure in ("p50", "p99", "max")
    }
    counts = ("offered", "right", "good", "refused", "failed", "pictures")
    return {
        "start_s": start_s,
        **{name: tally.counts[name] for name in counts},
        **latency,
    }


def _only(tally: Tally, name: str) -> Tally:
    """Return a tally with one of the histograms as its latency."""
    other = Tally(2)
    other.latency["latency"] = tally.histogram(name)
    return other
