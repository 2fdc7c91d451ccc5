"""Keeps the start-up chatter of TensorFlow's C++ libraries off the terminal."""

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
    """Hold back what is written to the standard error; show it if the block fails.

    The libraries write to the descriptor itself before any log level is in force, so
    neither Python nor a variable can silence them.
    """
    # absl's Python side, through which the TFLite converter advises of its own future.
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
