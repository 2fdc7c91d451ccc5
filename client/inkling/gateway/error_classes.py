# SPDX-License-Identifier: Apache-2.0
"""Error codes -> the classes of `inkling.errors` that a client raises for them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from inkling.errors import (
    DeadlineExceeded,
    ErrorCode,
    InklingError,
    InternalError,
    InvalidImage,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    NotReady,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    TooLarge,
    Unauthenticated,
    UnknownRequest,
    UnsupportedMediaType,
)

__all__ = ["closed", "error_of", "is_known", "not_reached", "too_late"]

_CLASSES: Mapping[str, type[InklingError]] = MappingProxyType(
    {
        ErrorCode.UNAUTHENTICATED: Unauthenticated,
        ErrorCode.PERMISSION_DENIED: PermissionDenied,
        ErrorCode.INVALID_IMAGE: InvalidImage,
        ErrorCode.INVALID_REQUEST: InvalidRequest,
        ErrorCode.TOO_LARGE: TooLarge,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: UnsupportedMediaType,
        ErrorCode.MODEL_NOT_FOUND: ModelNotFound,
        ErrorCode.UNKNOWN_REQUEST: UnknownRequest,
        ErrorCode.NOT_READY: NotReady,
        ErrorCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        ErrorCode.OVERLOADED: Overloaded,
        ErrorCode.QUOTA_EXCEEDED: QuotaExceeded,
        ErrorCode.NOT_FOUND: NotFound,
        ErrorCode.METHOD_NOT_ALLOWED: NotFound,
        ErrorCode.INTERNAL: InternalError,
    }
)


def error_of(code: str, message: str) -> InklingError:
    """Return the error that the server raised, by its code word."""
    return _CLASSES.get(code, InternalError)(message)


def is_known(code: object) -> bool:
    """Return whether this client has a class for a code word.

    A newer server may send others; the class then follows from the status.
    """
    return isinstance(code, str) and code in _CLASSES


def not_reached(target: str, reason: str) -> NotReady:
    """Return the error for an address at which no gateway answers."""
    return NotReady(
        f"{target} cannot be reached: {reason}. Start a gateway with: inkling serve, "
        "or give the address of one that runs."
    )


def too_late(target: str) -> DeadlineExceeded:
    """Return the error for a call whose `timeout_s` went by without an answer."""
    return DeadlineExceeded(
        f"{target} did not answer in time; timeout_s says how long a call may take."
    )


def closed() -> NotReady:
    """Return the error for a call that its classifier's `close` ended or prevented."""
    return NotReady(
        "The classifier was closed while it was asked. Close it after its last call, "
        "or connect again."
    )
