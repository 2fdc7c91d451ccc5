# SPDX-License-Identifier: Apache-2.0
"""The responses to errors in the document, from the table of codes and statuses."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from inkling import errors
from inkling.errors import ErrorCode
from inkling_serving.http_api.openapi.answers import Failure
from inkling_serving.http_api.openapi.operation import JSON
from inkling_serving.http_api.refusals import status_of

__all__ = ["FORMS", "ErrorMessage", "error_responses", "response_name"]


class ErrorMessage(TypedDict):
    """The body of a refusal in the form of TensorFlow Serving and Triton."""

    error: Annotated[str, Meta(description="What came, what was expected, a remedy.")]


FORMS = {True: Failure, False: ErrorMessage}
_REF = {"$ref": "#/components/schemas/Failure"}
_MESSAGE_REF = {"$ref": "#/components/schemas/ErrorMessage"}
# The errors of a path or a method that the document does not have.
_OF_NO_ADDRESS = (ErrorCode.NOT_FOUND, ErrorCode.METHOD_NOT_ALLOWED)
_HEADERS = {"X-Request-Id", "X-Inkling-Error-Code"}
_MORE_HEADERS = {
    HTTPStatus.UNAUTHORIZED: {"WWW-Authenticate"},
    HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After"},
    HTTPStatus.TOO_MANY_REQUESTS: {"Retry-After", "RateLimit", "RateLimit-Policy"},
}


def response_name(status: HTTPStatus | None, is_ours: bool) -> str:
    """Return the name of the response for a status; None is any other status."""
    words = status.phrase.title() if status else "Other Error"
    return words.replace(" ", "") + ("" if is_ours else "Message")


def error_responses() -> dict[str, Any]:
    """Return the responses for all errors, by their names."""
    return _responses_of(True) | _responses_of(False)


def _responses_of(is_ours: bool) -> dict[str, Any]:
    schema = _REF if is_ours else _MESSAGE_REF
    found = {}
    for status, codes in _codes_by_status(is_ours).items():
        headers = _HEADERS | _MORE_HEADERS.get(status, set())
        response = _response(_meanings(codes), schema, headers)
        found[response_name(status, is_ours)] = response
    found[response_name(None, is_ours)] = _response(
        "Any other refusal. One of a connection, before the address is known, has the "
        f"form of our own addresses.\n\n{_meanings(_OF_NO_ADDRESS)}",
        _REF if is_ours else {"anyOf": [_MESSAGE_REF, _REF]},
        _HEADERS | {"Allow"},
    )
    return found


def _codes_by_status(is_ours: bool) -> dict[HTTPStatus, list[ErrorCode]]:
    found: dict[HTTPStatus, list[ErrorCode]] = {}
    for code in ErrorCode:
        if code is not ErrorCode.METHOD_NOT_ALLOWED:
            found.setdefault(status_of(code, is_ours), []).append(code)
    if not is_ours:
        # TensorFlow Serving's status for a version label that does not exist.
        found[HTTPStatus.BAD_REQUEST].append(ErrorCode.MODEL_NOT_FOUND)
    return found


def _response(text: str, schema: dict[str, Any], names: Iterable[str]) -> Any:
    headers = {n: {"$ref": f"#/components/headers/{n}"} for n in sorted(names)}
    content = {JSON: {"schema": schema}}
    return {"description": text, "headers": headers, "content": content}


def _meanings(codes: Iterable[ErrorCode]) -> str:
    """Return each code word with its meaning: the first line of its class."""
    public = [getattr(errors, name) for name in errors.__all__]
    classes = {error.code: error for error in public if "code" in vars(error)}
    first = {code: str(classes[code].__doc__).partition("\n")[0] for code in codes}
    return "\n".join(f"- `{code}`: {text}" for code, text in first.items())
