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


def inflated(content: bytes, max_bytes: int, holding: Holding) -> bytes | None:
    """Return the bytes that were compressed; None if these are not, or are cut short.

    Args:
        content: Bytes in the format of gzip or zlib.
        max_bytes: The most bytes of the result.
        holding: Counts the bytes of the result while it grows.

    Raises:
        TooLarge: The result has more than `max_bytes`.
        Overloaded: The process holds too many bytes.
    """
    inflater = zlib.decompressobj(_EITHER_FORMAT)
    whole, rest = bytearray(), content
    try:
        while not inflater.eof:
            piece = inflater.decompress(rest, _STEP_BYTES)
            rest = inflater.unconsumed_tail
            if not (piece or inflater.eof):
                return None
            holding.add(len(piece))
            whole += piece
            if len(whole) > max_bytes:
                raise TooLarge(
                    f"Inflated, the content has more than {max_bytes:,} bytes. Send a "
                    "smaller picture, or fewer."
                )
    except zlib.error:
        return None
    return bytes(whole)
