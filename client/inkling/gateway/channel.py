# SPDX-License-Identifier: Apache-2.0
"""The part of the gRPC clients that both share, synchronous and asyncio."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

import grpc

from inkling.errors import InklingError, InternalError, InvalidRequest
from inkling.gateway.connection import Connection
from inkling.gateway.retries import grpc_retry_config
from inkling.gateway.status import error_from_rpc
from inkling.network.address import Address
from inkling.network.diagnosis import speaks
from inkling.network.proxies import grpc_proxy_options
from inkling.types import ClassifyOptions, Origin, Prediction, Score
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub

__all__ = [
    "CHANNEL_OPTIONS",
    "Line",
    "Lines",
    "channel_options",
    "credentials",
    "error_of_call",
    "grpc_connection",
    "prediction_of",
    "request_for",
]

# A server that comes back is found within a second; gRPC's own backoff grows to two
# minutes.
CHANNEL_OPTIONS: Sequence[tuple[str, object]] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also the time that a connection may take to be made.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A server that comes back at another address of its name is found as soon; by
    # default gRPC resolves names every 30 s at most.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ("grpc.enable_retries", 1),
    # gRPC repeats no call that has sent more than this; by default 256 KiB, which
    # a photo exceeds.
    ("grpc.per_rpc_retry_buffer_size", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    ("grpc.service_config", json.dumps(grpc_retry_config("inkling.v1.Classifier"))),
)

# More connections than that do not spread the calls better over a gateway's processes.
_MAX_LINES = 8

# Parts of gRPC's words for connections that were made and then broke.
_SIGNS_OF_ANOTHER_PROTOCOL = (
    *("socket closed", "settings", "handshake", "ssl", "tls", "certificate"),
    *("verification", "reset", "broken pipe", "http", "shutdown", "eof", "recvmsg"),
)


@dataclass(eq=False)
class Line:
    """A channel, which is one connection, and the number of its calls under way."""

    channel: Any
    stub: ClassifierStub
    under_way: int = 0


class Lines:
    """A classifier's connections; a call that finds all of them busy opens another.

    One process of a gateway serves a connection, so that a single one leaves the other
    processes idle. Threads may share the object.
    """

    def __init__(self, opened: Callable[[], Any]) -> None:
        """Take the function that opens a channel."""
        self._opened = opened
        self._lock = threading.Lock()
        self._open: list[Line] = []

    def __contains__(self, line: Line) -> bool:
        """Return whether the line is open."""
        return line in self._open

    def take(self) -> Line:
        """Return the line with the fewest calls under way, with one more of them."""
        with self._lock:
            line = min(self._open, key=attrgetter("under_way"), default=None)
            if line is None or (line.under_way and len(self._open) < _MAX_LINES):
                channel = self._opened()
                line = Line(channel, ClassifierStub(channel))  # type: ignore[no-untyped-call]
                self._open.append(line)
            line.under_way += 1
            return line

    def give_back(self, line: Line) -> None:
        """Note that a call has ended."""
        with self._lock:
            line.under_way -= 1

    def take_down(self) -> Sequence[Any]:
        """Forget all lines, and return their channels."""
        with self._lock:
            lines, self._open = self._open, []
        return [line.channel for line in lines]


def grpc_connection(target: str, options: Mapping[str, Any]) -> Connection:
    """Return a connection to a gRPC port.

    Raises:
        InvalidRequest: The address is one of an HTTP port, or an option is impossible.
    """
    if not Address.parse(target).is_grpc:
        raise InvalidRequest(
            f'{target!r:.100} is the address of an HTTP port; expected "host:port" of '
            "the gRPC port, such as localhost:8081. inkling.connect takes both."
        )
    return Connection.to(target, options)


def channel_options(connection: Connection) -> Sequence[tuple[str, object]]:
    """Return the options of a channel, with the proxy that leads to the gateway."""
    # By default, the channels of a process to one address share a connection.
    own = ("grpc.use_local_subchannel_pool", 1)
    return (*CHANNEL_OPTIONS, own, *grpc_proxy_options(connection.proxy))


def credentials(connection: Connection) -> grpc.ChannelCredentials | None:
    """Return what encrypts the channel; None for a channel without TLS.

    Raises:
        InvalidRequest: A file of certificates cannot be read.
    """
    if not connection.is_encrypted:
        return None
    return grpc.ssl_channel_credentials(
        _content(connection.root_certificates),
        _content(connection.client_key),
        _content(connection.client_certificate),
    )


def request_for(
    connection: Connection, image: bytes, options: ClassifyOptions
) -> pb.ClassifyRequest:
    """Return the request that asks for one encoded picture."""
    return pb.ClassifyRequest(
        model=connection.model,
        version=connection.version,
        version_label=connection.version_label,
        images=[image],
        top_k=options.top_k,
        abstain=options.abstain,
        threshold=options.threshold,
    )


def prediction_of(
    response: pb.ClassifyResponse, options: ClassifyOptions
) -> Prediction:
    """Return the answer to a request for one picture with these options.

    Raises:
        InternalError: The server did not give exactly one answer with a label, or does
            not know the threshold.
    """
    if len(response.results) != 1 or not response.results[0].top:
        raise InternalError("The server answered without a label; it should not.")
    [result] = response.results
    origin = Origin(response.model, response.version, response.contract)
    top, abstained = _scores(result.top), result.abstained or None
    if options.threshold is None:
        return Prediction(top, origin, abstained)
    if not result.labels and abstained is None:
        raise InternalError(
            "The server does not know thresholds; update the gateway, or ask without."
        )
    return Prediction(top, origin, abstained, _scores(result.labels))


def _scores(found: Iterable[pb.Score]) -> tuple[Score, ...]:
    return tuple(Score(s.label, s.index, s.probability) for s in found)


def error_of_call(connection: Connection, call: _Ended) -> InklingError:
    """Return the error for a call that failed; this may make another connection."""
    trailing = [(key, value) for key, value in call.trailing_metadata() or ()]
    details = call.details() or ""
    if _is_odd(call.code(), details) and connection.proxy is None:
        context = connection.context if connection.is_encrypted else None
        details = speaks(connection.address, context) or details
    return error_from_rpc(call.code(), details, trailing, connection.shown)


def _is_odd(status: grpc.StatusCode, details: str) -> bool:
    """Return whether a server may speak another protocol, by gRPC's own words."""
    words = details.lower()
    return status is grpc.StatusCode.UNAVAILABLE and any(
        sign in words for sign in _SIGNS_OF_ANOTHER_PROTOCOL
    )


class _Ended(Protocol):
    """A call that ended, synchronous or not."""

    def code(self) -> grpc.StatusCode: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def _content(path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError:
        raise InvalidRequest(f"{path} cannot be read; expected a PEM file.") from None
