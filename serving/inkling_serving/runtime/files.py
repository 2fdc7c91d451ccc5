# SPDX-License-Identifier: Apache-2.0
"""Files: the descriptors of a process, and whether a file was replaced."""

from __future__ import annotations

import logging
import os
from contextlib import suppress

__all__ = ["connections_allowed", "state_of"]

_log = logging.getLogger(__name__)
# For models, libraries, the log, probes of the repository, and handshakes.
_SPARE = 128
_PORTS = 2


def connections_allowed(wanted: int) -> int:
    """Raise the limit on open files, and return how many connections a port may have.

    Without a free descriptor, a process accepts nobody, and neither loads a model nor
    answers probes. Many systems start processes with a soft limit of 1,024, which is
    there for programs that use select().
    """
    try:
        import resource  # noqa: PLC0415 - Windows does not have it
    except ModuleNotFoundError:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return wanted
    allowed = max(1, (soft - _SPARE) // _PORTS)
    if allowed < wanted:
        _log.warning(
            "the system allows this process %d open files, so each port takes %d "
            "connections instead of %d; raise the limit (ulimit -n)",
            soft,
            allowed,
            wanted,
        )
    return min(wanted, allowed)


def state_of(path: str) -> tuple[int, ...]:
    """Return numbers that change with a file; none without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    # The last changes with the mode, too.
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns)
