"""What is known of one request while it is answered, and how long its parts took."""

from __future__ import annotations

import time

__all__ = ["PHASES", "Trace"]

PHASES = ("receive", "queue", "decode", "preprocess", "engine", "encode")


class Trace:
    """What is known of one request while it is answered; times are in seconds.

    Attributes:
        model: Its name, once it is known to be one; so callers make up no label.
        version: Which version answers; 0 before that is known.
        started: When its head had arrived, as `time.perf_counter` says.
    """

    __slots__ = ("model", "started", "version", *PHASES)

    def __init__(self) -> None:
        self.model = ""
        self.version = 0
        self.started = time.perf_counter()
        self.receive = self.queue = self.decode = 0.0
        self.preprocess = self.engine = self.encode = 0.0

    def server_timing(self) -> str:
        """Return the phases as a Server-Timing header has them, in milliseconds."""
        return ", ".join(
            f"{name};dur={1000 * getattr(self, name):.3f}" for name in PHASES
        )
