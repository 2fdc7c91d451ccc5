# SPDX-License-Identifier: Apache-2.0
"""Counts the cores that this process may use; a container has fewer than its host."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["usable_cores"]


def usable_cores(system: Path = Path("/")) -> int:
    """Return the cores that the process may use, at least 1.

    Neither `os.cpu_count` nor Python 3.13's `os.process_cpu_count` knows the limit of a
    container (`docker run --cpus`, a CPU limit in Kubernetes). With a worker for each
    core of a large host, a gateway in a container would run out of memory.

    Args:
        system: The directory with `proc` and `sys`; tests use another directory.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(share) for share in _quotas(system))]))


def _quotas(system: Path) -> Iterator[float]:
    """Yield the limits, in cores, of the cgroups of this process.

    The kernel's documentation describes the files: "CPU Interface Files" of Control
    Group v2, and "CFS Bandwidth Control" for version 1. A container has the files of
    version 1 at the root of its mount.
    """
    mount = system / "sys/fs/cgroup"
    group = mount / _group(system)
    for folder in (group, *group.parents):
        if folder.is_relative_to(mount):
            yield from _quota(folder / "cpu.max")
    yield from _quota(mount / "cpu/cpu.cfs_quota_us", mount / "cpu/cpu.cfs_period_us")


def _group(system: Path) -> str:
    """Return the path of the cgroup of version 2, which has the number 0."""
    with suppress(OSError):
        for line in (system / "proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                return line.removeprefix("0::/")
    return ""


def _quota(*files: Path) -> Iterator[float]:
    """Yield the quota divided by the period; nothing without a limit or a file."""
    with suppress(OSError, ValueError):
        quota, period = " ".join(file.read_text() for file in files).split()
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)
