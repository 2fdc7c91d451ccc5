"""Processes that are measured: started on their cores, looked at, ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.closed_loop import run

__all__ = ["ROOT", "Helper", "Server", "free_port"]

ROOT = Path(__file__).parent.parent
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_START_TIMEOUT_S = 120.0


class Server:
    """A server on a free port of loopback, with the processes below it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cores: set[int],
        log: Path,
        environ: Mapping[str, str],
    ) -> None:
        """Start it.

        Args:
            command: What follows `python -m`; `{http}` and `{grpc}` are free ports.
            cores: Where it may run.
            log: Where its output goes.
            environ: Variables besides ours.
        """
        self.http_port, self.grpc_port = free_port(), free_port()
        ports = {"http": self.http_port, "grpc": self.grpc_port}
        self._log = log
        self._started = time.perf_counter()
        self.process = _started(
            [p.format(**ports) for p in command], cores, environ, log
        )

    def wait(self, request: bytes, expected: bytes) -> float:
        """Return the seconds from the start to the first good answer."""
        while time.perf_counter() < self._started + _START_TIMEOUT_S:
            if self.process.poll() is not None:
                break
            try:
                if not run(self.http_port, request, expected, 1, 0).failures:
                    return time.perf_counter() - self._started
            except OSError:
                pass
            time.sleep(0.01)
        raise RuntimeError(f"The server does not answer; see {self._log}.")

    def wait_to_listen(self) -> None:
        """Return once its gRPC port takes connections."""
        while time.perf_counter() < self._started + _START_TIMEOUT_S:
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", self.grpc_port)),
            ):
                return
            time.sleep(0.01)
        raise RuntimeError(f"The server does not answer; see {self._log}.")

    def cpu_s(self) -> float:
        """CPU time so far of the process and of those below it."""
        ticks = 0
        for pid in self._pids():
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])
        return ticks * _TICK_S

    def memory_mb(self) -> float:
        """Resident memory of the largest of its processes."""
        return max(_resident_kb(pid) for pid in self._pids()) / 1000

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _pids(self) -> list[int]:
        found = [self.process.pid]
        for pid in found:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found.extend(map(int, children))
        return found


class Helper:
    """A process that answers lines of JSON."""

    def __init__(self, command: Sequence[str], cores: set[int]) -> None:
        """Start it; the command is what follows `python -m`."""
        self.process = _started(command, cores, {}, None)

    def ask(self, **asked: Any) -> dict[str, Any]:
        """Return its answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _started(
    command: Sequence[str],
    cores: set[int],
    environ: Mapping[str, str],
    log: Path | None,
) -> subprocess.Popen[bytes]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("INKLING_")}
    variables |= {"TF_CPP_MIN_LOG_LEVEL": "3", **environ}
    with open(log or os.devnull, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL if log else subprocess.PIPE,
            stdout=output if log else subprocess.PIPE,
            stderr=output if log else None,
        )
    # Its threads and processes inherit this; it has started none yet.
    os.sched_setaffinity(process.pid, cores)
    return process


def _resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0
