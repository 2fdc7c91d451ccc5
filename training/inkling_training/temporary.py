# SPDX-License-Identifier: Apache-2.0
"""Checks that TensorFlow finds a directory for temporary files."""

from __future__ import annotations

import tempfile

from inkling.errors import InvalidRequest

__all__ = ["check_temporary"]


def check_temporary() -> None:
    """Check for a directory for temporary files before TensorFlow looks for one.

    Raises:
        InvalidRequest: No directory for temporary files can be written to.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise InvalidRequest(
            "TensorFlow needs a directory for temporary files, and neither TMPDIR nor "
            "/tmp/ can be written to. Set TMPDIR to a directory that can."
        ) from None
