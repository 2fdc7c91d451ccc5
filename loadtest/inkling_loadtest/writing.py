"""Writes a report's directory: a page to look at, JSON, and CSV."""

from __future__ import annotations

import csv
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = ["write"]


def write(report: dict[str, Any], directory: Path | None) -> Path:
    """Write the report into a directory, and say in a few lines what it found."""
    directory = directory or Path(f"loadtest-{datetime.now():%Y%m%d-%H%M%S}")
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1)
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    _write_rows(directory / "windows.csv", report["windows"])
    print(text[:0], end="", file=sys.stderr)
    return directory


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
