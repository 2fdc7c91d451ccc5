# SPDX-License-Identifier: Apache-2.0
"""Inflates bodies and messages that came compressed, within the limits on bytes."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from inkling.errors import TooLarge

if TYPE_CHECKING:
    from inkling_serving.runtime.held_bytes import Holding

__all__ = ["inflated"]

# For zlib: gzip (RFC 1952) or zlib (RFC 1950), as the header says.
_EITHER_FORMAT = 32 + zlib.MAX_WBITS
_STEP_BYTES = 256 * 1024
# A file of gzip may be several, one after the other (RFC 1952, section 2.2). Each
# costs a copy of those that follow it.
_MAX_MEMBERS = 16


def inflated(content: bytes, max_bytes: int, holding: Holding) -> bytes | None:
    """Return the bytes that were compressed; None if these are not, or are cut short.

    Bytes of value 0 behind the end are padding, as for gzip's own command.

    Args:
        content: Bytes in the format of gzip or zlib.
        max_bytes: The most bytes of the result.
        holding: Counts the bytes of the result while it grows.

    Raises:
        TooLarge: The result has more than `max_bytes`.
        Overloaded: The process holds too many bytes.
    """
    whole, rest = bytearray(), content
    try:
        for _ in range(_MAX_MEMBERS):
            rest = _inflate_one(rest, whole, max_bytes, holding)
            if not rest.strip(b"\0"):
                return bytes(whole)
    except zlib.error:
        pass
    return None


def _inflate_one(
    content: bytes, whole: bytearray, max_bytes: int, holding: Holding
) -> bytes:
    """Add what the first member of `content` holds to `whole`; return what follows."""
    inflater, rest = zlib.decompressobj(_EITHER_FORMAT), content
    while not inflater.eof:
        piece = inflater.decompress(rest, _STEP_BYTES)
        rest = inflater.unconsumed_tail
        if not (piece or inflater.eof):
            raise zlib.error("the content is cut short")
        holding.add(len(piece))
        whole += piece
        if len(whole) > max_bytes:
            raise TooLarge(
                f"Inflated, the content has more than {max_bytes:,} bytes. Send a "
                "smaller picture, or fewer."
            )
    return inflater.unused_data
