"""What can go wrong in training, in the words of the common error tree."""

from __future__ import annotations

from inkling.errors import InklingError, InvalidRequest

__all__ = ["DatasetNotFound", "DatasetUnavailable", "GateFailed", "TrainingDiverged"]


class DatasetUnavailable(InvalidRequest):
    """The pictures cannot be had, or cannot be used."""


class DatasetNotFound(DatasetUnavailable):
    """None of the sources has them."""


class TrainingDiverged(InklingError):
    """The loss is no number any more."""


class GateFailed(InklingError):
    """A trained model failed its checks and was not published."""
