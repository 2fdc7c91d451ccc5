# SPDX-License-Identifier: Apache-2.0
"""Drops the tracebacks of errors that were answered.

A traceback holds the frames that the error has passed, with the body of the request
and its pictures. A frame of these often holds the error, too: in a variable, or in the
future of a thread. Both together live until Python's collector of cycles runs, which
may be long after hundreds of megabytes have piled up.
"""

from __future__ import annotations

from typing import TypeVar

__all__ = ["without_frames"]

_Error = TypeVar("_Error", bound=BaseException)


def without_frames(error: _Error) -> _Error:
    """Drop the tracebacks of an error and of the errors behind it; return the error."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        found.__traceback__ = None
        found = found.__context__
    return error
