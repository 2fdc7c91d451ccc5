# SPDX-License-Identifier: Apache-2.0
"""Calls to TensorFlow Serving; gRPC balances and retries the calls, and reconnects."""

from __future__ import annotations

import ipaddress
import itertools
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import grpc

from inkling.network.address import Address
from inkling.network.proxies import Proxy, grpc_proxy_options, proxy_for

__all__ = ["Channels"]

_log = logging.getLogger(__name__)

# A call that ends with one of these statuses was lost: no server accepted the call, or
# the server died or shut down. All methods that are called here may be called twice.
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
    # A failure takes a token, and a success returns a tenth of a token. With half of
    # the tokens left, gRPC does not retry, so that retries cannot worsen an outage. A
    # server that dies fails all of its calls at once, and 50 of them are repeated; with
    # 10 tokens, the fifth and all after it were lost.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    # gRPC does not retry a call that has sent more bytes. The default is 256 KiB, and
    # two colour pictures of 224 x 224 have more.
    ("grpc.per_rpc_retry_buffer_size", 2**31 - 1),
    # gRPC finds a restarted server soon. By default, the pauses between attempts grow
    # to two minutes, and gRPC resolves names every 30 s at most.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    # This is also the limit for an attempt to connect.
    ("grpc.min_reconnect_backoff_ms", 1000),
    # gRPC pings a server that sends nothing for a second during calls, and disconnects
    # if the server does not answer; the calls go to another server.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 2000),
    ("grpc.max_send_message_length", -1),
)


class Channels:
    """Calls several servers in turn; several threads may use it.

    Attributes:
        answered_at: The time of the last answer of a server, on the monotonic clock.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        max_message_bytes: int,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Create the channels, which connect at the first call.

        Args:
            addresses: The servers as `HOST:PORT` or as targets that gRPC can resolve. A
                name with several IP addresses stands for a server at each address.
            max_message_bytes: The largest response.
            credentials: The credentials for TLS; None for connections without TLS.
        """
        proxies = {text: proxy_for(Address.parse(text)) for text in addresses}
        for text, proxy in proxies.items():
            if proxy is not None:
                _log.warning(
                    "calls of the engine at %s go through %s; add the engine to "
                    "no_proxy for direct calls",
                    text,
                    proxy,
                )
        joined = credentials is None and not any(proxies.values())
        self._channels = [
            _channel(target, max_message_bytes, credentials, proxies.get(target))
            for target in _targets(addresses, joined)
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
            # Without serialisers, requests and responses are bytes.
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
        """Close the connections; open calls are cancelled."""
        for channel in self._channels:
            channel.close()


def _targets(addresses: Sequence[str], joined: bool) -> list[str]:
    """Return the targets for gRPC: a single target for all addresses, if possible.

    gRPC accepts a list of IP addresses but not of names. With TLS it compares each
    server's certificate with the whole list, and a proxy leads to one server only. In
    these cases each address gets its own channel, and `Channels.call` tries one after
    the other.
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
    target: str,
    max_message_bytes: int,
    credentials: grpc.ChannelCredentials | None,
    proxy: Proxy | None,
) -> grpc.Channel:
    options = [*_OPTIONS, ("grpc.max_receive_message_length", max_message_bytes)]
    options += grpc_proxy_options(proxy)
    if "," in target:
        # By default, gRPC sends the whole list to each server as the server's name.
        first = target.partition(":")[2].partition(",")[0]
        options.append(("grpc.default_authority", first))
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)
