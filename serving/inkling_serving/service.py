"""What every protocol offers: classify, explain, and say what is served.

The only caller of the preprocessing; it knows neither HTTP nor gRPC nor TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inkling.abstention import abstaining
from inkling.decoding import Budget, Limits
from inkling.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    TooLarge,
)
from inkling.preprocess import Stage, check_inputs, explain, to_input
from inkling.repository import check_model_name
from inkling.types import Origin, Prediction, check_top_k, predictions
from inkling_serving.engines.base import NO_SUCH_MODEL

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_serving.engines.base import Engine, ModelStatus, Servable

__all__ = ["Answer", "Service", "Target"]


@dataclass(frozen=True)
class Target:
    """Which model is asked; without version and label it is the newest version."""

    model: str
    version: int | None = None
    version_label: str | None = None


@dataclass(frozen=True)
class Answer:
    """Predictions, and which version gave them under which contract."""

    origin: Origin
    results: Sequence[Prediction]


class Service:
    """Classifies pictures with whatever engine runs the models."""

    def __init__(self, engine: Engine, limits: Limits, max_batch: int) -> None:
        self._engine = engine
        self._limits = limits
        self._max_batch = max_batch

    def classify(
        self,
        target: Target,
        images: Sequence[bytes],
        top_k: int = 1,
        timeout_s: float | None = None,
        *,
        abstain: bool = False,
    ) -> Answer:
        """Return one prediction per encoded image, in order, all by one version.

        `timeout_s` is what the caller allows; what is left of it goes to the engine.
        With `abstain`, a picture that the model is not sure of gets no label.

        Raises:
            InvalidRequest: There is no image, or top_k is below 1.
            TooLarge: There are more images than a request may have.
            InklingError: As `Engine.select` and `preprocess.to_input` say.
        """
        started = time.monotonic()
        self._check_count(len(images))
        servable = self._select(target)
        budget = Budget(self._limits)
        inputs = np.stack(
            [to_input(image, servable.contract, budget) for image in images]
        )
        if timeout_s is not None:
            timeout_s -= time.monotonic() - started
            if timeout_s <= 0:
                raise DeadlineExceeded(
                    "The time ran out while the images were prepared. Allow more."
                )
        answer = _answer(servable, inputs, top_k, timeout_s)
        return _abstaining(answer, servable, inputs) if abstain else answer

    def explain(
        self, target: Target, image: bytes, top_k: int = 1, *, abstain: bool = False
    ) -> tuple[Answer, list[Stage]]:
        """Return the prediction for an image, and every stage on its way to the model.

        Raises:
            InklingError: As `classify`.
        """
        servable = self._select(target)
        inputs, stages = explain(image, servable.contract, Budget(self._limits))
        batch = inputs[np.newaxis]
        answer = _answer(servable, batch, top_k)
        return (_abstaining(answer, servable, batch) if abstain else answer), stages

    def predict(
        self,
        target: Target,
        inputs: npt.NDArray[np.float32],
        timeout_s: float | None = None,
    ) -> tuple[Origin, npt.NDArray[np.float32]]:
        """Return the scores (n, classes) for inputs that the caller prepared.

        Args:
            target: Which model.
            inputs: Shape (n, height, width, channels), float32, as
                `inkling.preprocess` makes them.
            timeout_s: What the caller allows.

        Raises:
            InvalidRequest: The inputs are no such array.
            TooLarge: There are more than a request may have.
        """
        servable = self._select(target)
        check_inputs(inputs, servable.contract)
        self._check_count(len(inputs))
        scores = servable.predict(inputs, timeout_s)
        return _origin(servable), scores

    def contract(self, target: Target) -> tuple[int, Contract]:
        """Return which version would answer, and its contract."""
        servable = self._select(target)
        return servable.version, servable.contract

    def models(self) -> list[ModelStatus]:
        """Return what is known of every model, sorted by name."""
        return self._engine.status()

    def model(self, name: str) -> ModelStatus:
        """Return what is known of one model.

        Raises:
            ModelNotFound: There is no such model.
        """
        check_model_name(name)
        for status in self.models():
            if status.name == name:
                return status
        raise ModelNotFound(NO_SUCH_MODEL)

    def check_ready(self) -> None:
        """Return if any model can answer; one that cannot says why in `models`.

        Raises:
            NotReady: None can.
        """
        if not any(model.ready for model in self.models()):
            raise NotReady(
                "No model can answer yet. Publish one with: inkling train mlp; GET "
                "/v1/models says why a published one is not served."
            )

    def _select(self, target: Target) -> Servable:
        model = check_model_name(target.model)
        return self._engine.select(model, target.version, target.version_label)

    def _check_count(self, count: int) -> None:
        if count == 0:
            raise InvalidRequest("The request has no image; send at least one.")
        if count > self._max_batch:
            raise TooLarge(
                f"The request has {count} images; the limit is {self._max_batch}. "
                "Send several requests."
            )


def _answer(
    servable: Servable,
    inputs: npt.NDArray[np.float32],
    top_k: int,
    timeout_s: float | None = None,
) -> Answer:
    check_top_k(top_k)
    origin, labels = _origin(servable), servable.contract.labels
    scores = servable.predict(inputs, timeout_s)
    return Answer(origin, predictions(scores, labels, top_k, origin))


def _abstaining(
    answer: Answer, servable: Servable, inputs: npt.NDArray[np.float32]
) -> Answer:
    results = abstaining(answer.results, inputs, servable.contract)
    return Answer(answer.origin, results)


def _origin(servable: Servable) -> Origin:
    return Origin(servable.model, servable.version, servable.contract.hash)
