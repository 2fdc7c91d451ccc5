"""What can go wrong in training, in the words of the common error tree."""

from __future__ import annotations

from inkling.errors import InklingError, InvalidRequest

__all__ = ["DatasetUnavailable", "GateFailed", "TrainingDiverged"]


class DatasetUnavailable(InvalidRequest):
    """The pictures cannot be had from any source."""


class TrainingDiverged(InklingError):
    """The loss is no number any more."""


class GateFailed(InklingError):
    """A trained model failed its checks and was not published."""
