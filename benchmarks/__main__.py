# SPDX-License-Identifier: Apache-2.0
"""Compares Inkling with other ways to serve the same model, side by side.

    python -m benchmarks [--models-dir models] [--rounds 5] [--seconds 1.5]

All servers run at the same time, and each round loads each of them in turn. A ratio is
the median of the rounds' ratios. The servers share one core; the generators share
another.
"""

from __future__ import annotations

import argparse
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

from benchmarks import photo_model, plan
from benchmarks.closed_loop import Result, run
from benchmarks.in_process import cpu_us, parts
from benchmarks.models import find_or_train, photos, pictures, publish_as_sample
from benchmarks.photo_model import NAME as PHOTO
from benchmarks.plan import Cell
from benchmarks.processes import ROOT, Server
from benchmarks.report import Results, Sample, markdown

_WARM_UP_S = 0.3
_PART_S = 0.2
_ALL = os.sched_getaffinity(0)
_CORES = {"server": {min(_ALL)}, "generator": {max(_ALL)}, "all": _ALL}


class Benchmark:
    """All servers and their results."""

    def __init__(self, models_dir: Path, folder: Path, stack: ExitStack) -> None:
        """Start all servers; closing `stack` stops them."""
        self.results = Results()
        self._folder, self._stack = folder, stack
        sample_dir = folder / "sample"
        publish_as_sample(models_dir, sample_dir)
        found = pictures(models_dir, sample_dir)
        self._cells = plan.cells(found, photos(found))
        self._parts = parts(models_dir, sample_dir, found)
        print("Publishing a MobileNetV2 takes a minute ...", flush=True)
        photo_model.publish(folder / "photo")
        photo_dir = folder / "photo" / "models"
        self._plans = plan.servers(
            models_dir,
            sample_dir,
            photo_dir,
            (self._stand_in(models_dir, "mlp"), self._stand_in(photo_dir, PHOTO)),
        )
        self._servers = {k: self._server(p, stack) for k, p in self._plans.items()}
        firsts = {cell.server: cell for cell in reversed(self._cells)}
        for key, server in self._servers.items():
            first = firsts[key]
            over_http = first.client == "http"
            server.wait(*((first.request, first.expected) if over_http else ()))
            print(f"  {key} answers", flush=True)

    def measure(self, rounds: int, seconds: float) -> None:
        """Load every server in turn, for `rounds` rounds of `seconds` each."""
        os.sched_setaffinity(0, _CORES["generator"])
        started = time.monotonic()
        for cell in self._cells:
            self.results.cells[cell.group, cell.name] = []
        for number in range(1, rounds + 1):
            # Every other round runs in reverse, so that a server does not always follow
            # the same one.
            for cell in self._cells[:: 1 if number % 2 else -1]:
                samples = self.results.cells[cell.group, cell.name]
                samples.append(self._sample(cell, seconds))
            os.sched_setaffinity(0, _CORES["server"])
            for name, call in self._parts.items():
                spent = self.results.parts.setdefault(name, [])
                spent.append(cpu_us(call, _PART_S))
            os.sched_setaffinity(0, _CORES["generator"])
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
        what = (cell.request, cell.expected, cell.connections, seconds)
        if cell.client == "http":
            return run(server.http_port, *what)
        message = self._folder / "message"
        message.write_bytes(cell.request)
        loop = [sys.executable, "-m", "benchmarks.grpc_loop", str(server.grpc_port)]
        loop += [str(message), str(cell.connections), str(seconds)]
        done = subprocess.run(loop, cwd=ROOT, check=True, stdout=subprocess.PIPE)
        return Result(**json.loads(done.stdout))

    def _start(self) -> tuple[float, float]:
        """Start a gateway; return the seconds and CPU seconds to its first answer."""
        cell = next(cell for cell in self._cells if cell.server == "ours")
        with ExitStack() as stack:
            server = self._server(self._plans["ours"], stack, cores="all")
            return server.wait(cell.request, cell.expected), server.cpu_s()

    def _stand_in(self, models_dir: Path, model: str) -> int:
        """Start a stand-in for TensorFlow Serving; return its port."""
        server = self._server(plan.stand_in(models_dir, model), self._stack)
        server.wait()
        return server.grpc_port

    def _server(
        self, planned: plan.ServerPlan, stack: ExitStack, cores: str = ""
    ) -> Server:
        log = Path(tempfile.mkstemp(dir=self._folder, suffix=".log")[1])
        environ = {} if planned.model is None else {"MODEL": str(planned.model)}
        on = _CORES[cores or planned.cores]
        server = Server(planned.command, on, log, environ)
        stack.callback(server.stop)
        return server


def _about(options: argparse.Namespace, models_dir: Path) -> dict[str, str]:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in cpus if line.startswith("model name")]
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    server, generator = (min(_CORES[name]) for name in ("server", "generator"))
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip() or "unknown",
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "machine": f"{(names or [platform.machine()])[0]}, {len(_ALL)} cores",
        "pinned": f"servers to core {server}, generators to core {generator}",
        "Python": platform.python_version(),
        "rounds": f"{options.rounds} of {options.seconds:g} s a cell, interleaved",
        "load average at the start": f"{os.getloadavg()[0]:.2f}",
    }


def _write(results: Results, about: Mapping[str, str], folder: Path) -> Path:
    path = folder / f"{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}.md"
    path.write_text(markdown(results, about), encoding="utf-8")
    cells = {
        f"{group}: {name}": [asdict(sample) for sample in samples]
        for (group, name), samples in results.cells.items()
    }
    document = {"about": about, **vars(results), "cells": cells}
    path.with_suffix(".json").write_text(json.dumps(document, indent=1))
    return path


def main() -> int:
    """Run the benchmark; return 1 if an answer was wrong."""
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
        benchmark.measure(options.rounds, options.seconds)
    results = benchmark.results
    about["load average at the end"] = f"{os.getloadavg()[0]:.2f}"
    path = _write(results, about, options.results_dir)
    failures = sum(s.failures for samples in results.cells.values() for s in samples)
    print(path.read_text())
    print(f"{failures} answers were wrong. The results are in {path}.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
