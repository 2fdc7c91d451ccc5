# SPDX-License-Identifier: Apache-2.0
"""The errors of Inkling, the same over every protocol.

InklingError
    Unauthenticated         the API key is missing or wrong
    PermissionDenied        the API key does not have the role for the request
    InvalidRequest          the server does not understand the request
        InvalidImage        the bytes are not a readable picture
        InvalidContract     the contract is malformed, or differs from the model's
    TooLarge                the request exceeds a limit on bytes, pixels or pictures
    UnsupportedMediaType    the picture or body has a format that is not accepted
    ModelNotFound           the model, version or version label does not exist
    UnknownRequest          no captured request has the id of the feedback
    NotReady                the model exists but cannot answer yet
        BrokenVersion       a published version fails its own checks
    DeadlineExceeded        the caller's deadline passed before the answer
    Overloaded              the queue is full; the caller should retry later
    QuotaExceeded           the caller's API key has used up its quota
    NotFound                the address does not exist
    MethodNotAllowed        the address exists, but does not accept the method
    InternalError           Inkling has a bug, or its installation is incomplete
        MissingDependency   an optional distribution is not installed

Error codes do not depend on the transport. `HTTP_STATUS` in `inkling_serving` maps
them to HTTP statuses, and `GRPC_STATUS` in `inkling.gateway.status` maps them to gRPC
statuses. Each message states the value that came, the expected value and the remedy.
A message never quotes the exception text of another library.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

__all__ = [
    "BrokenVersion",
    "DeadlineExceeded",
    "ErrorCode",
    "InklingError",
    "InternalError",
    "InvalidContract",
    "InvalidImage",
    "InvalidRequest",
    "MethodNotAllowed",
    "MissingDependency",
    "ModelNotFound",
    "NotFound",
    "NotReady",
    "Overloaded",
    "PermissionDenied",
    "QuotaExceeded",
    "TooLarge",
    "Unauthenticated",
    "UnknownRequest",
    "UnsupportedMediaType",
]


class ErrorCode(StrEnum):
    """The kind of an error, as one word that every protocol carries."""

    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    INVALID_IMAGE = "invalid_image"
    INVALID_REQUEST = "invalid_request"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    MODEL_NOT_FOUND = "model_not_found"
    UNKNOWN_REQUEST = "unknown_request"
    NOT_READY = "not_ready"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    OVERLOADED = "overloaded"
    QUOTA_EXCEEDED = "quota_exceeded"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    INTERNAL = "internal"


class InklingError(Exception):
    """The base class of all errors that Inkling raises on purpose.

    Attributes:
        code: The kind of the error; each class sets it.
        message: A text for the caller, in English.
        index: The position, from 0, of the image that the error is about; None if the
            request has one image, or the error is about the whole request.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    index: int | None = None

    def __init__(self, message: str) -> None:
        # A message may quote the name of a file, which need not be Unicode text; no
        # protocol could carry it.
        self.message = message.encode(errors="backslashreplace").decode()
        super().__init__(self.message)


class Unauthenticated(InklingError):
    """The server requires an API key, and the request's key is missing or wrong."""

    code = ErrorCode.UNAUTHENTICATED


class PermissionDenied(InklingError):
    """The API key is valid, but does not have the role that the request needs."""

    code = ErrorCode.PERMISSION_DENIED


class InvalidRequest(InklingError):
    """The server does not understand the request; a retry fails in the same way."""

    code = ErrorCode.INVALID_REQUEST


class InvalidImage(InvalidRequest):
    """The bytes are not a readable picture, or the pixels have a wrong form."""

    code = ErrorCode.INVALID_IMAGE


class InvalidContract(InvalidRequest):
    """The contract is malformed, or differs from the one in the model's training."""


class TooLarge(InklingError):
    """The request exceeds a limit on bytes, pixels or the number of pictures."""

    code = ErrorCode.TOO_LARGE


class UnsupportedMediaType(InklingError):
    """The picture or the request body has a format that is not accepted."""

    code = ErrorCode.UNSUPPORTED_MEDIA_TYPE


class ModelNotFound(InklingError):
    """The named model, version or version label does not exist."""

    code = ErrorCode.MODEL_NOT_FOUND


class UnknownRequest(InklingError):
    """No captured request has the id that the feedback names."""

    code = ErrorCode.UNKNOWN_REQUEST


class NotReady(InklingError):
    """The model exists but cannot answer yet; a later retry can succeed."""

    code = ErrorCode.NOT_READY


class BrokenVersion(NotReady):
    """A published version fails its own checks and is not served."""


class DeadlineExceeded(InklingError):
    """The caller's deadline passed before the answer was ready."""

    code = ErrorCode.DEADLINE_EXCEEDED


class Overloaded(InklingError):
    """More requests wait than can be answered in time; a later retry can succeed."""

    code = ErrorCode.OVERLOADED


class QuotaExceeded(InklingError):
    """The API key has used up its quota; a later retry can succeed.

    Attributes:
        retry_after_s: The seconds after which the server takes a request again.
    """

    code = ErrorCode.QUOTA_EXCEEDED
    retry_after_s = 1


class NotFound(InklingError):
    """The server has nothing at this address."""

    code = ErrorCode.NOT_FOUND


class MethodNotAllowed(InklingError):
    """The address exists, but does not accept this HTTP method.

    Attributes:
        allowed: The methods that the address accepts, for the header `Allow`.
    """

    code = ErrorCode.METHOD_NOT_ALLOWED

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(
            f"This address does not accept {method}; use {', '.join(allowed)}."
        )
        self.allowed = allowed


class InternalError(InklingError):
    """Inkling failed in an unexpected way; the log has details by request id."""

    code = ErrorCode.INTERNAL


class MissingDependency(InternalError):
    """An operation needs an optional distribution that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"This operation needs {what}, which is not installed; install it with: "
            f"pip install {extra}"
        )
