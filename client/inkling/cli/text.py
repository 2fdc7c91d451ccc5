# SPDX-License-Identifier: Apache-2.0
"""Text on a terminal: in any encoding, and in columns of any script."""

from __future__ import annotations

import os
import sys
import unicodedata

__all__ = [
    "column",
    "escape_what_cannot_be_printed",
    "open_missing_streams",
    "printable",
]


def open_missing_streams() -> None:
    """Open the null device for each standard stream that the caller has closed.

    Python sets such a stream to None, and the next file or connection that is opened
    would get its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def escape_what_cannot_be_printed() -> None:
    """Let the standard streams escape what their encoding lacks.

    The encoding of a console or a pipe may have no such character (cp1252, ASCII); a
    label or the name of a file may have any. Another way that the user chose stays
    (PYTHONIOENCODING=cp1252:replace).
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure and stream.errors in ("strict", "surrogateescape"):
            reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """Return a text on one line: control characters and the like are escaped."""
    if text.isprintable():
        return text
    return "".join(
        one
        if one.isprintable()
        else one.encode("unicode_escape", "backslashreplace").decode()
        for one in text
    )


def column(text: str, width: int) -> str:
    """Return a text padded to a number of cells of a terminal.

    East Asian characters fill two cells, and combining marks none.
    """
    shown = printable(text)
    return shown + " " * (width - sum(map(_cells, shown)))


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
