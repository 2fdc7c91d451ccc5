# SPDX-License-Identifier: Apache-2.0
"""Tells which gRPC messages came compressed, and inflates them.

grpcio inflates the messages of all calls at once, where nothing counts them: a message
of 10 kB becomes one of 10 MB. So the server tells grpcio not to, and gets messages as
they came. grpcio does not say which ones are compressed; their first bytes do, because
no message of ours has a field with these numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from inkling.errors import TooLarge
from inkling_serving.grpc_api.errors import StatusError
from inkling_serving.runtime.inflating import inflated

if TYPE_CHECKING:
    from inkling_serving.runtime.held_bytes import Holding

__all__ = ["as_written", "is_compressed"]

# The first two bytes in gzip (RFC 1952); as a tag, a type that protobuf does not have.
_GZIP = b"\x1f\x8b"
# The first byte in deflate (RFC 1950); as a tag, field 15. Both bytes together are a
# multiple of 31.
_DEFLATE, _CHECK = 0x78, 31


def as_written(body: bytes, max_bytes: int, holding: Holding) -> bytes:
    """Return a message as its client wrote it.

    Args:
        body: The message, which may be compressed.
        max_bytes: The most bytes of the result.
        holding: Counts the bytes of the result while it grows.

    Raises:
        StatusError: The result has more than `max_bytes`.
        Overloaded: The process holds too many bytes.
    """
    if not is_compressed(body):
        return body
    try:
        whole = inflated(body, max_bytes, holding)
    except TooLarge as error:
        status = grpc.StatusCode.RESOURCE_EXHAUSTED
        raise StatusError(status, error.message) from None
    return body if whole is None else whole


def is_compressed(body: bytes) -> bool:
    """Return whether a message came in gzip or deflate."""
    if body.startswith(_GZIP):
        return True
    deflate = body[:1] == bytes([_DEFLATE])
    return deflate and int.from_bytes(body[:2], "big") % _CHECK == 0
