"""What every protocol offers: classify, explain, and say what is served.

The only caller of the preprocessing; it knows neither HTTP nor gRPC nor TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from inkling.abstention import abstaining
from inkling.errors import (
    DeadlineExceeded,
    InklingError,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    TooLarge,
)
from inkling.image.decoding import Budget, Limits, decode, png_size
from inkling.image.preprocess import (
    Stage,
    check_inputs,
    decoded_to_pixels,
    explain,
    scaled,
)
from inkling.model.repository import check_model_name
from inkling.types import Origin, Prediction, check_top_k, predictions
from inkling_serving.engines.base import NO_SUCH_MODEL
from inkling_serving.runtime.timings import Timings

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
        timings: Timings | None = None,
    ) -> Answer:
        """Return one prediction per encoded image, in order, all by one version.

        `timeout_s` is what the caller allows; what is left of it goes to the engine.
        With `abstain`, a picture that the model is not sure of gets no label.
        `timings` takes note of who answers and how long each part takes.

        Raises:
            InvalidRequest: There is no image, or top_k is below 1.
            TooLarge: There are more images than a request may have.
            InklingError: As `Engine.select` and `preprocess.to_input` say.
        """
        timings, started = timings or Timings(), perf_counter()
        self._check_count(len(images))
        servable = self._select(target, timings)
        inputs = self._prepared(images, servable.contract, timings)
        if timeout_s is not None:
            timeout_s -= perf_counter() - started
            if timeout_s <= 0:
                raise DeadlineExceeded(
                    "The time ran out while the images were prepared. Allow more."
                )
        answer = _answer(servable, inputs, top_k, timings, timeout_s)
        return _abstaining(answer, servable, inputs) if abstain else answer

    def is_quick(self, target: Target, image: bytes) -> bool:
        """Whether `classify` takes about as long as handing it to a thread would.

        So it is for a sample of the model's own size and a small model; and for what is
        refused anyhow.
        """
        size = png_size(image)
        if size is None:
            return False
        try:
            servable = self._select(target)
        except InklingError:
            return True
        contract = servable.contract
        return servable.quick and size == (contract.width, contract.height)

    def explain(
        self,
        target: Target,
        image: bytes,
        top_k: int = 1,
        *,
        abstain: bool = False,
        timings: Timings | None = None,
    ) -> tuple[Answer, list[Stage]]:
        """Return the prediction for an image, and every stage on its way to the model.

        Raises:
            InklingError: As `classify`.
        """
        timings = timings or Timings()
        servable = self._select(target, timings)
        started = perf_counter()
        inputs, stages = explain(image, servable.contract, Budget(self._limits))
        timings.preprocess = perf_counter() - started
        batch = inputs[np.newaxis]
        answer = _answer(servable, batch, top_k, timings)
        return (_abstaining(answer, servable, batch) if abstain else answer), stages

    def predict(
        self,
        target: Target,
        inputs: npt.NDArray[np.float32],
        timeout_s: float | None = None,
        timings: Timings | None = None,
    ) -> tuple[Origin, npt.NDArray[np.float32]]:
        """Return the scores (n, classes) for inputs that the caller prepared.

        Args:
            target: Which model.
            inputs: Shape (n, height, width, channels), float32, as
                `inkling.image.preprocess` makes them.
            timeout_s: What the caller allows.
            timings: As in `classify`.

        Raises:
            InvalidRequest: The inputs are no such array.
            TooLarge: There are more than a request may have.
        """
        timings = timings or Timings()
        servable = self._select(target, timings)
        check_inputs(inputs, servable.contract)
        self._check_count(len(inputs))
        return _origin(servable), _scores(servable, inputs, timings, timeout_s)

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

    def _select(self, target: Target, timings: Timings | None = None) -> Servable:
        model = check_model_name(target.model)
        found = self._engine.select(model, target.version, target.version_label)
        if timings is not None:
            timings.model, timings.version = found.model, found.version
        return found

    def _prepared(
        self, images: Sequence[bytes], contract: Contract, timings: Timings
    ) -> npt.NDArray[np.float32]:
        """Return the model inputs, shape (n, height, width, channels)."""
        budget = Budget(self._limits)
        pixels = np.empty((len(images), *contract.input_shape), np.uint8)
        began = perf_counter()
        for place, image in enumerate(images):
            decoded = decode(image, contract.min_side, budget)
            between = perf_counter()
            pixels[place] = decoded_to_pixels(decoded, contract)
            timings.decode += between - began
            began = perf_counter()
            timings.preprocess += began - between
        inputs = scaled(pixels, contract)
        timings.preprocess += perf_counter() - began
        return inputs

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
    timings: Timings,
    timeout_s: float | None = None,
) -> Answer:
    check_top_k(top_k)
    origin, labels = _origin(servable), servable.contract.labels
    scores = _scores(servable, inputs, timings, timeout_s)
    return Answer(origin, predictions(scores, labels, top_k, origin))


def _abstaining(
    answer: Answer, servable: Servable, inputs: npt.NDArray[np.float32]
) -> Answer:
    results = abstaining(answer.results, inputs, servable.contract)
    return Answer(answer.origin, results)


def _scores(
    servable: Servable,
    inputs: npt.NDArray[np.float32],
    timings: Timings,
    timeout_s: float | None,
) -> npt.NDArray[np.float32]:
    started = perf_counter()
    try:
        return servable.predict(inputs, timeout_s)
    finally:
        timings.engine = perf_counter() - started


def _origin(servable: Servable) -> Origin:
    return Origin(servable.model, servable.version, servable.contract.hash)
