# SPDX-License-Identifier: Apache-2.0
"""The subcommand that compares versions and formats on captured traffic."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inkling.cli.commands import add_models_dir
from inkling.cli.main import Command
from inkling.model.repository import FORMATS, Repository

if TYPE_CHECKING:
    from inkling.capture.replay import Replay, Row

__all__ = ["REPLAY"]

_COLUMNS = ("agrees", "largest difference", "p50", "p99", "accuracy")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models_dir(parser)
    parser.add_argument(
        "capture", type=Path, help="the directory that inkling serve --capture names"
    )
    parser.add_argument(
        "--model", required=True, help="the model whose captures to use"
    )
    parser.add_argument(
        "--version",
        type=int,
        nargs="+",
        help="the versions to compare; by default the one that answers",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=FORMATS,
        default=["float32"],
        help="the TFLite formats of each version",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")


def _replay(options: argparse.Namespace) -> int:
    # NumPy and Pillow are not needed to print the help of other commands.
    from inkling.capture.replay import replay  # noqa: PLC0415

    repository, name = Repository(options.models_dir), options.model
    numbers = options.version or [repository.default(name).version]
    versions = [repository.published(name, number) for number in numbers]
    found = replay(options.capture, versions, options.format)
    if options.json:
        print(json.dumps(_as_json(found)))
    else:
        print("\n".join(_as_table(found)))
    return 0


def _as_json(found: Replay) -> dict[str, Any]:
    return {
        "model": found.model,
        "answered_by": list(found.answered_by),
        "missing": found.missing,
        "rows": [
            {
                "version": row.version,
                "format": row.format,
                "pictures": row.pictures,
                "refused": row.refused,
                "agreement": row.agreement,
                "largest_difference": row.largest_difference,
                "p50_ms": row.latency_ms(0.5),
                "p99_ms": row.latency_ms(0.99),
                "labelled": row.labelled,
                "accuracy": row.accuracy,
            }
            for row in found.rows
        ],
    }


def _as_table(found: Replay) -> list[str]:
    captured = found.rows[0]
    by = " and ".join(map(str, found.answered_by))
    missing = f", {found.missing:,} are missing or damaged" if found.missing else ""
    lines = [
        f"{captured.pictures:,} captured pictures of {found.model}, answered by "
        f"version {by}; {captured.labelled:,} have feedback{missing}.",
        "",
    ]
    cells = [("", *_COLUMNS), *map(_cells, found.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *rest in cells:
        shown = [
            text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)
        ]
        lines.append("  ".join([first.ljust(widths[0]), *shown]))
    for row in found.rows:
        if row.refused:
            lines.append(
                f"{_name(row)} cannot prepare {row.refused:,} of the pictures."
            )
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    captured, difference = row.version is None, row.largest_difference
    return (
        _name(row),
        "-" if captured or row.agreement is None else f"{row.agreement:.2%}",
        "-" if difference is None else f"{difference:.6f}",
        *(_milliseconds(row.latency_ms(share)) for share in (0.5, 0.99)),
        "-" if row.accuracy is None else f"{row.accuracy:.2%}",
    )


def _name(row: Row) -> str:
    if row.version is None:
        return "as captured"
    return f"version {row.version} {row.format}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} ms"


REPLAY = Command(
    help="compare versions and formats on captured traffic",
    add_arguments=_add_arguments,
    run=_replay,
)
