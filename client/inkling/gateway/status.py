# SPDX-License-Identifier: Apache-2.0
"""Error codes and gRPC statuses, in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import grpc

from inkling.errors import ErrorCode, InklingError
from inkling.gateway.error_classes import error_of, is_known, not_reached, too_late

__all__ = ["ERROR_CODE_KEY", "ERROR_INDEX_KEY", "GRPC_STATUS", "error_from_rpc"]

# The keys of the trailing metadata that carry the code word, and the position of the
# image that the error is about.
ERROR_CODE_KEY = "inkling-error-code"
ERROR_INDEX_KEY = "inkling-error-index"

GRPC_STATUS: Mapping[ErrorCode, grpc.StatusCode] = MappingProxyType(
    {
        ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
        ErrorCode.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
        ErrorCode.INVALID_IMAGE: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        ErrorCode.UNKNOWN_REQUEST: grpc.StatusCode.NOT_FOUND,
        ErrorCode.NOT_READY: grpc.StatusCode.UNAVAILABLE,
        ErrorCode.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
        ErrorCode.OVERLOADED: grpc.StatusCode.UNAVAILABLE,
        ErrorCode.QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorCode.NOT_FOUND: grpc.StatusCode.UNIMPLEMENTED,
        ErrorCode.METHOD_NOT_ALLOWED: grpc.StatusCode.UNIMPLEMENTED,
        ErrorCode.INTERNAL: grpc.StatusCode.INTERNAL,
    }
)

# For a status without our metadata, which a proxy or gRPC itself has set, and for a
# code word that only newer gateways know.
_CODE_OF_STATUS: Mapping[grpc.StatusCode, ErrorCode] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: ErrorCode.INVALID_REQUEST,
        grpc.StatusCode.FAILED_PRECONDITION: ErrorCode.NOT_READY,
        grpc.StatusCode.OUT_OF_RANGE: ErrorCode.INVALID_REQUEST,
        grpc.StatusCode.UNAUTHENTICATED: ErrorCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED: ErrorCode.PERMISSION_DENIED,
        grpc.StatusCode.NOT_FOUND: ErrorCode.MODEL_NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorCode.TOO_LARGE,
        grpc.StatusCode.CANCELLED: ErrorCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.DEADLINE_EXCEEDED: ErrorCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE: ErrorCode.NOT_READY,
        grpc.StatusCode.UNIMPLEMENTED: ErrorCode.NOT_FOUND,
    }
)


def error_from_rpc(
    status: grpc.StatusCode,
    details: str,
    trailing: Iterable[tuple[str, object]],
    target: str = "The server",
) -> InklingError:
    """Return the error for a call that ended with a status other than OK.

    Args:
        status: The status.
        details: The words that came with the status.
        trailing: The trailing metadata, which have the code word of a gateway.
        target: The address, for the message where no gateway sent the status.
    """
    for key, value in trailing:
        if key == ERROR_CODE_KEY:
            known = str(value) if is_known(value) else _code_of(status, details)
            return error_of(known, details)
    if status is grpc.StatusCode.UNAVAILABLE:
        return not_reached(target, details[:300] or "gRPC gives no reason")
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return too_late(target)
    code = _code_of(status, details)
    return error_of(code, f"{target} answered {status.name}: {details[:300]}")


def _code_of(status: grpc.StatusCode, details: str) -> ErrorCode:
    code = _CODE_OF_STATUS.get(status, ErrorCode.INTERNAL)
    if code == ErrorCode.TOO_LARGE and "RPC limit" in details:
        return ErrorCode.OVERLOADED  # gRPC says the same of its limit on calls
    return code
