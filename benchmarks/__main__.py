"""Compares Inkling with other ways to serve the same model, side by side.

    python -m benchmarks [--models-dir models] [--rounds 5] [--seconds 1.5]

All servers are up at once, and each round asks each of them in turn; a ratio is the
median of the rounds' ratios. Servers share one core, generators have another.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import plan
from benchmarks.closed_loop import Result, run
from benchmarks.models import Picture, find_or_train, pictures, publish_as_sample
from benchmarks.plan import Cell
from benchmarks.processes import ROOT, Helper, Server
from benchmarks.report import PARTS, Results, Sample, markdown

_WARM_UP_S = 0.3
_PART_S = 0.2
_ALL = os.sched_getaffinity(0)
_CORES = {"server": {min(_ALL)}, "generator": {max(_ALL)}, "all": _ALL}


class Benchmark:
    """All servers, and what was seen of them."""

    def __init__(self, models_dir: Path, folder: Path, stack: ExitStack) -> None:
        """Start everything; the stack ends it."""
        self.results = Results()
        self._folder, self._stack = folder, stack
        sample_dir = folder / "sample"
        publish_as_sample(models_dir, sample_dir)
        self._small, self._large = pictures(models_dir, sample_dir)
        self.cells = plan.cells(self._small, self._large)
        files = [self._file(p, n) for n, p in enumerate((self._small, self._large))]
        self._parts = self._helper(
            "server", "in_process", str(models_dir), str(sample_dir), *files
        )
        self._grpc = self._helper("generator", "grpc_loop")
        backend = ("benchmarks.peers.tensorflow_serving", str(models_dir), "mlp")
        stand_in = self._server(
            plan.ServerPlan((*backend, "{grpc}"), cores="generator")
        )
        stand_in.wait_to_listen()
        self._plans = plan.servers(models_dir, sample_dir, stand_in.grpc_port)
        self._servers = {k: self._server(p) for k, p in self._plans.items()}
        firsts = {cell.server: cell for cell in reversed(self.cells)}
        for key, server in self._servers.items():
            if firsts[key].grpc:
                server.wait_to_listen()
            else:
                server.wait(firsts[key].request, firsts[key].expected)
            print(f"  {key} answers", flush=True)

    def measure(self, rounds: int, seconds: float) -> None:
        """Ask every server in turn, some rounds."""
        started = time.monotonic()
        for number in range(1, rounds + 1):
            for cell in self.cells:
                samples = self.results.cells.setdefault((cell.group, cell.name), [])
                samples.append(self._sample(cell, seconds))
            for part in PARTS:
                spent = self._parts.ask(part=part, seconds=_PART_S)["cpu_us"]
                self.results.parts.setdefault(part, []).append(spent)
            self.results.starts.append(self._start())
            passed = time.monotonic() - started
            print(f"  round {number} of {rounds}, {passed:.0f} s", flush=True)
        for key, server in self._servers.items():
            self.results.memory_mb[key] = server.memory_mb()

    def _sample(self, cell: Cell, seconds: float) -> Sample:
        server = self._servers[cell.server]
        self._load(cell, server, _WARM_UP_S)
        before = server.cpu_s()
        result = self._load(cell, server, seconds)
        spent = server.cpu_s() - before
        return Sample(
            result.rate,
            result.percentile_ms(0.5),
            result.percentile_ms(0.99),
            1e6 * spent / len(result.latencies_s),
            spent / result.seconds,
            result.failures,
        )

    def _load(self, cell: Cell, server: Server, seconds: float) -> Result:
        if not cell.grpc:
            port, connections = server.http_port, cell.connections
            return run(port, cell.request, cell.expected, connections, seconds)
        answer = self._grpc.ask(
            port=server.grpc_port,
            request=base64.b64encode(cell.request).decode(),
            expected=base64.b64encode(cell.expected).decode(),
            connections=cell.connections,
            seconds=seconds,
        )
        return Result(**answer)

    def _start(self) -> tuple[float, float]:
        """Start a gateway; return its seconds to a good answer, and of CPU time."""
        cell = next(cell for cell in self.cells if cell.server == "ours")
        with ExitStack() as stack:
            started = self._server(self._plans["ours"], stack, cores="all")
            return started.wait(cell.request, cell.expected), started.cpu_s()

    def _server(
        self, planned: plan.ServerPlan, stack: ExitStack | None = None, cores: str = ""
    ) -> Server:
        log = Path(tempfile.mkstemp(dir=self._folder, suffix=".log")[1])
        environ = {} if planned.model is None else {"MODEL": str(planned.model)}
        on = _CORES[cores or planned.cores]
        server = Server(planned.command, cores=on, log=log, environ=environ)
        (stack or self._stack).callback(server.stop)
        return server

    def _helper(self, cores: str, module: str, *arguments: str) -> Helper:
        helper = Helper((f"benchmarks.{module}", *arguments), _CORES[cores])
        self._stack.callback(helper.stop)
        return helper

    def _file(self, picture: Picture, number: int) -> str:
        path = self._folder / f"{number}.png"
        path.write_bytes(picture.image)
        return str(path)


def _about(options: argparse.Namespace, models_dir: Path) -> dict[str, str]:
    cpus = Path("/proc/cpuinfo").read_text()
    names = [line for line in cpus.splitlines() if line.startswith("model name")]
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    server, generator = (min(_CORES[name]) for name in ("server", "generator"))
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip() or "unknown",
        "command": f"python -m benchmarks {' '.join(sys.argv[1:])}".strip(),
        "machine": f"{names[0].partition(': ')[2] if names else platform.machine()}, "
        f"{len(_ALL)} cores; servers on core {server}, generators on core {generator}",
        "Python": platform.python_version(),
        "models": str(models_dir),
        "rounds": f"{options.rounds} of {options.seconds:g} s, interleaved; medians",
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
    }


def _write(results: Results, about: Mapping[str, str], folder: Path) -> Path:
    name = datetime.now(UTC).strftime("%Y-%m-%d_%H-%M-%S")
    shown = markdown(results, about)
    path = folder / f"{name}.md"
    path.write_text(shown, encoding="utf-8")
    cells = {
        f"{group}: {name}": [asdict(sample) for sample in samples]
        for (group, name), samples in results.cells.items()
    }
    document = {"about": about, **vars(results), "cells": cells}
    path.with_suffix(".json").write_text(json.dumps(document, indent=1))
    print(shown)
    return path


def main() -> int:
    """Measure everything; return 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--results-dir", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    options = parser.parse_args()
    options.results_dir.mkdir(parents=True, exist_ok=True)
    models_dir = find_or_train(options.models_dir, options.results_dir).resolve()
    about = _about(options, models_dir)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print("Starting the servers ...", flush=True)
        benchmark = Benchmark(models_dir, folder, stack)
        os.sched_setaffinity(0, _CORES["generator"])
        benchmark.measure(options.rounds, options.seconds)
    results = benchmark.results
    about["load average at the end"] = f"{os.getloadavg()[0]:.2f}"
    path = _write(results, about, options.results_dir)
    failures = sum(s.failures for samples in results.cells.values() for s in samples)
    print(f"Written to {path} and {path.stem}.json; {failures} wrong answers.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
