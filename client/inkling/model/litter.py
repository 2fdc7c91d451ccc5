# SPDX-License-Identifier: Apache-2.0
"""Names that file managers, editors and file systems put beside files."""

from __future__ import annotations

import re

__all__ = ["is_litter"]

# Hidden names, backups of editors, and the own names of Windows, macOS, ext4, Synology.
_LITTER = re.compile(
    r"\..*|.*~|.*\.sw[op]|#.*#|thumbs\.db|desktop\.ini|icon\r|__macosx|__pycache__"
    r"|lost\+found|@eadir|\$recycle\.bin|system volume information",
    re.IGNORECASE | re.DOTALL,
)


def is_litter(name: str) -> bool:
    """Return whether nobody puts a file or directory of this name there on purpose."""
    return _LITTER.fullmatch(name) is not None
