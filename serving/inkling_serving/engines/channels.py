"""Connections to several servers of one kind, with balancing and careful retries."""

from __future__ import annotations

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
    # Also the time that a connection may take to be made.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),
]
# Statuses of a call that no server has worked on, or that died with its server.
_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)
# How long a server that could not be reached is passed over.
_AVOIDED_S = 0.5
# Retries with the same server add at most this share to the calls, as each earns so
# much of one.
_RETRY_SHARE = 0.1
_MAX_RETRIES_SAVED = 10.0


class _Server:
    """A connection to one server, and until when it is passed over."""

    def __init__(self, address: str, options: list[tuple[str, Any]]) -> None:
        self.channel = grpc.insecure_channel(address, options)
        self.avoided_until = 0.0


class Channels:
    """Calls one of several servers, each in turn; safe to use from several threads.

    A server that could not be reached is passed over for a moment while there are
    others.
    """

    def __init__(self, addresses: Sequence[str], max_message_bytes: int) -> None:
        options = [
            *_OPTIONS,
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
        ]
        self._servers = [_Server(address, options) for address in addresses]
        self._lock = threading.Lock()
        self._turn = 0
        self._retries_saved = _MAX_RETRIES_SAVED

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """Return the answer's bytes.

        A call that no server has worked on is tried once more, with another server if
        there is one and what is left of the time, unless most calls fail.

        Raises:
            grpc.RpcError: It failed; the error is a `grpc.Call` too.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._retries_saved = min(
                _MAX_RETRIES_SAVED, self._retries_saved + _RETRY_SHARE
            )
        server = self._next()
        try:
            return _called(server.channel, method, request, timeout_s)
        except grpc.RpcError as error:
            if error.code() not in _RETRIED:
                raise
            server.avoided_until = time.monotonic() + _AVOIDED_S
            other, left_s = self._next(), deadline - time.monotonic()
            if left_s <= 0 or not (other is not server or self._may_retry()):
                raise
        return _called(other.channel, method, request, left_s)

    def close(self) -> None:
        """Close the connections."""
        for server in self._servers:
            server.channel.close()

    def _next(self) -> _Server:
        """Return the next server in turn, one that is not avoided if there is any."""
        now = time.monotonic()
        with self._lock:
            for _ in self._servers:
                self._turn = (self._turn + 1) % len(self._servers)
                if self._servers[self._turn].avoided_until <= now:
                    break
            return self._servers[self._turn]

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
