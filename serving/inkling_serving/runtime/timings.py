# SPDX-License-Identifier: Apache-2.0
"""The durations of the phases of one request, and the version that answered it."""

from __future__ import annotations

import random
import re
import time

__all__ = ["PHASES", "Timings", "request_id_of"]

PHASES = ("receive", "queue", "decode", "preprocess", "engine", "encode")
# An id must only differ from other ids. Random bytes from the system would take four
# times as long.
_ids = random.Random()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id_of(given: str) -> str:
    """Return the id of a request.

    Args:
        given: The caller's `X-Request-Id`, or nothing. One with characters that must
            not get into a log is passed over.
    """
    if given and _REQUEST_ID.fullmatch(given):
        return given
    return f"{_ids.getrandbits(128):032x}"


class Timings:
    """The durations of a request's phases, in seconds, filled in during the request.

    Attributes:
        model: The model's name, once the model was found, so that callers cannot
            invent label values for the metrics; empty before.
        version: The version that answers; 0 before it is known.
        images: How many pictures the engine got.
        request_id: The id that the caller gave or got; empty where there is none.
        captured: Whether the request is among those that are captured.
        started: The time at which the head of the request had arrived, from
            `time.perf_counter`.
    """

    __slots__ = (
        *("captured", "images", "model", "request_id", "started", "version"),
        *PHASES,
    )

    def __init__(self) -> None:
        self.model = self.request_id = ""
        self.version = self.images = 0
        self.captured = False
        self.started = time.perf_counter()
        self.receive = self.queue = self.decode = 0.0
        self.preprocess = self.engine = self.encode = 0.0

    def server_timing(self) -> str:
        """Return the phases as the value of a Server-Timing header, in milliseconds."""
        return ", ".join(
            f"{name};dur={1000 * getattr(self, name):.3f}" for name in PHASES
        )
