"""Inkling: one picture gets the same answer wherever the model runs.

This distribution holds the code that training, gateway and load test share: the
contract, the preprocessing, the errors and the model repository. It also holds the
client: `inkling.connect` returns a classifier that asks a gateway or runs the model on
this device.
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
