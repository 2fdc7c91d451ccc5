# SPDX-License-Identifier: Apache-2.0
"""Inkling: one picture gets the same answer wherever the model runs.

This distribution holds the code that training, gateway and load test share: the
contract, the preprocessing, the errors and the model repository. It also holds the
client: `inkling.connect` returns a classifier that asks a gateway or runs the model on
this device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inkling.contract import Contract, TrainingData
from inkling.errors import ErrorCode, InklingError
from inkling.gateway.connect import Classifier, connect
from inkling.types import Origin, Prediction, Score

if TYPE_CHECKING:
    from inkling.gateway.aio import AioClassifier

__all__ = [
    "AioClassifier",
    "Classifier",
    "Contract",
    "ErrorCode",
    "InklingError",
    "Origin",
    "Prediction",
    "Score",
    "TrainingData",
    "__version__",
    "connect",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load what only some programs need: `AioClassifier` brings gRPC along."""
    if name == "AioClassifier":
        from inkling.gateway.aio import AioClassifier  # noqa: PLC0415

        return AioClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
