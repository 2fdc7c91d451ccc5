# SPDX-License-Identifier: Apache-2.0
"""Engines in processes of their own, which a test may kill or freeze."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.machine import until

__all__ = ["timed_engines"]

_ROOT = Path(__file__).parent.parent.parent.parent


@contextmanager
def timed_engines(
    *addresses: str, call_s: float
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run `benchmarks.peers.timed_engine` at each address until the block ends."""
    command = [sys.executable, "-m", "benchmarks.peers.timed_engine"]
    processes = [
        subprocess.Popen([*command, address, str(call_s)], cwd=_ROOT)
        for address in addresses
    ]
    try:
        for process, address in zip(processes, addresses, strict=True):
            until(lambda p=process, a=address: p.poll() is not None or _listens(a))
            assert process.poll() is None
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
