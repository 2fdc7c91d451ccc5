# SPDX-License-Identifier: Apache-2.0
"""What the service returns: predictions, explanations and scores, with their origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.errors import InklingError
    from inkling.image.preprocess import Stage
    from inkling.types import Origin, Prediction

__all__ = ["Answer", "Explanation", "Scores"]


@dataclass(frozen=True)
class Answer:
    """The answer to a classification.

    Attributes:
        origin: The model, version and contract that answered.
        results: One prediction for each image, in the order of the images; an error
            stands for an image that was refused, if the caller wanted the others.
    """

    origin: Origin
    results: Sequence[Prediction | InklingError]


@dataclass(frozen=True)
class Explanation:
    """The answer to a picture, and how it became the model input.

    Attributes:
        answer: The prediction.
        stages: The stages of the preparation; the last one is the model input.
        inputs: What the engine got: the contract's `input_shape`, float32.
    """

    answer: Answer
    stages: Sequence[Stage]
    inputs: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """The scores of all labels.

    Attributes:
        origin: The model, version and contract that answered.
        contract: The contract, which names the labels.
        values: Shape (n, classes), float32.
    """

    origin: Origin
    contract: Contract
    values: npt.NDArray[np.float32]
