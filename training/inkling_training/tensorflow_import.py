# SPDX-License-Identifier: Apache-2.0
"""Imports TensorFlow quietly, where it finds what it needs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from inkling.errors import InvalidRequest
from inkling_training.stderr import quiet_stderr

__all__ = ["tensorflow_import"]


@contextmanager
def tensorflow_import() -> Iterator[None]:
    """Enter this for the first import of TensorFlow.

    TensorFlow takes seconds to import and logs many lines, so that a command imports it
    only when it runs.

    Raises:
        InvalidRequest: No directory for temporary files can be written to.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise InvalidRequest(
            "TensorFlow needs a directory for temporary files, and neither TMPDIR nor "
            "/tmp/ can be written to. Set TMPDIR to a directory that can."
        ) from None
    with quiet_stderr():
        yield
