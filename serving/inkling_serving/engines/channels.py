"""Connections to several servers of one kind, with balancing and careful retries."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any

import grpc

__all__ = ["Channels"]

# A server that comes back is found within half a second; gRPC's own backoff grows to
# two minutes.
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),
]
# Statuses of a call that no server has worked on, or that died with its server.
_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)
# Retries add at most this share to the calls: each call earns so much of one.
_RETRY_SHARE = 0.1
_MAX_RETRIES_SAVED = 10.0


class Channels:
    """Calls one of several servers, each in turn; safe to use from several threads."""

    def __init__(self, addresses: Sequence[str], max_message_bytes: int) -> None:
        options = [
            *_OPTIONS,
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
        ]
        self._channels = [grpc.insecure_channel(a, options) for a in addresses]
        self._turn = itertools.cycle(self._channels)
        self._lock = threading.Lock()
        self._retries_saved = _MAX_RETRIES_SAVED

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """Return the answer's bytes.

        A call that no server has worked on is tried once more, with the next server and
        what is left of the time, unless most calls fail.

        Raises:
            grpc.RpcError: It failed; the error is a `grpc.Call` too.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            channel = next(self._turn)
            self._earn(_RETRY_SHARE)
        try:
            return _called(channel, method, request, timeout_s)
        except grpc.RpcError as error:
            left_s = deadline - time.monotonic()
            if error.code() not in _RETRIED or left_s <= 0 or not self._may_retry():
                raise
        with self._lock:
            channel = next(self._turn)
        return _called(channel, method, request, left_s)

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            channel.close()

    def _earn(self, share: float) -> None:
        self._retries_saved = min(_MAX_RETRIES_SAVED, self._retries_saved + share)

    def _may_retry(self) -> bool:
        with self._lock:
            if self._retries_saved < 1:
                return False
            self._retries_saved -= 1
            return True


def _called(
    channel: grpc.Channel, method: str, request: bytes, timeout_s: float
) -> bytes:
    # Without serialisers, bytes go in and out.
    multicallable: Any = channel.unary_unary(method)
    answer: bytes = multicallable(request, timeout=timeout_s)
    return answer
