# SPDX-License-Identifier: Apache-2.0
"""Writes the files of a report: an HTML page, JSON, and CSV."""

from __future__ import annotations

import csv
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from inkling_loadtest.report.formatting import (
    count,
    headline,
    latency,
    notes,
    share,
    verdict,
)
from inkling_loadtest.report.page import page

__all__ = ["write"]


def write(report: dict[str, Any], directory: Path | None) -> None:
    """Write the report into a directory, and print its main figures."""
    directory = directory or Path(f"loadtest-{datetime.now():%Y%m%d-%H%M%S}")
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    (directory / "report.html").write_text(page(report), encoding="utf-8")
    _write_rows(directory / "windows.csv", report["windows"])
    print("\n".join(_lines(report, directory)), file=sys.stderr)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _lines(report: dict[str, Any], directory: Path) -> list[str]:
    total = report["total"]
    times, refusals = total["latency_us"] or {}, total["refused_us"] or {}
    counts = total["counts"]
    lines = [
        headline(report),
        f"  right {count(counts.get('right', 0))} of {count(counts.get('offered', 0))}"
        f", in time {total['goodput_per_s']:.4g}/s"
        f", accuracy {share(total['accuracy'])}",
        "  latency  "
        + "  ".join(
            f"{p} {latency(times.get(p))}" for p in ("p50", "p90", "p99", "max")
        ),
        f"  refused {share(total['refused'])}, p99 {latency(refusals.get('p99'))}; "
        f"failed {share(total['errors'])}",
        *(f"    {number} x {reason}" for reason, number in total["reasons"].items()),
    ]
    lines += [f"  {note}" for note in notes(report)]
    return [*lines, f"{verdict(report)[1]}; see {directory / 'report.html'}"]
