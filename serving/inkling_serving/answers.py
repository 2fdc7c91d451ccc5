# SPDX-License-Identifier: Apache-2.0
"""What the service takes and returns: targets, options, and answers by origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from inkling.answers import answers
from inkling.types import ClassifyOptions, Origin

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.errors import InklingError
    from inkling.image.finder.doubt import Doubt
    from inkling.image.preprocess import Stage
    from inkling.types import Prediction
    from inkling_serving.engines.base import Servable
    from inkling_serving.runtime.timings import Timings

__all__ = [
    "Answer",
    "Explanation",
    "Options",
    "Scores",
    "Target",
    "origin_of",
    "predictions_of",
    "scores_of",
]


@dataclass(frozen=True)
class Target:
    """The model that a request names.

    Attributes:
        model: The model's name.
        version: The version's number, or None.
        version_label: The version label, such as `stable`, or None. If both are None,
            the version with the label `stable` answers, or else the newest.
    """

    model: str
    version: int | None = None
    version_label: str | None = None


@dataclass(frozen=True, slots=True)
class Options(ClassifyOptions):
    """What a caller of the gateway wants of a classification.

    Attributes:
        partial: Whether the other images are answered if one is refused.
    """

    partial: bool = False


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


def predictions_of(
    servable: Servable,
    inputs: npt.NDArray[np.float32],
    options: Options,
    timings: Timings,
    timeout_s: float | None = None,
    doubts: Sequence[Doubt | None] = (),
) -> tuple[list[Prediction], npt.NDArray[np.float32]]:
    """Return the predictions, and the scores of all labels behind them."""
    contract, origin = servable.contract, origin_of(servable)
    if not len(inputs):
        return [], np.empty((0, len(contract.labels)), np.float32)
    scores = scores_of(servable, inputs, timings, timeout_s)
    found = answers(scores, inputs, contract, options, origin, doubts)
    return found, scores


def scores_of(
    servable: Servable,
    inputs: npt.NDArray[np.float32],
    timings: Timings,
    timeout_s: float | None,
) -> npt.NDArray[np.float32]:
    """Return the scores of all labels, shape (n, classes), and note the time."""
    started = perf_counter()
    timings.images = len(inputs)
    try:
        return servable.predict(inputs, timeout_s)
    finally:
        timings.engine = perf_counter() - started


def origin_of(servable: Servable) -> Origin:
    """Return the model, the version and the contract of an answer."""
    return Origin(servable.model, servable.version, servable.contract.hash)
