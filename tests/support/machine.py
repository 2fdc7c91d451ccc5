# SPDX-License-Identifier: Apache-2.0
"""Times, ports and memory of the machine that the tests run on."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class TooSlow(AssertionError):
    """Something was right, and took longer than it may.

    A machine that others use as well makes a time worse and never better, so the run's
    settings try a test that ends with this, and with nothing else, up to three times.
    """


def within(took_s: float, limit_s: float) -> None:
    """Raise TooSlow where something took more seconds than its limit."""
    if took_s > limit_s:
        raise TooSlow(f"took {took_s:.3f} s; at most {limit_s:g} s were wanted")


def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> float:
    """Wait for a condition; return the seconds it took.

    The timeout is patience with a busy machine; `within` states how soon it must be.
    """
    started = time.monotonic()
    while not condition():
        took = time.monotonic() - started
        assert took < timeout_s, f"it did not come true within {timeout_s:g} s"
        time.sleep(0.005)
    return time.monotonic() - started


def free_port() -> int:
    """Return a port of the loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether somebody takes connections on a port of the loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def memory_bytes(pid: int, name: str = "VmRSS") -> int:
    """Return the bytes that a process holds; by the name of `VmHWM`, their peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(name + ":")]
    return int(line.split()[1]) * 1024
