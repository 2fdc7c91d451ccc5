# SPDX-License-Identifier: Apache-2.0
"""How a gRPC call ends with an error: its status, its error code and its message."""

from __future__ import annotations

import logging
from typing import NoReturn

import grpc

from inkling.errors import ErrorCode, InklingError, InternalError, QuotaExceeded
from inkling.gateway.status import ERROR_CODE_KEY, ERROR_INDEX_KEY, GRPC_STATUS
from inkling_serving.runtime.tracebacks import without_frames

__all__ = ["StatusError", "end_with", "foreseen"]

_log = logging.getLogger(__name__)

# The milliseconds after which a client should try again.
_PUSHBACK, _PUSHBACK_MS = "grpc-retry-pushback-ms", "1000"
# TensorFlow Serving cuts its messages at the same length (grpc_status_util.cc).
_MAX_MESSAGE = 1024


_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: ErrorCode.INVALID_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: ErrorCode.INVALID_REQUEST,
    grpc.StatusCode.NOT_FOUND: ErrorCode.MODEL_NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorCode.TOO_LARGE,
    grpc.StatusCode.UNIMPLEMENTED: ErrorCode.INVALID_REQUEST,
}


class StatusError(InklingError):
    """An error with the gRPC status and the words that another protocol prescribes."""

    def __init__(
        self, status: grpc.StatusCode, message: str, code: ErrorCode | None = None
    ) -> None:
        """Create the error; without a code word, it follows from the status."""
        super().__init__(message)
        self.status = status
        # The class variable is what other errors have; this one has many.
        self.code = code or _CODES[status]  # type: ignore[misc]


def foreseen(error: Exception) -> InklingError:
    """Return the error for the caller; an unexpected error goes to the log."""
    if isinstance(error, InklingError):
        return without_frames(error)
    _log.error("a call failed", exc_info=error)
    without_frames(error)
    return InternalError(
        "The server failed; your request is not the cause. The server's log has the "
        "error."
    )


def end_with(context: grpc.ServicerContext, error: InklingError) -> NoReturn:
    """End a call with the status, the error code and the message of an error."""
    trailing = [(ERROR_CODE_KEY, str(error.code))]
    if error.index is not None:
        trailing.append((ERROR_INDEX_KEY, str(error.index)))
    if error.code == ErrorCode.OVERLOADED:
        trailing.append((_PUSHBACK, _PUSHBACK_MS))
    if isinstance(error, QuotaExceeded):
        trailing.append((_PUSHBACK, str(1000 * error.retry_after_s)))
    context.set_trailing_metadata(tuple(trailing))
    status = error.status if isinstance(error, StatusError) else GRPC_STATUS[error.code]
    context.abort(status, _cut(error.message))


def _cut(message: str) -> str:
    """Return the message, truncated so that it fits into gRPC's metadata."""
    # A character outside ASCII takes up to twelve bytes on the wire.
    limit = _MAX_MESSAGE if message.isascii() else _MAX_MESSAGE // 12
    return message if len(message) <= limit else message[:limit] + "...TRUNCATED"
