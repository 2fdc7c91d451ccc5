"""An engine in a process of its own, which a test may kill or freeze."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.machine import until

__all__ = ["timed_engine"]

_ROOT = Path(__file__).parent.parent.parent.parent


@contextmanager
def timed_engine(
    port: int, call_s: float, host: str = "127.0.0.1"
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `benchmarks.peers.timed_engine` until the block ends."""
    command = [sys.executable, "-m", "benchmarks.peers.timed_engine"]
    process = subprocess.Popen([*command, f"{host}:{port}", str(call_s)], cwd=_ROOT)
    try:
        until(lambda: process.poll() is not None or _listens(host, port))
        assert process.poll() is None
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
