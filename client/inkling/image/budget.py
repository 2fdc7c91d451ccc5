# SPDX-License-Identifier: Apache-2.0
"""The limits on the images of a request, and the CPU time that is left to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from inkling.errors import TooLarge

__all__ = ["DEFAULT_LIMITS", "Budget", "Limits", "Spend", "TakesLonger"]

# A function that is told how many nanoseconds of CPU time the next step takes, and that
# raises TooLarge if this is too long.
Spend: TypeAlias = Callable[[int], None]


@dataclass(frozen=True)
class Limits:
    """The limits for one image and for all images of one request.

    Attributes:
        max_bytes: Size of the file up to the end of the picture, in bytes.
        max_pixels: Pixels of a decoded picture, after it was reduced; also the pixels
            of an interlaced PNG, which cannot be reduced while it is read.
        max_side: Width or height of the file, in pixels.
        max_parts: PNG or WebP chunks, JPEG segments or GIF blocks of a file.
        max_held_bytes: Memory for a picture that is not decoded row by row: a JPEG that
            is progressive or has a scan per colour (two bytes per sample), a WebP (16
            bytes per pixel) or the frame of a GIF (one).
        max_cpu_ms: CPU time that decoding the images of one request, and searching them
            for ink, may take, in milliseconds. It is estimated from the content of the
            file, never measured, so every machine refuses the same pictures. On the
            machine where the estimate was made, the pictures take less.
    """

    max_bytes: int = 8 * 1024 * 1024
    max_pixels: int = 2048 * 2048
    max_side: int = 65_535
    max_parts: int = 4096
    max_held_bytes: int = 40 * 1024 * 1024
    max_cpu_ms: int = 215


DEFAULT_LIMITS = Limits()


class TakesLonger(Exception):
    """The images take more CPU time than the caller gives them in this place."""


class Budget:
    """The CPU time that the images of one request may still take; not thread-safe."""

    def __init__(
        self, limits: Limits = DEFAULT_LIMITS, quick_ns: int | None = None
    ) -> None:
        """Create the budget.

        Args:
            limits: The limits of the request.
            quick_ns: The CPU time, in nanoseconds, after which the work has to go on in
                another place; None means no such limit.
        """
        self.limits = limits
        self._left_ns = limits.max_cpu_ms * 1_000_000
        self._quick_until = 0 if quick_ns is None else self._left_ns - quick_ns

    def spend(self, nanoseconds: int) -> None:
        """Subtract CPU time from the rest, before it is used.

        Raises:
            TooLarge: The rest is smaller.
            TakesLonger: The work would take more than `quick_ns`.
        """
        self._left_ns -= nanoseconds
        if self._left_ns < 0:
            raise TooLarge(
                "The images of this request take too long to decode: more than "
                f"{self.limits.max_cpu_ms} ms. Scale them down, or send several images "
                "in several requests."
            )
        if self._left_ns < self._quick_until:
            raise TakesLonger

    def check(self, nanoseconds: int) -> None:
        """Check that the rest is not smaller, and leave it as it is.

        Raises:
            TooLarge: The rest is smaller.
        """
        self.spend(nanoseconds)
        self._left_ns += nanoseconds
