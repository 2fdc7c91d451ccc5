"""Inkling: one picture, one answer, wherever the model runs.

This distribution holds what all parts share: the contract, the preprocessing, the
errors, the model repository and the runner for the device. It needs NumPy and Pillow.
"""

from inkling.contract import Contract, TrainingData
from inkling.errors import ErrorCode, InklingError
from inkling.types import Prediction, Score

__all__ = [
    "Contract",
    "ErrorCode",
    "InklingError",
    "Prediction",
    "Score",
    "TrainingData",
    "__version__",
]

__version__ = "0.1.0"
