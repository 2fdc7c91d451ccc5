"""Calls to TensorFlow Serving; gRPC itself balances, repeats and reconnects."""

from __future__ import annotations

import ipaddress
import itertools
import json
import time
from collections.abc import Sequence
from typing import Any

import grpc

__all__ = ["Channels"]

# A call that ends with one of these was lost: no server took it, the server died, or it
# was shutting down. Every method that is called here may be called twice.
_RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
)
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": [status.name for status in _RETRIED],
            },
        }
    ],
    # A failure costs a token and a success returns a tenth of one; with half of them
    # gone no call is repeated. So an outage is not made worse.
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    # A call that has sent more than this is not repeated. The default is 256 KiB, less
    # than one picture of 224 x 224 in colour.
    ("grpc.per_rpc_retry_buffer_size", 2**31 - 1),
    # A server that comes back is found soon; by default the pauses between attempts
    # grow to two minutes, and names are resolved every 30 s at most.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    # Also the time that an attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 1000),
    # A server that says nothing for a second while calls are under way is asked for a
    # sign of life, and left when none comes in time; its calls go to another server.
    # The time is not `grpc.keepalive_timeout_ms`, which has no effect in grpcio 1.85.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 2000),
    ("grpc.max_send_message_length", -1),
)


class Channels:
    """Calls the servers at some addresses, in turn; several threads may use it.

    Attributes:
        answered_at: When a server last answered, on the monotonic clock.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        max_message_bytes: int,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Connect when the first call comes.

        Args:
            addresses: `HOST:PORT`, or any target that gRPC can resolve. A name with
                several IP addresses stands for a server at each of them.
            max_message_bytes: Largest answer.
            credentials: How to encrypt the connections; None for no encryption.
        """
        self._channels = [
            _channel(target, max_message_bytes, credentials)
            for target in _targets(addresses, joined=credentials is None)
        ]
        self._turns = itertools.count()
        self.answered_at = 0.0

    def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        """Return the bytes of the answer.

        Raises:
            grpc.RpcError: The call failed; the error is a `grpc.Call`, too.
        """
        deadline = time.monotonic() + timeout_s
        turn = next(self._turns)
        left_to_try = len(self._channels)
        while True:
            channel = self._channels[(turn + left_to_try) % len(self._channels)]
            left_to_try -= 1
            # Without serialisers, bytes go in and out.
            multicallable: Any = channel.unary_unary(method)
            left_s = deadline - time.monotonic()
            try:
                answer: bytes = multicallable(request, timeout=left_s)
            except grpc.RpcError as error:
                late = time.monotonic() >= deadline
                if not left_to_try or late or error.code() not in _RETRIED:
                    raise
            else:
                self.answered_at = time.monotonic()
                return answer

    def close(self) -> None:
        """Close the connections; calls under way are cancelled."""
        for channel in self._channels:
            channel.close()


def _targets(addresses: Sequence[str], joined: bool) -> list[str]:
    """Return what gRPC is to connect to: one target for all, if gRPC can.

    gRPC takes a list of IP addresses and no list of names; and with encryption it holds
    each server's certificate against the whole list. What it does not take as a list
    gets a channel for each address, and `Channels.call` goes from one to the next.
    """
    for scheme, version in (("ipv4", 4), ("ipv6", 6)):
        if joined and all(_ip_version(address) == version for address in addresses):
            return [f"{scheme}:{','.join(addresses)}"]
    return list(addresses)


def _ip_version(address: str) -> int | None:
    host = address.rpartition(":")[0]
    try:
        return ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        return None


def _channel(
    target: str, max_message_bytes: int, credentials: grpc.ChannelCredentials | None
) -> grpc.Channel:
    options = [*_OPTIONS, ("grpc.max_receive_message_length", max_message_bytes)]
    if "," in target:
        # By default gRPC says to each server that its name is the whole list.
        first = target.partition(":")[2].partition(",")[0]
        options.append(("grpc.default_authority", first))
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)
