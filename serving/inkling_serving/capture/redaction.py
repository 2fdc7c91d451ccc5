# SPDX-License-Identifier: Apache-2.0
"""What a picture goes through before it is stored: a function or a command."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable

from inkling.errors import InvalidRequest

__all__ = ["Redaction", "redaction_of"]

# Returns the bytes to store, or None for a picture that is not to be stored.
Redaction = Callable[[bytes], bytes | None]
_FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
_COMMAND_TIMEOUT_S = 10.0


def redaction_of(text: str) -> Redaction:
    """Return the redaction that the setting names; without one, pictures stay as is.

    Raises:
        InvalidRequest: There is no such function or command.
    """
    if not text:
        return lambda picture: picture
    if match := _FUNCTION.fullmatch(text):
        return _function(match[1], match[2])
    return _command(text)


def _function(module: str, name: str) -> Redaction:
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InvalidRequest(
            f"INKLING_CAPTURE_REDACTION names {module}:{name}, which cannot be "
            f"imported ({error}). Name a function that this Python can import."
        ) from None
    if not callable(found):
        raise InvalidRequest(
            f"INKLING_CAPTURE_REDACTION names {module}:{name}, which is no function."
        )
    redact: Redaction = found
    return redact


def _command(text: str) -> Redaction:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidRequest(
            f"INKLING_CAPTURE_REDACTION is {text!r:.80}, which is no command: {error}."
        ) from None
    if not words or shutil.which(words[0]) is None:
        raise InvalidRequest(
            f"INKLING_CAPTURE_REDACTION is {text!r:.80}; expected MODULE:FUNCTION or a "
            "command that is installed."
        )

    def redact(picture: bytes) -> bytes | None:
        done = subprocess.run(
            words,
            input=picture,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        return done.stdout if done.returncode == 0 and done.stdout else None

    return redact
