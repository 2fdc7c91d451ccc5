"""What the synchronous and the asyncio client share: everything but waiting."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from inkling.contract import Contract
from inkling.errors import (
    InklingError,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    NotReady,
)
from inkling.gateway.status import error_from_rpc
from inkling.types import Origin, Prediction, Score, check_abstain, check_top_k
from inkling.v1 import classifier_pb2 as pb

__all__ = [
    "Connection",
    "contract_of",
    "error_of_call",
    "prediction_of",
    "request_for",
]

DEFAULT_TIMEOUT_S = 5.0
_MAX_TIMEOUT_S = 86400.0
_MAX_VERSION = 2**63 - 1

# A server that comes back is found within a second; gRPC's own backoff grows to two
# minutes.
_OPTIONS: list[tuple[str, object]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Also the time that a connection may take to be made.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 1),
    ("grpc.max_send_message_length", -1),
]

# Only what never reached a handler is tried again, and not while most calls fail:
# every failure costs one of ten tokens, every success returns a tenth of one.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "inkling.v1.Classifier"}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}


@dataclass(frozen=True)
class Connection:
    """Where a gateway is, and how to speak to it.

    Attributes:
        target: `host:port`.
        model: Which model is asked.
        version: Which of its versions; None for the newest that is available.
        version_label: The version with this label instead.
        timeout_s: Time that a call may take, retries and all.
        tls: Whether to encrypt, and believe the authorities that gRPC knows.
        root_certificates: A PEM file of authorities to believe instead; implies `tls`.
        api_key: Sent with every call, as a bearer token.
    """

    target: str
    model: str = "cnn"
    version: int | None = None
    version_label: str | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S
    tls: bool = False
    root_certificates: str | Path | None = None
    api_key: str | None = None

    def __post_init__(self) -> None:
        host, _, port = self.target.rpartition(":")
        if not host or not port.isdecimal():
            raise InvalidRequest(
                f"{self.target!r:.100} is no address of a gateway, and no TFLite file "
                'or directory that is there; expected "host:port", such as '
                '"localhost:8081".'
            )
        version = self.version
        if version is not None and (
            not isinstance(version, int) or not abs(version) <= _MAX_VERSION
        ):
            raise InvalidRequest(
                f"version is {version!r:.40}; expected a whole number."
            )
        if version is not None and self.version_label is not None:
            raise InvalidRequest("Give a version or a version_label, not both.")
        number = isinstance(self.timeout_s, int | float)
        if not number or not 0 < self.timeout_s <= _MAX_TIMEOUT_S:
            raise InvalidRequest(
                f"timeout_s is {self.timeout_s!r:.40}; expected seconds above 0, no "
                "more than a day."
            )

    @classmethod
    def to(cls, target: str, options: Mapping[str, Any]) -> Connection:
        """Return a connection with these options.

        Raises:
            InvalidRequest: There is no such option, or a value is impossible.
        """
        known = {item.name for item in dataclasses.fields(cls)} - {"target"}
        unknown = sorted(set(options) - known)
        if unknown:
            raise InvalidRequest(
                f"Unknown options for a gateway: {', '.join(unknown)[:200]}; there are "
                f"{', '.join(sorted(known))}."
            )
        return cls(target, **options)

    @property
    def options(self) -> list[tuple[str, object]]:
        """Options of the channel."""
        return [*_OPTIONS, ("grpc.service_config", json.dumps(_SERVICE_CONFIG))]

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What is sent along with every call."""
        return [("authorization", f"Bearer {self.api_key}")] if self.api_key else []

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return what encrypts the channel; None for a channel in the clear."""
        if self.root_certificates is not None:
            try:
                authorities = Path(self.root_certificates).read_bytes()
            except OSError:
                raise InvalidRequest(
                    f"{self.root_certificates} cannot be read; name a PEM file."
                ) from None
            return grpc.ssl_channel_credentials(authorities)
        return grpc.ssl_channel_credentials() if self.tls else None


def request_for(
    connection: Connection, image: bytes, top_k: int, abstain: bool
) -> pb.ClassifyRequest:
    """Return the request that asks for one image.

    Raises:
        InvalidRequest: `top_k` or `abstain` is not possible.
    """
    check_top_k(top_k)
    return pb.ClassifyRequest(
        model=connection.model,
        version=connection.version,
        version_label=connection.version_label,
        images=[image],
        top_k=top_k,
        abstain=check_abstain(abstain),
    )


def prediction_of(response: pb.ClassifyResponse) -> Prediction:
    """Return the answer to a request for one image.

    Raises:
        InternalError: The server gave another number of answers.
    """
    if len(response.results) != 1 or not response.results[0].top:
        raise InternalError("The server answered without a label; it should not.")
    [result] = response.results
    origin = Origin(response.model, response.version, response.contract)
    top = tuple(Score(s.label, s.index, s.probability) for s in result.top)
    return Prediction(top, origin, result.abstained or None)


def contract_of(connection: Connection, model: pb.Model) -> Contract:
    """Return the contract of the version that a connection asks.

    Raises:
        ModelNotFound: There is no such version.
        NotReady: It cannot answer yet.
    """
    number, label = connection.version, connection.version_label
    wanted = [
        version
        for version in model.versions  # newest first
        if number in (None, version.version)
        and (label is None or label in version.version_labels)
    ]
    if not wanted:
        raise ModelNotFound(f'The model "{model.name}" has no such version.')
    for version in wanted:
        if version.contract_json:
            return Contract.from_json(version.contract_json)
    raise NotReady(f'No such version of the model "{model.name}" can answer yet.')


def error_of_call(call: grpc.Call) -> InklingError:
    """Return the error for a call that failed."""
    trailing = [(key, value) for key, value in call.trailing_metadata() or ()]
    return error_from_rpc(call.code(), call.details() or "", trailing)
