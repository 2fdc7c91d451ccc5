# SPDX-License-Identifier: Apache-2.0
"""Hides the log lines of TensorFlow's C++ libraries from the terminal."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_stderr"]


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back the text that the block writes to stderr; show it if the block fails.

    The libraries write to the file descriptor before any log level is set, so neither
    Python nor an environment variable can silence them.
    """
    # The TFLite converter logs its deprecation warnings through absl's Python side.
    logging.getLogger("absl").setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    done = False
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
            done = True
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            if not done:
                held.seek(0)
                os.write(2, held.read())
