"""Error codes and gRPC statuses, in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import grpc

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
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)

__all__ = ["ERROR_CODE_KEY", "GRPC_STATUS", "error_from_rpc", "error_of"]

# The key of the trailing metadata that carries the code word.
ERROR_CODE_KEY = "inkling-error-code"

GRPC_STATUS: Mapping[ErrorCode, grpc.StatusCode] = MappingProxyType(
    {
        ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
        ErrorCode.INVALID_IMAGE: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: grpc.StatusCode.INVALID_ARGUMENT,
        ErrorCode.MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        ErrorCode.NOT_READY: grpc.StatusCode.UNAVAILABLE,
        ErrorCode.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
        ErrorCode.OVERLOADED: grpc.StatusCode.UNAVAILABLE,
        ErrorCode.NOT_FOUND: grpc.StatusCode.UNIMPLEMENTED,
        ErrorCode.METHOD_NOT_ALLOWED: grpc.StatusCode.UNIMPLEMENTED,
        ErrorCode.INTERNAL: grpc.StatusCode.INTERNAL,
    }
)

_CLASSES: Mapping[str, type[InklingError]] = MappingProxyType(
    {
        ErrorCode.UNAUTHENTICATED: Unauthenticated,
        ErrorCode.INVALID_IMAGE: InvalidImage,
        ErrorCode.INVALID_REQUEST: InvalidRequest,
        ErrorCode.TOO_LARGE: TooLarge,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: UnsupportedMediaType,
        ErrorCode.MODEL_NOT_FOUND: ModelNotFound,
        ErrorCode.NOT_READY: NotReady,
        ErrorCode.DEADLINE_EXCEEDED: DeadlineExceeded,
        ErrorCode.OVERLOADED: Overloaded,
        ErrorCode.NOT_FOUND: NotFound,
        ErrorCode.METHOD_NOT_ALLOWED: NotFound,
        ErrorCode.INTERNAL: InternalError,
    }
)

# For an answer without our metadata: from a proxy, the library itself, or nobody.
_CODE_OF_STATUS: Mapping[grpc.StatusCode, ErrorCode] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: ErrorCode.INVALID_REQUEST,
        grpc.StatusCode.FAILED_PRECONDITION: ErrorCode.NOT_READY,
        grpc.StatusCode.OUT_OF_RANGE: ErrorCode.INVALID_REQUEST,
        grpc.StatusCode.UNAUTHENTICATED: ErrorCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED: ErrorCode.UNAUTHENTICATED,
        grpc.StatusCode.NOT_FOUND: ErrorCode.MODEL_NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorCode.TOO_LARGE,
        grpc.StatusCode.DEADLINE_EXCEEDED: ErrorCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED: ErrorCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE: ErrorCode.NOT_READY,
        grpc.StatusCode.UNIMPLEMENTED: ErrorCode.NOT_FOUND,
    }
)


def error_of(code: str, message: str) -> InklingError:
    """Return the error that the server raised, by its code word."""
    return _CLASSES.get(code, InternalError)(message)


def error_from_rpc(
    status: grpc.StatusCode, details: str, trailing: Iterable[tuple[str, object]]
) -> InklingError:
    """Return the error for a call that ended with a status other than OK."""
    for key, value in trailing:
        if key == ERROR_CODE_KEY and isinstance(value, str):
            return error_of(value, details)
    code = _CODE_OF_STATUS.get(status, ErrorCode.INTERNAL)
    if code == ErrorCode.TOO_LARGE and "RPC limit" in details:
        code = ErrorCode.OVERLOADED  # gRPC says the same of its limit on calls
    return error_of(code, f"The server answered {status.name}: {details[:300]}")
