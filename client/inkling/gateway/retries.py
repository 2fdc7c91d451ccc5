# SPDX-License-Identifier: Apache-2.0
"""How often a call is tried again, and when: the same over gRPC and HTTP.

Only an attempt that the server could not take is tried again: its address was not
reached, or it answered that it is not ready or overloaded. A used-up quota is tried
again over HTTP only, whose `Retry-After` says when. Retries stop while most calls
fail: each failure takes one of ten tokens, each success gives a tenth of one back, and
a retry needs more than half of them (gRPC's retry throttling, gRFC A6).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

__all__ = ["RetryBudget", "grpc_retry_config"]

_MAX_ATTEMPTS = 3
_INITIAL_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 1.0
_BACKOFF_MULTIPLIER = 2
_MAX_TOKENS = 10
_TOKEN_RATIO = 0.1


def grpc_retry_config(service: str) -> Mapping[str, Any]:
    """Return the limits as gRPC's service config for the methods of a service."""
    return {
        "methodConfig": [
            {
                "name": [{"service": service}],
                "retryPolicy": {
                    "maxAttempts": _MAX_ATTEMPTS,
                    "initialBackoff": f"{_INITIAL_BACKOFF_S:g}s",
                    "maxBackoff": f"{_MAX_BACKOFF_S:g}s",
                    "backoffMultiplier": _BACKOFF_MULTIPLIER,
                    # A server that ends answers CANCELLED to calls that have arrived
                    # and that it has not begun.
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": _MAX_TOKENS, "tokenRatio": _TOKEN_RATIO},
    }


class RetryBudget:
    """The same limits for a client that tries again by itself; one for all its calls.

    Threads may share it: a lost update costs a fraction of a token.
    """

    def __init__(self) -> None:
        self._tokens = float(_MAX_TOKENS)

    def succeeded(self) -> None:
        """Note an attempt that was answered."""
        self._tokens = min(self._tokens + _TOKEN_RATIO, _MAX_TOKENS)

    def pause_s(self, attempt: int, asked_s: float | None) -> float | None:
        """Note an attempt that failed; return the seconds to wait before the next.

        Args:
            attempt: How many attempts the call has had.
            asked_s: The seconds that the server asked to wait; None if it did not.

        Returns:
            None where there is to be no other attempt.
        """
        self._tokens = max(self._tokens - 1, 0.0)
        if attempt >= _MAX_ATTEMPTS or self._tokens <= _MAX_TOKENS / 2:
            return None
        longest: float = _INITIAL_BACKOFF_S * _BACKOFF_MULTIPLIER ** (attempt - 1)
        # As gRPC does: callers that failed together do not come back together.
        backoff_s = min(longest, _MAX_BACKOFF_S) * random.uniform(0.8, 1.2)
        return max(backoff_s, asked_s or 0.0)
