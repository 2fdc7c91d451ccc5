"""Compares two reports."""

from __future__ import annotations

from pathlib import Path

__all__ = ["compare"]


def compare(before: Path, after: Path) -> int:
    """Print the figures of two reports side by side."""
    raise NotImplementedError
