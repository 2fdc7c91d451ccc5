# SPDX-License-Identifier: Apache-2.0
"""The errors of training, as part of the tree in `inkling.errors`."""

from __future__ import annotations

from inkling.errors import InklingError, InvalidRequest

__all__ = [
    "DatasetNotFound",
    "DatasetUnavailable",
    "GateFailed",
    "TrainingDiverged",
    "UnusableArchitecture",
    "WorkerLost",
]


class DatasetUnavailable(InvalidRequest):
    """The pictures of a dataset are missing or unusable."""


class DatasetNotFound(DatasetUnavailable):
    """No source has the dataset: no folder, cache or download."""


class UnusableArchitecture(InvalidRequest):
    """An architecture that is not Inkling's own cannot be built or trained."""


class TrainingDiverged(InklingError):
    """The loss became NaN or infinite."""


class GateFailed(InklingError):
    """A trained model failed its checks and was not published."""


class WorkerLost(InklingError):
    """A worker of a training over several machines does not answer any more."""
