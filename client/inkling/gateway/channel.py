"""The part of the gRPC clients that both share, synchronous and asyncio."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import grpc

from inkling.errors import InklingError, InternalError, InvalidRequest
from inkling.gateway.connection import Connection
from inkling.gateway.retries import grpc_retry_config
from inkling.gateway.status import error_from_rpc
from inkling.types import Origin, Prediction, Score
from inkling.v1 import classifier_pb2 as pb

__all__ = [
    "CHANNEL_OPTIONS",
    "check_address",
    "credentials",
    "error_of_call",
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
    ("grpc.enable_retries", 1),
    # gRPC repeats no call that has sent more than this; by default 256 KiB, which
    # a photo exceeds.
    ("grpc.per_rpc_retry_buffer_size", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    ("grpc.service_config", json.dumps(grpc_retry_config("inkling.v1.Classifier"))),
)


def check_address(target: str) -> str:
    """Return `target` if it is the address of a gRPC port.

    Raises:
        InvalidRequest: It is not of the form `host:port`.
    """
    host, _, port = target.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise InvalidRequest(
            f"{target!r:.100} is not the address of a gateway, and not a TFLite file "
            'or directory that exists; expected "host:port" of its gRPC port, such as '
            '"localhost:8081".'
        )
    return target


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
    connection: Connection, image: bytes, top_k: int, abstain: bool
) -> pb.ClassifyRequest:
    """Return the request that asks for one encoded picture."""
    return pb.ClassifyRequest(
        model=connection.model,
        version=connection.version,
        version_label=connection.version_label,
        images=[image],
        top_k=top_k,
        abstain=abstain,
    )


def prediction_of(response: pb.ClassifyResponse) -> Prediction:
    """Return the answer to a request for one picture.

    Raises:
        InternalError: The server did not give exactly one answer with a label.
    """
    if len(response.results) != 1 or not response.results[0].top:
        raise InternalError("The server answered without a label; it should not.")
    [result] = response.results
    origin = Origin(response.model, response.version, response.contract)
    top = tuple(Score(s.label, s.index, s.probability) for s in result.top)
    return Prediction(top, origin, result.abstained or None)


def error_of_call(connection: Connection, call: _Ended) -> InklingError:
    """Return the error for a call that failed."""
    trailing = [(key, value) for key, value in call.trailing_metadata() or ()]
    return error_from_rpc(
        call.code(), call.details() or "", trailing, connection.target
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
