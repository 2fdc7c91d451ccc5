"""Inkling: one picture, one answer, wherever the model runs.

This distribution holds what all parts share: the contract, the preprocessing, the
errors, the model repository, and the client: `inkling.connect` gives a classifier,
behind a gateway or on this device.
"""

from inkling.contract import Contract, TrainingData
from inkling.errors import ErrorCode, InklingError
from inkling.gateway.connect import Classifier, connect
from inkling.types import Origin, Prediction, Score

__all__ = [
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
