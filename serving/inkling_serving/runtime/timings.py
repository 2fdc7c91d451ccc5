"""How long each phase of one request took, and which version answered it."""

from __future__ import annotations

import time

__all__ = ["PHASES", "Timings"]

PHASES = ("receive", "queue", "decode", "preprocess", "engine", "encode")


class Timings:
    """The phases of one request, in seconds, filled in while it is answered.

    Attributes:
        model: The model's name, once a model of that name was found, so that callers
            cannot make up label values for the metrics.
        version: The version that answers; 0 before that is known.
        started: When the head of the request had arrived, as `time.perf_counter` says.
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
