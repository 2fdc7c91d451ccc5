"""How many cores this process may use: in a container, not those of the host."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["usable_cores"]


def usable_cores(system: Path = Path("/")) -> int:
    """Return the cores that the process may use, at least 1.

    Neither `os.cpu_count` nor Python 3.13's `os.process_cpu_count` knows what a
    container is allowed (`docker run --cpus`, a CPU limit in Kubernetes). With a worker
    for each core of a large host a gateway would run out of its memory.

    Args:
        system: Where `proc` and `sys` are; another place for tests.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(share) for share in _quotas(system))]))


def _quotas(system: Path) -> Iterator[float]:
    """Yield the limits, in cores, of the cgroups that the process is in.

    See the kernel's documentation, "CPU Interface Files" of Control Group v2 and "CFS
    Bandwidth Control" for version 1, which a container finds at the root of its mount.
    """
    mount = system / "sys/fs/cgroup"
    group = mount / _group(system)
    for folder in (group, *group.parents):
        if folder.is_relative_to(mount):
            yield from _quota(folder / "cpu.max")
    yield from _quota(mount / "cpu/cpu.cfs_quota_us", mount / "cpu/cpu.cfs_period_us")


def _group(system: Path) -> str:
    """Return the path of the group of version 2, which has the number 0."""
    with suppress(OSError):
        for line in (system / "proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                return line.removeprefix("0::/")
    return ""


def _quota(*files: Path) -> Iterator[float]:
    """Yield the quota over the period; nothing where there is no limit, or no file."""
    with suppress(OSError, ValueError):
        quota, period = " ".join(file.read_text() for file in files).split()
        if quota not in ("max", "-1"):
            yield int(quota) / int(period)
