# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page without other files."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from inkling_loadtest.report import charts
from inkling_loadtest.report.formatting import (
    count,
    headline,
    latency,
    notes,
    share,
    verdict,
)

__all__ = ["page"]

_Report = dict[str, Any]
_CSS = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1180px; padding: 28px 24px 60px; color: #1f2937;
  background: #fff; font: 14px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif }
h1 { font-size: 23px; margin: 0; letter-spacing: -.01em }
h2 { font-size: 15px; margin: 0 0 6px }
.sub { color: #6b7280; margin: 2px 0 0 }
.head { display: flex; gap: 16px; align-items: flex-start;
  justify-content: space-between }
.pill { padding: 5px 14px; border-radius: 99px; font-weight: 600; white-space: nowrap }
.good { background: #dcfce7; color: #166534 }
.bad { background: #fee2e2; color: #991b1b }
.note { background: #fef3c7; color: #78350f; border-radius: 8px; padding: 9px 14px;
  margin: 14px 0 0 }
.tiles { display: grid; gap: 10px; margin: 20px 0;
  grid-template-columns: repeat(5, 1fr) }
.tile { border: 1px solid #e5e7eb; border-radius: 10px; padding: 9px 13px }
.tile b { display: block; font-size: 20px; letter-spacing: -.01em; white-space: nowrap }
.tile span { color: #6b7280; font-size: 12.5px }
.grid { display: grid; gap: 22px 26px; margin: 8px 0 26px;
  grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)) }
section { min-width: 0 } svg { width: 100%; height: auto; display: block }
svg text { font-family: system-ui, -apple-system, "Segoe UI", sans-serif !important }
table { border-collapse: collapse; width: 100%; font-size: 13px; margin-bottom: 24px }
th { text-align: right; font-weight: 500; color: #6b7280; white-space: nowrap }
th, td { padding: 4px 9px; border-bottom: 1px solid #e5e7eb; vertical-align: top }
td { text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child, .words td, .words th { text-align: left }
.met { color: #166534 } .missed { color: #991b1b; font-weight: 600 }
"""


def page(report: _Report) -> str:
    """Return the report as HTML, with its charts in it."""
    good = verdict(report)[0]
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>{escape(headline(report))}</title><style>{_CSS}</style></head><body>",
        f"<div class='head'><div><h1>{escape(headline(report))}</h1>",
        f"<p class='sub'>{escape(_subtitle(report))}</p></div>",
        f"<span class='pill {'good' if good else 'bad'}'>",
        f"{escape(verdict(report)[1])}</span></div>",
        *(f"<p class='note'>{escape(note)}</p>" for note in notes(report)),
        _tiles(report),
        _objectives(report),
        _charts(report),
        _kinds(report),
        _troubles(report),
        _stages(report),
        _phases(report),
        _conditions(report),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part)


def _subtitle(report: _Report) -> str:
    options = report["options"]
    load = "open loop, Poisson arrivals" if options["loop"] == "open" else "closed loop"
    if options["loop"] == "closed":
        load += f", {options['users']} users"
    elif options["rate"]:
        load += f", {options['rate']:g}/s"
    versions = ", ".join(map(str, report["versions"])) or "?"
    return (
        f"{options['model']} version {versions} · {options['shape']} · {load} · "
        f"{report['total']['seconds']:g} s measured · {report['written']}"
    )


def _tiles(report: _Report) -> str:
    total = report["total"]
    times = total["latency_us"] or {}
    tiles = [
        (f"{total['offered_per_s']:,.4g}/s", "offered"),
        (f"{total['right_per_s']:,.4g}/s", "answered right"),
        (f"{total['goodput_per_s']:,.4g}/s", f"within {_deadline(report)}"),
        *((latency(times.get(p)), p) for p in ("p50", "p99", "p99.9", "max")),
        (share(total["refused"]), "refused"),
        (share(total["errors"]), "failed"),
        (share(total["accuracy"]), "accuracy under load"),
    ]
    cells = [f"<div class='tile'><b>{v}</b><span>{n}</span></div>" for v, n in tiles]
    return f"<div class='tiles'>{''.join(cells)}</div>"


def _deadline(report: _Report) -> str:
    return latency(report["options"]["deadline_s"] * 1e6)


def _objectives(report: _Report) -> str:
    rows = [[item["text"], _value(item), _mark(item["met"])] for item in report["slo"]]
    return _table("Objectives", ["objective", "measured", ""], rows)


def _value(item: _Report) -> str:
    figure, value = item["text"], item["value"]
    if figure.startswith(("errors", "refused", "accuracy")):
        return share(value)
    if figure.startswith(("rate", "goodput")):
        return "-" if value is None else f"{value:,.4g}/s"
    return latency(value)


def _mark(met: bool) -> str:
    return (
        "<span class='met'>met</span>" if met else "<span class='missed'>missed</span>"
    )


def _charts(report: _Report) -> str:
    drawn = [
        ("Latency over time", charts.latency_over_time(report)),
        ("Latency by percentile", charts.percentiles(report)),
        ("Requests by outcome", charts.throughput(report)),
        ("Throughput against offered rate", charts.versus(report)),
        ("CPU of server and generator", charts.cpu(report)),
    ]
    if report["server"].get("phases"):
        drawn.append(("Time of a request in the server", charts.phases(report)))
    cells = [f"<section><h2>{title}</h2>{svg}</section>" for title, svg in drawn]
    return f"<div class='grid'>{''.join(cells)}</div>"


def _kinds(report: _Report) -> str:
    rows = [[kind, *_figures(row)] for kind, row in report["kinds"].items()]
    return _table("By kind of request", ["kind", *_FIGURES], rows)


_FIGURES = ("sent", "right/s", "p50", "p99", "max", "refused", "refusal p99", "failed")


def _figures(row: _Report) -> list[str]:
    times, refusals = row["latency_us"] or {}, row["refused_us"] or {}
    counts = row["counts"]
    return [
        count(counts.get("sent", 0)),
        f"{row['right_per_s']:,.4g}",
        *(latency(times.get(name)) for name in ("p50", "p99", "max")),
        count(counts.get("refused", 0)),
        latency(refusals.get("p99")),
        count(counts.get("failed", 0)),
    ]


def _troubles(report: _Report) -> str:
    total = report["total"]
    rows = [
        [
            escape(reason),
            count(number),
            escape(total["examples"].get(reason.partition(": ")[2], "")),
        ]
        for reason, number in total["reasons"].items()
    ]
    head = ["reason", "number", "one of them"]
    return _table("Refusals and failures", head, rows, "words")


def _stages(report: _Report) -> str:
    rows = [
        [escape(stage["name"]), f"{stage['offered_per_s']:,.4g}", *_figures(stage)]
        for stage in report["stages"]
    ]
    return _table("By stage", ["stage", "offered/s", *_FIGURES], rows)


def _phases(report: _Report) -> str:
    rows = [
        [escape(phase), f"{row['mean_ms']:.3g} ms", _p99(row), count(int(row["count"]))]
        for phase, row in (report["server"].get("phases") or {}).items()
    ]
    head = ["phase of the server", "mean", "p99, by its buckets", "requests"]
    return _table("Time of a request in the server", head, rows)


def _p99(row: _Report) -> str:
    return "-" if row["p99_ms"] is None else f"{row['p99_ms']:.3g} ms"


def _conditions(report: _Report) -> str:
    options, machine, late = (
        report["options"],
        report["machine"],
        report["total"]["late_us"],
    )
    generator = report["generator"]
    mix = ", ".join(f"{kind} {weight}" for kind, weight in options["mix"].items())
    rows = [
        ["target", options["target"]],
        ["pictures", f"{options['pictures']}; {report['labelled_pictures']} labelled"],
        ["mix", f"{mix}; {options['batch']} pictures in a batch"],
        ["seed, timeout", f"{options['seed']}, {options['timeout_s']:g} s"],
        [
            "generator",
            f"{machine['generator']}, {generator['processes']} processes, at most "
            f"{generator['busiest']:.0%} of a core each; sent "
            f"{latency((late or {}).get('p99'))} late at the 99th percentile",
        ],
        [
            "machine of the generator",
            f"{machine['cores']} cores, load average {machine['load_average']}, "
            f"{machine['system']}, Python {machine['python']}",
        ],
    ]
    shown = [[name, escape(str(text))] for name, text in rows]
    return _table("Conditions", ["", ""], shown, "words")


def _table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = ""
) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(
        f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<h2>{title}</h2><table class='{kind}'><tr>{top}</tr>{body}</table>"
