# SPDX-License-Identifier: Apache-2.0
"""Draws the charts of a report as SVG for the page."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from inkling_loadtest.slo import latency_limits, parse

__all__ = ["cpu", "latency_over_time", "percentiles", "phases", "throughput", "versus"]

_INK, _FAINT, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_BLUE, _ORANGE, _GREEN = "#2563eb", "#ea580c", "#16a34a"
_AMBER, _RED, _VIOLET = "#d97706", "#dc2626", "#7c3aed"
_PHASE_COLOURS = ("#93c5fd", "#60a5fa", "#2563eb", "#fbbf24", "#ea580c", "#a3a3a3")
_SIZE = (6.4, 3.1)
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "inkling",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _FAINT,
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
}
_NINES = (50.0, 90.0, 99.0, 99.9, 99.99)
_Report = dict[str, Any]


def latency_over_time(report: _Report) -> str:
    """Return the latency of right answers by when they were due, in milliseconds."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("seconds of the run", "ms")
        windows = _whole_windows(report)
        seconds = [window["start_s"] for window in windows]
        for name, colour, width in (
            ("max", "#cbd5e1", 1.0),
            ("p99", _ORANGE, 1.6),
            ("p50", _BLUE, 1.6),
        ):
            values = _ms(windows, f"latency_{name}_us")
            axes.plot(
                seconds, values, color=colour, lw=width, marker=".", ms=3, label=name
            )
        _mark_stages(axes, report)
        _mark_limits(axes, report)
        _mark_troubles(axes, report)
        _logarithmic_ms(axes)
        return _svg(figure, axes)


def percentiles(report: _Report) -> str:
    """Return the percentile curves: from when due, from when sent, and of refusals."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("percentile", "ms")
        for name, label, colour, dash in (
            ("latency", "from when it was due", _ORANGE, "-"),
            ("service", "from when it was sent", _BLUE, "--"),
            ("refused", "refusals", _AMBER, ":"),
        ):
            points = [(p, us) for p, us in report["curves"][name] if p < 100]
            if points:
                nines = [1 / (1 - percent / 100) for percent, _ in points]
                times = [us / 1e3 for _, us in points]
                axes.plot(nines, times, dash, color=colour, lw=1.8, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([1 / (1 - p / 100) for p in _NINES]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 - 100 / x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        _logarithmic_ms(axes)
        return _svg(figure, axes)


def throughput(report: _Report) -> str:
    """Return the offered requests by outcome, over time."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("seconds of the run", "requests per second")
        windows, length_s = _whole_windows(report), report["window_s"]
        seconds = [window["start_s"] for window in windows]
        rows = {
            name: [window[name] / length_s for window in windows]
            for name in ("offered", "good", "right", "refused", "failed")
        }
        late = [r - g for r, g in zip(rows["right"], rows["good"], strict=True)]
        axes.stackplot(
            seconds,
            [rows["good"], late, rows["refused"], rows["failed"]],
            labels=["in time", "right, but late", "refused", "failed"],
            colors=[_GREEN + "99", "#bef264", _AMBER + "99", _RED + "99"],
            lw=0,
        )
        axes.plot(seconds, rows["offered"], color=_INK, lw=1, label="offered")
        _mark_stages(axes, report)
        axes.set_ylim(bottom=0)
        return _svg(figure, axes)


def versus(report: _Report) -> str:
    """Return goodput and refusals against the offered rate."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("offered per second", "per second")
        length_s = report["window_s"]
        points = [
            {name: window[name] / length_s for name in ("offered", "good", "refused")}
            for window in _measured_windows(report)
        ]
        if report["capacity"]:
            points = [
                {"offered": s["offered_per_s"], "good": s["goodput_per_s"]}
                | {"refused": s["refused_per_s"]}
                for s in report["stages"]
            ]
        offered = [point["offered"] for point in points]
        top = max(offered, default=1) * 1.05
        axes.plot([0, top], [0, top], color=_GRID, lw=1.2, zorder=0)
        for name, colour, label in (
            ("good", _GREEN, "answered in time"),
            ("refused", _AMBER, "refused"),
        ):
            values = [point[name] for point in points]
            if name == "good" or any(values):
                axes.scatter(
                    offered, values, s=14, color=colour, alpha=0.7, label=label
                )
        if report["capacity"]:
            axes.axvline(
                report["capacity"]["rate"], color=_VIOLET, lw=1, label="capacity"
            )
        axes.set_xlim(0, top)
        axes.set_ylim(bottom=0)
        return _svg(figure, axes)


def cpu(report: _Report) -> str:
    """Return the cores that server and generator used, over time."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("seconds of the run", "cores")
        server = report["server"].get("cpu", [])
        if server:
            axes.plot(*zip(*server, strict=True), color=_ORANGE, lw=1.6, label="server")
        sums: dict[int, float] = {}
        for window, share in report["generator"]["cpu"]:
            sums[window] = sums.get(window, 0.0) + share
        # A window of several seconds has several readings of each process.
        length_s = report["window_s"]
        places = sorted(sums)
        axes.plot(
            [place * length_s for place in places],
            [sums[place] / length_s for place in places],
            color=_BLUE,
            lw=1.6,
            label="generator",
        )
        _mark_stages(axes, report)
        axes.set_ylim(bottom=0)
        return _svg(figure, axes)


def phases(report: _Report) -> str:
    """Return the mean time of a request in each phase of the server."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("ms of a request, on average", "", height=1.5)
        left = 0.0
        found = report["server"]["phases"].items()
        for place, (phase, row) in enumerate(found):
            colour = _PHASE_COLOURS[place % len(_PHASE_COLOURS)]
            axes.barh([0], [row["mean_ms"]], left=left, color=colour, label=phase)
            left += row["mean_ms"]
        axes.set_yticks([])
        axes.set_xlim(0, left or 1)
        axes.margins(y=0.2)
        return _svg(figure, axes)


def _axes(x_label: str, y_label: str, height: float = _SIZE[1]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=_GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _ms(windows: Sequence[_Report], name: str) -> list[float]:
    """Return a latency by window; NaN where nothing was answered."""
    values = [window[name] for window in windows]
    return [math.nan if value is None else value / 1e3 for value in values]


def _mark_stages(axes: Axes, report: _Report) -> None:
    """Shade the stages that were not measured, and draw lines between stages."""
    for stage in report["stages"]:
        start_s, end_s = stage["start_s"], stage["start_s"] + stage["seconds"]
        if not stage["measured"]:
            axes.axvspan(start_s, end_s, color="#f3f4f6", lw=0, zorder=0)
        elif start_s > 0:
            axes.axvline(start_s, color=_GRID, lw=1, zorder=0)
        if report["options"]["shape"] == "spike":
            middle_s = (start_s + end_s) / 2
            place = axes.get_xaxis_transform()
            axes.text(middle_s, 0.95, stage["name"], color=_FAINT, transform=place)


def _mark_limits(axes: Axes, report: _Report) -> None:
    """Draw a line at each limit of a latency."""
    for objective in latency_limits(parse(report["options"]["slo"] or "errors<=0%")):
        limit_ms = objective.bound / 1e3
        axes.axhline(
            limit_ms, color=_VIOLET, lw=1, ls=(0, (4, 3)), label=objective.text
        )


def _mark_troubles(axes: Axes, report: _Report) -> None:
    """Mark the windows that have refusals or failures."""
    floor = axes.get_xaxis_transform()
    for name, colour, height in (("refused", _AMBER, 0.015), ("failed", _RED, 0.05)):
        seconds = [w["start_s"] for w in report["windows"] if w[name]]
        if seconds:
            heights = [height] * len(seconds)
            axes.scatter(
                seconds,
                heights,
                marker="|",
                s=40,
                color=colour,
                transform=floor,
                label=name,
                clip_on=False,
            )


def _logarithmic_ms(axes: Axes) -> None:
    low, high = axes.dataLim.intervaly
    if not 0 < low <= high < math.inf:
        return  # nothing was answered
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    low, high = axes.get_ylim()
    if high / max(low, 1e-9) < 20:
        # Within one decade the powers of ten alone would leave the axis bare.
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_locator(mpl.ticker.LogLocator(subs=(2, 5)))
    else:
        axes.yaxis.set_minor_formatter(NullFormatter())


def _whole_windows(report: _Report) -> list[_Report]:
    """Return the windows without those that the end of the run cuts."""
    last = report["stages"][-1] if report["stages"] else {"start_s": 0, "seconds": 0}
    end_s = last["start_s"] + last["seconds"] - report["window_s"]
    return [w for w in report["windows"] if w["start_s"] <= end_s]


def _measured_windows(report: _Report) -> list[_Report]:
    spans = [
        (stage["start_s"], stage["start_s"] + stage["seconds"])
        for stage in report["stages"]
        if stage["measured"]
    ]
    length_s = report["window_s"]
    # A window that a stage cuts has fewer requests than its rate.
    return [
        window
        for window in report["windows"]
        if any(
            a <= window["start_s"] and window["start_s"] + length_s <= b
            for a, b in spans
        )
    ]


def _svg(figure: Figure, axes: Axes) -> str:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=len(handles),
            frameon=False,
            fontsize=8.5,
            handlelength=1.4,
            columnspacing=1.2,
            borderaxespad=0.1,
        )
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
