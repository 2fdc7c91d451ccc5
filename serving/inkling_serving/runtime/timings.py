# SPDX-License-Identifier: Apache-2.0
"""The durations of the phases of one request, and the version that answered it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inkling_serving.quotas import Allowance

__all__ = ["PHASES", "Timings"]

PHASES = ("receive", "queue", "decode", "preprocess", "engine", "encode")


class Timings:
    """The durations of a request's phases, in seconds, filled in during the request.

    Attributes:
        model: The model's name, once the model was found, so that callers cannot
            invent label values for the metrics; empty before.
        version: The version that answers; 0 before it is known.
        images: How many pictures the engine got.
        request_id: The id that the caller gave or got; empty where there is none.
        allowance: What the caller's key may still send; None where there is no quota.
        started: The time at which the head of the request had arrived, from
            `time.perf_counter`.
    """

    __slots__ = (
        *("allowance", "images", "model", "request_id", "started", "version"),
        *PHASES,
    )

    def __init__(self) -> None:
        self.allowance: Allowance | None = None
        self.model = self.request_id = ""
        self.version = self.images = 0
        self.started = time.perf_counter()
        self.receive = self.queue = self.decode = 0.0
        self.preprocess = self.engine = self.encode = 0.0

    def admit(self, allowance: Allowance | None) -> None:
        """Take the request from what the caller's key may still send.

        Raises:
            QuotaExceeded: The key has used up a quota.
        """
        self.allowance = allowance
        if allowance is not None:
            allowance.take()

    def spend(self, pixels: int) -> None:
        """Take pixels from the quota of the caller's key, if it has one."""
        if self.allowance is not None:
            self.allowance.spend(pixels)

    def server_timing(self) -> str:
        """Return the phases as the value of a Server-Timing header, in milliseconds."""
        return ", ".join(
            f"{name};dur={1000 * getattr(self, name):.3f}" for name in PHASES
        )
