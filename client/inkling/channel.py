"""What the synchronous and the asyncio client share: everything but waiting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import grpc

from inkling.errors import InklingError, InvalidRequest
from inkling.status import error_from_rpc
from inkling.types import Origin, Prediction, Score
from inkling.v1 import classifier_pb2 as pb

__all__ = ["Connection", "error_of_call", "prediction_of", "request_for"]

DEFAULT_TIMEOUT_S = 5.0

# A server that comes back is found within a second; gRPC's own backoff grows to two
# minutes.
_OPTIONS: list[tuple[str, object]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
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
        if not self.timeout_s > 0:
            raise InvalidRequest(
                f"timeout_s is {self.timeout_s}; expected more than 0."
            )

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
            return grpc.ssl_channel_credentials(
                Path(self.root_certificates).read_bytes()
            )
        return grpc.ssl_channel_credentials() if self.tls else None


def request_for(connection: Connection, image: bytes, top_k: int) -> pb.ClassifyRequest:
    """Return the request that asks for one image."""
    return pb.ClassifyRequest(
        model=connection.model,
        version=connection.version,
        version_label=connection.version_label,
        images=[image],
        top_k=top_k,
    )


def prediction_of(response: pb.ClassifyResponse) -> Prediction:
    """Return the answer to a request for one image."""
    [result] = response.results
    origin = Origin(response.model, response.version, response.contract)
    top = tuple(Score(s.label, s.index, s.probability) for s in result.top)
    return Prediction(top, origin)


def error_of_call(call: grpc.Call) -> InklingError:
    """Return the error for a call that failed."""
    trailing = [(key, value) for key, value in call.trailing_metadata() or ()]
    return error_from_rpc(call.code(), call.details() or "", trailing)
