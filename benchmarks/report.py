# SPDX-License-Identifier: Apache-2.0
"""The results, the lines that they are compared with, and the report in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median

from benchmarks.models import SMALL
from benchmarks.photo_model import MEGABYTES
from benchmarks.plan import (
    CNN_32,
    GRPC_32,
    MLP_1,
    MLP_32,
    MLP_64,
    PHOTO_GROUPS,
    PICTURE_GROUPS,
    REMOTE_32,
)

__all__ = ["Line", "Results", "Sample", "lines", "markdown"]

_Key = tuple[str, str]
_BY_HAND = "{}: Pillow + LiteRT by hand"
_HANDLER = "{}: our handler, digit contract"
_FASTAPI = "FastAPI + LiteRT, async def"


@dataclass(frozen=True)
class Sample:
    """The result of one cell in one round.

    Attributes:
        rate: Answers per second.
        p50_ms: Median latency, in milliseconds.
        p99_ms: 99th percentile of the latency, in milliseconds.
        cpu_us: CPU time of the server per answer, in microseconds.
        cores: CPU seconds of the server per second.
        failures: The number of wrong or missing answers.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    cores: float
    failures: int


@dataclass
class Results:
    """The results of all rounds.

    Attributes:
        cells: One sample per round, by group and name.
        parts: CPU microseconds per call in process, one value per round, by name.
        starts: Seconds and CPU seconds of a gateway to its first right answer.
        memory_mb: Resident memory at the end, in MB, by server.
    """

    cells: dict[_Key, list[Sample]] = field(default_factory=dict)
    parts: dict[str, list[float]] = field(default_factory=dict)
    starts: list[tuple[float, float]] = field(default_factory=list)
    memory_mb: dict[str, float] = field(default_factory=dict)

    def of(self, key: _Key, figure: str) -> float:
        """Return the median over the rounds of one figure of a cell."""
        return float(median(getattr(sample, figure) for sample in self.cells[key]))

    def ratio(self, above: _Key, below: _Key, figure: str) -> float:
        """Return the median over the rounds of the ratio of two cells' figures."""
        pairs = zip(self.cells[above], self.cells[below], strict=True)
        return float(median(getattr(a, figure) / getattr(b, figure) for a, b in pairs))

    def faster(self, ours: _Key, peer: _Key) -> tuple[float, float]:
        """Return the ratio of the rates, and the inverse ratio of the CPU times."""
        return self.ratio(ours, peer, "rate"), self.ratio(peer, ours, "cpu_us")

    def by_parts(self, key: _Key, part: str, floor: _Key | None = None) -> float:
        """Return a cell's CPU time per answer by that of its parts, added up.

        Args:
            key: The cell.
            part: The work without a server, by its name in `parts`.
            floor: The cell of a server that does nothing, which is added to the work.
        """
        floors = self.cells[floor] if floor else [None] * len(self.cells[key])
        return median(
            sample.cpu_us / (spent + (bare.cpu_us if bare else 0))
            for sample, spent, bare in zip(
                self.cells[key], self.parts[part], floors, strict=True
            )
        )


@dataclass(frozen=True)
class Line:
    """A target and its measured values.

    Attributes:
        text: The name of the measured ratio or figure.
        sign: `>=` or `<=`.
        bound: The lower or upper bound.
        clock: The value by the clock; None if the target does not concern it.
        cpu: The value by the server's CPU time, which is less disturbed by
            other load, or None.
    """

    text: str
    sign: str
    bound: float
    clock: float | None
    cpu: float | None = None

    @property
    def verdict(self) -> str:
        """`yes`, `**no**`, or the one value that meets the bound."""
        found = {"by the clock": self.clock, "by CPU time": self.cpu}
        holds = {
            name: value >= self.bound if self.sign == ">=" else value <= self.bound
            for name, value in found.items()
            if value is not None
        }
        if all(holds.values()):
            return "yes"
        held = [name for name, value in holds.items() if value]
        return f"only {held[0]}" if held else "**no**"


def lines(found: Results) -> list[Line]:
    """Return every target with its measured values."""
    ours, tf, lite = (MLP_32, "Inkling"), "FastAPI + SavedModel", "FastAPI + LiteRT"
    grpc, coalesced = (GRPC_32, "Inkling"), (REMOTE_32, "coalesced")
    alone, many = (MLP_1, "Inkling"), (MLP_1, "Inkling, 32 pictures in one")

    def times(text: str, bound: float, a: _Key, b: _Key) -> Line:
        return Line(text, ">=", bound, *found.faster(a, b))

    def cpu(text: str, bound: float, a: _Key, b: _Key) -> Line:
        return Line(text, "<=", bound, None, found.ratio(a, b, "cpu_us"))

    def parts(text: str, bound: float, key: _Key, part: str, floor: _Key) -> Line:
        return Line(text, "<=", bound, None, found.by_parts(key, part, floor))

    def coalescing(count: int) -> Line:
        text = f"coalesced / one Predict per request, {count} at a time"
        apart = (REMOTE_32, f"one each, {count} at a time")
        return Line(text, ">=", 1.8, found.ratio(coalesced, apart, "rate"))

    hand = _BY_HAND.format(SMALL)
    picture_lines = []
    for name, group in PICTURE_GROUPS.items():
        for door in ("HTTP", "gRPC"):
            key = (group, f"Inkling, {door}")
            picture_lines += [
                cpu(f"{name}, {door} / {_FASTAPI}", 1.0, key, (group, _FASTAPI)),
                Line(
                    f"{name}, {door} / Pillow + LiteRT by hand",
                    "<=",
                    1.15,
                    None,
                    found.by_parts(key, _BY_HAND.format(name)),
                ),
            ]
    request_us = found.of(ours, "cpu_us")
    counting = median(found.parts["counting a request"]) / request_us
    spread = median(s.p99_ms / s.p50_ms for s in found.cells[MLP_64, "Inkling"])
    p50 = found.ratio(alone, (MLP_1, tf), "p50_ms")
    batch = (found.ratio(many, alone, figure) for figure in ("p50_ms", "cpu_us"))
    starts = (median(figures) for figures in zip(*found.starts, strict=True))
    return [
        times(f"MLP / {tf}", 4.0, ours, (MLP_32, tf)),
        times(f"MLP / {lite}, `async def`", 1.6, ours, (MLP_32, _FASTAPI)),
        times(f"MLP / {lite}, `def`", 1.8, ours, (MLP_32, f"{lite}, def")),
        parts(
            "MLP / (by hand + bare uvicorn)", 2.2, ours, hand, (MLP_32, "bare uvicorn")
        ),
        parts(
            "gRPC / (our handler + bare grpc.server)",
            1.15,
            grpc,
            _HANDLER.format(SMALL),
            (GRPC_32, "bare grpc.server"),
        ),
        Line("MLP, CPU us per request", "<=", 340, None, request_us),
        Line(f"MLP, p50 at 1 connection / {tf}", "<=", 0.35, p50),
        Line("MLP, p99 / p50 at 64 connections", "<=", 2.5, spread),
        times(f"CNN / {tf}", 2.3, (CNN_32, "Inkling"), (CNN_32, tf)),
        times(f"CNN int8 / {tf}", 3.5, (CNN_32, "Inkling int8"), (CNN_32, tf)),
        *picture_lines,
        Line("32 pictures in a request / one", "<=", 8, *batch),
        *_photo_lines(found),
        Line("memory of a worker, MB", "<=", 110, found.memory_mb["ours"]),
        Line(
            "memory of a worker with a MobileNetV2, MB",
            "<=",
            110 + 2 * MEGABYTES,
            found.memory_mb["photo"],
        ),
        Line("start to first good answer, s", "<=", 0.8, *starts),
        cpu("gRPC / HTTP, CPU", 2.0, grpc, ours),
        coalescing(1),
        coalescing(16),
        Line("counting in process / request", "<=", 0.03, None, counting),
        cpu("request / uncounted", 1.03, ours, (MLP_32, "Inkling, uncounted")),
    ]


def _photo_lines(found: Results) -> Iterator[Line]:
    peers = {
        "FastAPI + SavedModel": 2.5,
        _FASTAPI: 1.0,
        "FastAPI + LiteRT, def": 1.0,
    }
    for name, group in PHOTO_GROUPS.items():
        for peer, bound in peers.items():
            values = found.faster((group, "Inkling"), (group, peer))
            yield Line(f"MobileNetV2, {name} / {peer}", ">=", bound, *values)


def markdown(found: Results, about: Mapping[str, str]) -> str:
    """Return the report; `about` describes the machine and the run."""
    parts = ((name, f"{median(us):,.1f}") for name, us in found.parts.items())
    memory = ((key, f"{size:.0f}") for key, size in found.memory_mb.items())
    texts = [
        _table(("", ""), about.items()),
        _table(
            ("line", "wanted", "by the clock", "by CPU time", "met?"),
            (
                (
                    line.text,
                    f"{line.sign} {line.bound:g}",
                    *("" if x is None else f"{x:.3g}" for x in (line.clock, line.cpu)),
                    line.verdict,
                )
                for line in lines(found)
            ),
        ),
        *_cells(found),
        _table(("in process", "CPU us per call"), parts),
        _table(("resident memory at the end, largest process", "MB"), memory),
    ]
    return "\n\n".join(texts) + "\n"


def _cells(found: Results) -> Iterator[str]:
    for group in dict.fromkeys(group for group, _ in found.cells):
        rows = []
        for key in [key for key in found.cells if key[0] == group]:
            cpu = sorted(sample.cpu_us for sample in found.cells[key])
            figures = [found.of(key, f) for f in ("rate", "p50_ms", "p99_ms", "cores")]
            rate, p50, p99, cores = figures
            spent = f"{median(cpu):,.0f} ({cpu[0]:,.0f} to {cpu[-1]:,.0f})"
            shown = (f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", spent, f"{cores:.2f}")
            rows.append((key[1], *shown))
        heads = ("req/s", "p50 ms", "p99 ms", "CPU us per request", "cores got")
        yield _table((group, *heads), rows)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = tuple(heads)
    body = (heads, ("---",) * len(heads), *rows)
    return "\n".join("| " + " | ".join(row) + " |" for row in body)
