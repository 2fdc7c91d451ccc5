# SPDX-License-Identifier: Apache-2.0
"""Starts, measures and stops the processes of the servers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.closed_loop import run

__all__ = ["ROOT", "Server"]

ROOT = Path(__file__).parent.parent
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_START_TIMEOUT_S = 120.0


class Server:
    """A server on free ports of 127.0.0.1, with its child processes."""

    def __init__(
        self,
        command: Sequence[str],
        cores: set[int],
        log: Path,
        environ: Mapping[str, str],
    ) -> None:
        """Start the server.

        Args:
            command: The arguments after `python -m`; `{http}` and `{grpc}` become free
                ports.
            cores: The CPU cores that the server may use.
            log: The file for its output.
            environ: Further environment variables.
        """
        self.http_port, self.grpc_port = _free_port(), _free_port()
        ports = {"http": self.http_port, "grpc": self.grpc_port}
        variables = {k: v for k, v in os.environ.items() if not k.startswith("INKLING")}
        # With this variable set, each start would include the time of the compiler.
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        self._log = log
        self._started = time.perf_counter()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *(part.format(**ports) for part in command)],
                cwd=ROOT,
                env={**variables, "TF_CPP_MIN_LOG_LEVEL": "3", **environ},
                stdout=output,
                stderr=output,
            )
        # The server's later child processes inherit the affinity.
        os.sched_setaffinity(self._process.pid, cores)

    def wait(self, request: bytes = b"", expected: bytes = b"") -> float:
        """Return the seconds from the start to the first right answer.

        Without a request, the wait ends when the gRPC port accepts connections.

        Raises:
            RuntimeError: The server does not answer within 120 s, or has ended.
        """
        while time.perf_counter() < self._started + _START_TIMEOUT_S:
            if self._process.poll() is not None:
                break
            with suppress(OSError):
                if not request:
                    socket.create_connection(("127.0.0.1", self.grpc_port)).close()
                elif run(self.http_port, request, expected, 1, 0).failures:
                    continue
                return time.perf_counter() - self._started
            time.sleep(0.01)
        log = self._log.read_text()[-2000:]
        raise RuntimeError(f"The server did not start. Its log ends with:\n{log}")

    def cpu_s(self) -> float:
        """Return the CPU seconds of the server's running processes."""
        ticks = 0
        for pid in self._pids():
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])
        return ticks * _TICK_S

    def memory_mb(self) -> float:
        """Return the resident memory of the server's largest process, in MB."""
        return max(map(_resident_mb, self._pids()))

    def stop(self) -> None:
        """Stop the server; kill it after 10 s."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _pids(self) -> list[int]:
        found = [self._process.pid]
        for pid in found:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found.extend(map(int, children))
        return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
