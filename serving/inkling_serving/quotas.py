# SPDX-License-Identifier: Apache-2.0
"""The quotas of API keys: requests and pixels per second, as token buckets.

A request is refused where its key has no request or no pixel left. How many pixels a
picture has shows only once it is decoded, so they are taken afterwards, also where
fewer are left: the key then waits until the debt is paid. The libraries for quotas that
we found (limits, token-bucket, pyrate-limiter) refuse what exceeds the rest instead, so
a picture that is larger than the bucket could never be sent.

Each process counts for itself, and gives a key its share of the quota: what the
settings say, divided by the number of processes.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from inkling.errors import QuotaExceeded

__all__ = ["Allowance", "Quotas"]


@dataclass(frozen=True)
class _Rate:
    """A quota of one process.

    Attributes:
        name: Its name in headers and messages.
        per_s: What comes back in a second.
        capacity: The most that is saved up.
        burst_s: The seconds in which the capacity comes back.
    """

    name: str
    per_s: float
    capacity: float
    burst_s: float


class _Bucket:
    """What is left of one quota of one key; below 0, it is a debt."""

    def __init__(self, rate: _Rate) -> None:
        self.rate = rate
        self.left = rate.capacity
        self._at = time.monotonic()

    def fill(self) -> None:
        """Add what has come back since the last call."""
        now = time.monotonic()
        back = (now - self._at) * self.rate.per_s
        self._at, self.left = now, min(self.left + back, self.rate.capacity)

    @property
    def wait_s(self) -> float:
        """The seconds until there is one again."""
        return max(1.0 - self.left, 0.0) / self.rate.per_s

    @property
    def policy(self) -> str:
        """The quota as an item of the header RateLimit-Policy."""
        rate = self.rate
        return f'"{rate.name}";q={int(rate.capacity)};w={math.ceil(rate.burst_s)}'

    @property
    def state(self) -> str:
        """What is left as an item of the header RateLimit."""
        reset_s = math.ceil((self.rate.capacity - self.left) / self.rate.per_s)
        return f'"{self.rate.name}";r={max(int(self.left), 0)};t={reset_s}'


class Allowance:
    """What one key may still send to this process; several threads may use it."""

    def __init__(self, requests: _Rate | None, pixels: _Rate | None) -> None:
        self._requests = _Bucket(requests) if requests else None
        self._pixels = _Bucket(pixels) if pixels else None
        self._buckets = [one for one in (self._requests, self._pixels) if one]
        self._lock = threading.Lock()

    def take(self) -> None:
        """Take one request.

        Raises:
            QuotaExceeded: No request, or no pixel, is left.
        """
        with self._lock:
            for bucket in self._buckets:
                bucket.fill()
            scarcest = max(self._buckets, key=lambda bucket: bucket.wait_s)
            if scarcest.wait_s > 0:
                raise _exceeded(scarcest)
            if self._requests:
                self._requests.left -= 1

    def spend(self, pixels: int) -> None:
        """Take pixels of a request that was taken before, as a debt if need be."""
        if self._pixels:
            with self._lock:
                self._pixels.left -= pixels

    def headers(self) -> Mapping[str, str]:
        """Return the fields of draft-ietf-httpapi-ratelimit-headers."""
        with self._lock:
            for bucket in self._buckets:
                bucket.fill()
            return {
                "ratelimit-policy": ", ".join(one.policy for one in self._buckets),
                "ratelimit": ", ".join(one.state for one in self._buckets),
            }

    @property
    def is_full(self) -> bool:
        """Whether nothing would be lost if the key started anew."""
        with self._lock:
            for bucket in self._buckets:
                bucket.fill()
            return all(one.left >= one.rate.capacity for one in self._buckets)


class Quotas:
    """The allowances of all keys in one process, over all protocols."""

    def __init__(
        self, requests_per_s: float = 0.0, pixels_per_s: float = 0.0, burst_s: float = 1
    ) -> None:
        """Take the quotas of a key in this process; 0 is no quota.

        Args:
            requests_per_s: The requests that come back in a second.
            pixels_per_s: The pixels that come back in a second.
            burst_s: The seconds of its quota that a key saves up.
        """
        self._allowances: dict[str, Allowance] = {}
        self._lock = threading.Lock()
        self._requests = _rate("requests", requests_per_s, burst_s)
        self._pixels = _rate("pixels", pixels_per_s, burst_s)

    @property
    def are_set(self) -> bool:
        """Whether keys have a quota."""
        return self._requests is not None or self._pixels is not None

    def of(self, authorization: str | None) -> Allowance | None:
        """Return what a key may still send; None without a quota.

        Args:
            authorization: The header `Authorization`, whose key was checked before.
        """
        if not self.are_set:
            return None
        key = (authorization or "").partition(" ")[2].strip()
        with self._lock:
            found = self._allowances.get(key)
            if found is None:
                # Keys that were withdrawn are forgotten with it.
                kept = {k: a for k, a in self._allowances.items() if not a.is_full}
                found = Allowance(self._requests, self._pixels)
                self._allowances = {**kept, key: found}
            return found


def _rate(name: str, per_s: float, burst_s: float) -> _Rate | None:
    # Less than one would never let a request through.
    capacity = max(per_s * burst_s, 1.0)
    return _Rate(name, per_s, capacity, capacity / per_s) if per_s else None


def _exceeded(bucket: _Bucket) -> QuotaExceeded:
    per_s, wait_s = bucket.rate.per_s, max(math.ceil(bucket.wait_s), 1)
    error = QuotaExceeded(
        f"This API key has used up its quota of {bucket.rate.name}: {per_s:g} per "
        f"second in this process of the gateway. Send the request again in {wait_s} s."
    )
    error.retry_after_s = wait_s
    return error
