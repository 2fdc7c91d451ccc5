# SPDX-License-Identifier: Apache-2.0
"""Puts the first frame of a GIF or WebP on its canvas, some rows at a time.

A frame may be smaller than the canvas; the rest of the canvas is transparent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

__all__ = ["Canvas"]

_STRIP_BYTES = 1 << 18
# CPU time in nanoseconds, measured: per pixel of a canvas that its frame does not fill.
_EMPTY = 4.0


@dataclass(frozen=True)
class Canvas:
    """The size of a picture, and the place of its frame.

    Attributes:
        width: Columns of the canvas, in pixels.
        height: Rows of the canvas, in pixels.
        left: The first column of the frame.
        top: The first row of the frame.
        columns: Columns of the frame.
        rows: Rows of the frame.
    """

    width: int
    height: int
    left: int
    top: int
    columns: int
    rows: int

    @property
    def is_filled(self) -> bool:
        """True if the frame covers the canvas."""
        frame = (self.left, self.top, self.columns, self.rows)
        return frame == (0, 0, self.width, self.height)

    @property
    def holds(self) -> bool:
        """True if the frame has a size and lies within the canvas."""
        across = self.columns > 0 and self.left + self.columns <= self.width
        return across and self.rows > 0 and self.top + self.rows <= self.height

    def cost(self) -> float:
        """Return the CPU time, in nanoseconds, that the empty part takes."""
        return 0 if self.is_filled else _EMPTY * self.width * self.height

    def strips(
        self,
        frame: Image.Image,
        multiple: int,
        converted: Callable[[Image.Image], Image.Image],
    ) -> Iterator[Image.Image]:
        """Yield the canvas from top to bottom, as pictures of its full width.

        Args:
            frame: The frame.
            multiple: All strips but the last have a multiple of this many rows.
            converted: A function that returns rows of the frame in the mode of the
                strips; `RGBA` if the frame does not cover the canvas.
        """
        many = multiple * max(1, _STRIP_BYTES // (4 * self.width * multiple))
        for top in range(0, self.height, many):
            rows = min(many, self.height - top)
            first = max(0, top - self.top)
            last = min(self.rows, top + rows - self.top)
            part = None
            if first < last:
                part = converted(frame.crop((0, first, self.columns, last)))
            if self.is_filled and part is not None:
                yield part
                continue
            strip = Image.new("RGBA", (self.width, rows))
            if part is not None:
                strip.paste(part, (self.left, self.top + first - top))
            yield strip
