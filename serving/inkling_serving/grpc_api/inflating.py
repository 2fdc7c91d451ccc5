# SPDX-License-Identifier: Apache-2.0
"""Inflates messages that came compressed, within the limits on bytes.

grpcio inflates the messages of all calls at once, where nothing counts them: a message
of 10 kB becomes one of 10 MB. So the server tells grpcio not to, and gets messages as
they came. grpcio does not say which ones are compressed; their first bytes do, because
no message of ours has a field with these numbers.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import grpc

from inkling_serving.grpc_api.errors import StatusError

if TYPE_CHECKING:
    from inkling_serving.runtime.held_bytes import Holding

__all__ = ["inflated"]

# The first two bytes in gzip (RFC 1952); as a tag, a type that protobuf does not have.
_GZIP = b"\x1f\x8b"
# The first byte in deflate (RFC 1950); as a tag, field 15. Both bytes together are a
# multiple of 31.
_DEFLATE, _CHECK = 0x78, 31
# For zlib: either format, as its header says.
_ANY_FORMAT = 32 + zlib.MAX_WBITS
_STEP_BYTES = 256 * 1024


def inflated(body: bytes, max_bytes: int, holding: Holding) -> bytes:
    """Return a message as its client wrote it.

    Args:
        body: The message, which may be compressed.
        max_bytes: The most bytes of the result.
        holding: Counts the bytes of the result while it grows.

    Raises:
        StatusError: The result has more than `max_bytes`.
        Overloaded: The process holds too many bytes.
    """
    if not _is_compressed(body):
        return body
    inflater, whole, rest = zlib.decompressobj(_ANY_FORMAT), bytearray(), body
    try:
        while not inflater.eof:
            piece = inflater.decompress(rest, _STEP_BYTES)
            rest = inflater.unconsumed_tail
            if not piece:
                return body  # it is cut short: not a compressed message
            holding.add(len(piece))
            whole += piece
            if len(whole) > max_bytes:
                raise StatusError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"The message has more than {max_bytes:,} bytes. Send a smaller "
                    "picture, or fewer.",
                )
    except zlib.error:
        return body
    return bytes(whole)


def _is_compressed(body: bytes) -> bool:
    if body.startswith(_GZIP):
        return True
    deflate = body[:1] == bytes([_DEFLATE])
    return deflate and int.from_bytes(body[:2], "big") % _CHECK == 0
