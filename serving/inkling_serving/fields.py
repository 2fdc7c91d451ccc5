# SPDX-License-Identifier: Apache-2.0
"""A field of the settings, with its help text and its range."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any

__all__ = ["setting"]


def setting(
    default: Any, help_text: str, low: float | None = None, high: float = math.inf
) -> Any:
    """Return a field of a dataclass of settings.

    Args:
        default: The default, whose type is the field's type.
        help_text: The meaning, as `--help` and the documents have it.
        low: The lowest value; None for a field without a range.
        high: The highest value.
    """
    metadata = {"help": help_text, "low": low, "high": high}
    return field(default=default, metadata=metadata)
