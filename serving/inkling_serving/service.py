"""The service behind all protocols: classifies, explains and lists the models.

In the gateway, only this module calls the preprocessing. It does not depend on HTTP,
gRPC or TensorFlow.
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
    is_sample,
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
    """The model that a request names.

    Attributes:
        model: The model's name.
        version: The version's number, or None.
        version_label: The version label, such as `stable`, or None. If both are None,
            the newest available version answers.
    """

    model: str
    version: int | None = None
    version_label: str | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to a classification.

    Attributes:
        origin: The model, version and contract that answered.
        results: One prediction for each image, in the order of the images.
    """

    origin: Origin
    results: Sequence[Prediction]


class Service:
    """Classifies pictures with an engine; it is thread-safe if the engine is.

    Args:
        engine: The engine that runs the models.
        limits: The limits of one picture and of the pictures of a request.
        max_batch: The largest number of pictures in a request.
    """

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

        `timeout_s` is the caller's limit; the engine gets the seconds that are left.
        With `abstain`, a picture that the model is not sure of gets no label.
        `timings` records the version that answers and the duration of each phase.

        Raises:
            InvalidRequest: The request has no image, or `top_k` is invalid.
            TooLarge: The request has more than `max_batch` images.
            DeadlineExceeded: The deadline passed.
            InklingError: `Engine.select` or `preprocess.to_input` raised an error.
        """
        timings, started = timings or Timings(), perf_counter()
        self._check_count(len(images))
        servable = self._select(target, timings)
        inputs = self._prepared(images, servable.contract, timings)
        if timeout_s is not None:
            timeout_s -= perf_counter() - started
            if timeout_s <= 0:
                raise DeadlineExceeded(
                    "The deadline passed while the images were prepared. Set a longer "
                    "deadline."
                )
        answer = _answer(servable, inputs, top_k, timings, timeout_s)
        return _abstaining(answer, servable, inputs) if abstain else answer

    def is_quick(self, target: Target, image: bytes) -> bool:
        """Return whether `classify` takes about as long as a hand-over to a thread.

        This holds for a sample of the model's size with a small model, and for a
        request that is refused because its model cannot answer.
        """
        size = png_size(image)
        if size is None:
            return False
        try:
            servable = self._select(target)
        except InklingError:
            return True
        contract = servable.contract
        if not servable.quick or size != (contract.width, contract.height):
            return False
        return is_sample(image, contract)

    def explain(
        self,
        target: Target,
        image: bytes,
        top_k: int = 1,
        *,
        abstain: bool = False,
        timings: Timings | None = None,
    ) -> tuple[Answer, list[Stage]]:
        """Return the prediction for an image, and the stages of its preparation.

        Arguments and errors are those of `classify`.
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
        """Return the scores for inputs that the caller has prepared.

        Args:
            target: The model and version.
            inputs: Shape (n, height, width, channels), float32, as
                `inkling.image.preprocess` makes them.
            timeout_s: As in `classify`.
            timings: As in `classify`.

        Raises:
            InvalidRequest: The inputs have another dtype, shape or range.
            TooLarge: The request has more than `max_batch` inputs.
            InklingError: `Engine.select` raised an error.
        """
        timings = timings or Timings()
        servable = self._select(target, timings)
        check_inputs(inputs, servable.contract)
        self._check_count(len(inputs))
        return _origin(servable), _scores(servable, inputs, timings, timeout_s)

    def contract(self, target: Target) -> tuple[int, Contract]:
        """Return the number of the version that would answer, and its contract.

        Raises:
            InklingError: `Engine.select` raised an error.
        """
        servable = self._select(target)
        return servable.version, servable.contract

    def models(self) -> list[ModelStatus]:
        """Return the status of every model, sorted by name."""
        return self._engine.status()

    def model(self, name: str) -> ModelStatus:
        """Return the status of one model.

        Raises:
            InvalidRequest: The name is invalid.
            ModelNotFound: The engine does not have the model.
        """
        check_model_name(name)
        for status in self.models():
            if status.name == name:
                return status
        raise ModelNotFound(NO_SUCH_MODEL)

    def check_ready(self) -> None:
        """Check that at least one model can answer.

        Raises:
            NotReady: All models are unavailable; `models` states the reasons.
        """
        if not any(model.ready for model in self.models()):
            raise NotReady(
                "No model can answer yet. Publish a model with: inkling train mlp. GET "
                "/v1/models states why a published version is not served."
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
            raise InvalidRequest("The request has 0 images; send at least one.")
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
