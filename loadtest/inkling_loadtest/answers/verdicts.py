# SPDX-License-Identifier: Apache-2.0
"""Verdicts on the answers and errors of each protocol.

The gateway sheds load by design: it refuses early rather than answer late. So refusals
are counted apart from failures: 503 and 429, or the gateway's own UNAVAILABLE and
RESOURCE_EXHAUSTED. A connection that broke, which gRPC also calls UNAVAILABLE, is a
failure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import grpc

from inkling.errors import ErrorCode
from inkling.gateway.status import ERROR_CODE_KEY
from inkling.v1 import classifier_pb2 as pb
from inkling_loadtest.answers.references import (
    References,
    Verdict,
    failed,
    refused,
    reply_of_json,
    reply_of_message,
)

__all__ = ["of_http", "of_http_error", "of_rpc_error", "of_stream", "of_unary"]

_REFUSING_STATUSES = (429, 503)
_REFUSING_CODES = (
    ErrorCode.OVERLOADED,
    ErrorCode.QUOTA_EXCEEDED,
    ErrorCode.NOT_READY,
)
_REFUSING_RPC = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)

# The words of gRPC's own UNAVAILABLE, in lower case: the gateway did not send it.
_BROKEN = (
    "failed to connect",
    "connection re",
    "socket closed",
    "broken pipe",
    "recvmsg",
    "goaway",
    "stream removed",
    "rst_stream",
    "end of tcp stream",
)


def of_http(
    references: References, pictures: Sequence[int], status: int, body: bytes
) -> Verdict:
    """Return the verdict on an HTTP answer."""
    if status == 200:
        return references.judge(pictures, reply_of_json(body))
    code, message = _error_of(body)
    if status in _REFUSING_STATUSES:
        return refused(f"{status} {code}".strip())
    return failed(f"{status} {code}".strip(), message)


def of_http_error(error: BaseException | None) -> Verdict:
    """Return the verdict on a request that got no HTTP answer."""
    kind = type(error).__name__
    if "timed out" in str(error).lower() or "timeout" in kind.lower():
        return failed("timed out", kind)
    return failed("connection broke", f"{kind}: {error}")


def of_unary(
    references: References, pictures: Sequence[int], response: pb.ClassifyResponse
) -> Verdict:
    """Return the verdict on a gRPC answer."""
    return references.judge(pictures, reply_of_message(response))


def of_stream(
    references: References,
    pictures: Sequence[int],
    asked: str,
    answer: pb.ClassifyStreamResponse,
) -> Verdict:
    """Return the verdict on an answer in a stream; `asked` is the request's id."""
    if answer.id != asked:
        return failed("mixed-up answer", f"request {asked} was answered as {answer.id}")
    if answer.WhichOneof("outcome") == "response":
        return of_unary(references, pictures, answer.response)
    code = answer.error.code
    if code in _REFUSING_CODES:
        return refused(code)
    return failed(code or "empty answer", answer.error.message)


def of_rpc_error(error: grpc.Call) -> Verdict:
    """Return the verdict on a call that ended with a status other than OK."""
    status, details = error.code(), error.details() or ""
    words = dict(error.trailing_metadata() or ())
    word = str(words.get(ERROR_CODE_KEY, ""))
    name = f"{status.name} {word}".strip()
    broken = not word and any(sign in details.lower() for sign in _BROKEN)
    if status in _REFUSING_RPC and not broken:
        return refused(name)
    if broken:
        return failed("connection broke", details)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED and not word:
        return failed("timed out", details)
    return failed(name, details)


def _error_of(body: bytes) -> tuple[str, str]:
    """Return the code and the message in a body; empty texts where it has none."""
    try:
        error = json.loads(body)["error"]
        return str(error["code"])[:40], str(error["message"])
    except (ValueError, KeyError, TypeError):
        return "", body[:100].decode(errors="replace")
