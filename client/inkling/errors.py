"""The errors of Inkling, the same over every protocol.

InklingError
    Unauthenticated         no API key came, or a wrong one
    InvalidRequest          the caller's request cannot be understood
        InvalidImage        the bytes are not a picture that can be read
        InvalidContract     a contract is malformed, or not the model's own
    TooLarge                a limit on bytes, pixels or pictures is exceeded
    UnsupportedMediaType    a picture, but in a format that is not accepted
    ModelNotFound           no such model, version or version label
    NotReady                the model exists but cannot answer yet
        BrokenVersion       a published version fails its own checks
    DeadlineExceeded        the caller's time ran out
    Overloaded              too much is waiting; come back later
    NotFound                no such address
    MethodNotAllowed        the address exists, the method does not
    InternalError           our mistake
        MissingDependency   an optional distribution is not installed

Codes are neutral of any transport. `HTTP_STATUS` in `inkling_serving` maps them to
HTTP, `GRPC_STATUS` in `inkling.gateway.status` to gRPC. A message says what came,
what was expected and what to do, and never quotes another library's exception text.
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
    "TooLarge",
    "Unauthenticated",
    "UnsupportedMediaType",
]


class ErrorCode(StrEnum):
    """What went wrong, as one word that every protocol carries."""

    UNAUTHENTICATED = "unauthenticated"
    INVALID_IMAGE = "invalid_image"
    INVALID_REQUEST = "invalid_request"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_READY = "not_ready"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    OVERLOADED = "overloaded"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    INTERNAL = "internal"


class InklingError(Exception):
    """Base of all errors that Inkling raises on purpose."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Unauthenticated(InklingError):
    """The server asks for an API key; none came, or a wrong one."""

    code = ErrorCode.UNAUTHENTICATED


class InvalidRequest(InklingError):
    """The request cannot be understood; sending it again will not help."""

    code = ErrorCode.INVALID_REQUEST


class InvalidImage(InvalidRequest):
    """The bytes are not a picture that can be read."""

    code = ErrorCode.INVALID_IMAGE


class InvalidContract(InvalidRequest):
    """A contract is malformed, or is not the one that the model was trained under."""


class TooLarge(InklingError):
    """A limit on bytes, pixels or the number of pictures is exceeded."""

    code = ErrorCode.TOO_LARGE


class UnsupportedMediaType(InklingError):
    """A picture or body in a format that is not accepted."""

    code = ErrorCode.UNSUPPORTED_MEDIA_TYPE


class ModelNotFound(InklingError):
    """There is no such model, version or version label."""

    code = ErrorCode.MODEL_NOT_FOUND


class NotReady(InklingError):
    """The model exists but cannot answer yet; trying later may help."""

    code = ErrorCode.NOT_READY


class BrokenVersion(NotReady):
    """A published version fails its own checks and is not served."""


class DeadlineExceeded(InklingError):
    """The caller's time ran out before there was an answer."""

    code = ErrorCode.DEADLINE_EXCEEDED


class Overloaded(InklingError):
    """More is waiting than can be answered in time; come back later."""

    code = ErrorCode.OVERLOADED


class NotFound(InklingError):
    """There is nothing at this address."""

    code = ErrorCode.NOT_FOUND


class MethodNotAllowed(InklingError):
    """The address exists, but not with this method."""

    code = ErrorCode.METHOD_NOT_ALLOWED

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(
            f"{method} is not allowed here; this address answers {', '.join(allowed)}."
        )
        self.allowed = allowed


class InternalError(InklingError):
    """Our mistake; the details are in the log under the request id."""

    code = ErrorCode.INTERNAL


class MissingDependency(InternalError):
    """An optional distribution is needed and is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is needed here; install it with: pip install {extra}")
