# SPDX-License-Identifier: Apache-2.0
"""The durations of the phases of one request, and the version that answered it."""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inkling_serving.quotas import Allowance

__all__ = ["PHASES", "Timings", "request_id_of"]

# https://www.w3.org/TR/trace-context/: version, trace, span of the caller, flags.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
    r"(?:-.*)?"
)
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
        caller: A key of the caller, by which a share of all callers is drawn; empty
            where it gave none.
        trace_id: The trace that the request belongs to, 32 hexadecimal digits; empty
            where neither the caller nor the gateway traces it.
        parent_id: The span of the caller, 16 hexadecimal digits, or empty.
        is_traced: Whether the caller wants a trace; None where it does not say.
        allowance: What the caller's key may still send; None where there is no quota.
        captured: Whether the request is among those that are captured.
        started: The time at which the head of the request had arrived, from
            `time.perf_counter`.
    """

    __slots__ = (
        *("allowance", "caller", "captured", "images", "is_traced", "model"),
        *("parent_id", "request_id", "started", "trace_id", "version"),
        *PHASES,
    )

    def __init__(self, caller: str = "") -> None:
        self.caller = caller
        self.allowance: Allowance | None = None
        self.model = self.request_id = self.trace_id = self.parent_id = ""
        self.is_traced: bool | None = None
        self.version = self.images = 0
        self.captured = False
        self.started = time.perf_counter()
        self.receive = self.queue = self.decode = 0.0
        self.preprocess = self.engine = self.encode = 0.0

    def follow(self, traceparent: str) -> None:
        """Take the caller's trace from a header of W3C Trace Context, if it is one."""
        found = _TRACEPARENT.fullmatch(traceparent)
        if found is not None:
            self.trace_id, self.parent_id, flags = found.groups()
            self.is_traced = bool(int(flags, 16) & 1)

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
