# SPDX-License-Identifier: Apache-2.0
"""The service behind all protocols: classifies, explains and lists the models.

In the gateway, only this module calls the preprocessing. It does not depend on HTTP,
gRPC or TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from inkling.answers import answers, check_options
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
from inkling.types import ClassifyOptions, Origin, Prediction
from inkling_serving.engines.base import NO_SUCH_MODEL
from inkling_serving.runtime.timings import Timings
from inkling_serving.runtime.tracebacks import without_frames

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_serving.engines.base import Engine, ModelStatus, Servable

__all__ = ["Answer", "Options", "Service", "Target"]

# The longest name of a caller's file in a message.
_MAX_NAME = 80
# A classification is quick if its picture has at most so many bytes, and decoding and
# framing it takes at most so many nanoseconds by the estimate that the limits use. A
# sample takes 40,000 and another PNG of 28x28 pixels 70,000, but a search for ink
# 6,000,000.
_QUICK_BYTES, _QUICK_NS = 64 * 1024, 1_000_000


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


@dataclass(frozen=True, slots=True)
class Options(ClassifyOptions):
    """What a caller of the gateway wants of a classification.

    Attributes:
        partial: Whether the other images are answered if one is refused.
    """

    partial: bool = False


_DEFAULTS = Options()


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
        self._is_leaving = False

    def classify(
        self,
        target: Target,
        images: Sequence[bytes | InklingError],
        options: Options = _DEFAULTS,
        timeout_s: float | None = None,
        *,
        names: Sequence[str] = (),
        timings: Timings | None = None,
        quickly: bool = False,
    ) -> Answer:
        """Return one prediction per encoded image, in order, all by one version.

        Args:
            target: The model and version.
            images: The encoded images; an error stands for an image that the caller
                of this method could not read.
            options: What the caller wants.
            timeout_s: The caller's limit; the engine gets the seconds that are left.
            names: The names of the images in messages, or nothing.
            timings: Gets the version that answers and the duration of each phase.
            quickly: Whether to give up a request whose images take longer than the
                hand-over to a thread. `is_quick` says where this is worth a try.

        Raises:
            TakesLonger: The images take longer, and the caller asked to give up.
            InvalidRequest: The request has no image, an option is invalid, or the
                model takes no threshold.
            TooLarge: The request has more than `max_batch` images.
            DeadlineExceeded: The deadline passed.
            InklingError: `Engine.select` or `preprocess.to_input` raised an error, or
                an image is one; the error states which image it is.
        """
        timings, started = timings or Timings(), perf_counter()
        self._check_count(len(images))
        servable = self._select(target, timings)
        check_options(options, servable.contract)
        batch = _Batch(images, names, options.partial)
        budget = Budget(self._limits, _QUICK_NS if quickly else None)
        inputs = _prepared(batch, servable.contract, budget, timings)
        if timeout_s is not None:
            timeout_s -= perf_counter() - started
            if timeout_s <= 0:
                raise DeadlineExceeded(
                    "The deadline passed while the images were prepared. Set a longer "
                    "deadline."
                )
        found = _predictions(servable, inputs, options, timings, timeout_s)
        return Answer(_origin(servable), batch.with_refused(found))

    def is_quick(self, target: Target, image: bytes) -> bool:
        """Return whether `classify` may take less time than a hand-over to a thread.

        This holds for a picture of the model's size with a small model, and for a
        request that is refused because its model cannot answer. Whether the picture has
        to be searched for ink shows only once it is decoded.
        """
        size = png_size(image) if len(image) <= _QUICK_BYTES else None
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
        image: bytes | InklingError,
        options: Options = _DEFAULTS,
        *,
        timings: Timings | None = None,
    ) -> tuple[Answer, list[Stage]]:
        """Return the prediction for an image, and the stages of its preparation.

        Arguments and errors are those of `classify`.
        """
        timings = timings or Timings()
        servable = self._select(target, timings)
        check_options(options, servable.contract)
        if isinstance(image, InklingError):
            raise image
        started = perf_counter()
        inputs, stages = explain(image, servable.contract, Budget(self._limits))
        timings.preprocess = perf_counter() - started
        batch = inputs[np.newaxis]
        found = _predictions(servable, batch, options, timings)
        return Answer(_origin(servable), found), stages

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

    def leave(self) -> None:
        """Report not ready from now on, because this process ends soon."""
        self._is_leaving = True

    def check_ready(self) -> None:
        """Check that at least one model can answer, and that this process stays.

        Raises:
            NotReady: All models are unavailable, or the process ends.
        """
        if self._is_leaving:
            raise NotReady(
                "This gateway ends. It still serves requests; send further ones to "
                "another gateway."
            )
        if not any(model.ready for model in self.models()):
            raise NotReady(f"No model can answer yet. {self._engine.why_not_ready()}")

    def _select(self, target: Target, timings: Timings | None = None) -> Servable:
        model = check_model_name(target.model)
        found = self._engine.select(model, target.version, target.version_label)
        if timings is not None:
            timings.model, timings.version = found.model, found.version
        return found

    def _check_count(self, count: int) -> None:
        if count == 0:
            raise InvalidRequest("The request has 0 images; send at least one.")
        if count > self._max_batch:
            raise TooLarge(
                f"The request has {count} images; the limit is {self._max_batch}. "
                "Send several requests."
            )


@dataclass
class _Batch:
    """The images of a request, and those of them that are refused."""

    images: Sequence[bytes | InklingError]
    names: Sequence[str]
    partial: bool
    refused: dict[int, InklingError] = field(default_factory=dict)

    def refuse(self, place: int, error: InklingError) -> None:
        """Keep the error of an image; raise it if it refuses the whole request."""
        count = len(self.images)
        if count > 1:
            name = _shown(self.names[place]) if self.names else ""
            error.index = place
            error.message = f"Image {place + 1} of {count}{name}: {error.message}"
            error.args = (error.message,)
        if not self.partial:
            raise error
        self.refused[place] = without_frames(error)

    def with_refused(
        self, found: Sequence[Prediction]
    ) -> list[Prediction | InklingError]:
        """Return the predictions, with errors in the places of the refused images."""
        answered = iter(found)
        places = range(len(self.images))
        return [self.refused.get(place) or next(answered) for place in places]


def _prepared(
    batch: _Batch, contract: Contract, budget: Budget, timings: Timings
) -> npt.NDArray[np.float32]:
    """Return the model inputs of the images that are not refused.

    The shape is (n, *input_shape).
    """
    dtype = np.uint8 if contract.antialias else np.float32
    pixels = np.empty((len(batch.images), *contract.input_shape), dtype)
    kept, began = 0, perf_counter()
    for place, image in enumerate(batch.images):
        try:
            if isinstance(image, InklingError):
                raise image
            decoded = decode(image, contract.min_side, budget)
            between = perf_counter()
            pixels[kept] = decoded_to_pixels(decoded, contract, budget)
        except InklingError as error:
            batch.refuse(place, error)
            continue
        kept += 1
        timings.decode += between - began
        began = perf_counter()
        timings.preprocess += began - between
    inputs = scaled(pixels[:kept], contract)
    timings.preprocess += perf_counter() - began
    return inputs


def _shown(name: str) -> str:
    """Return a caller's name of an image for a message."""
    printable = "".join(c if c.isprintable() else "?" for c in name[:_MAX_NAME])
    return f" ({printable})" if printable else ""


def _predictions(
    servable: Servable,
    inputs: npt.NDArray[np.float32],
    options: Options,
    timings: Timings,
    timeout_s: float | None = None,
) -> list[Prediction]:
    if not len(inputs):
        return []
    contract, origin = servable.contract, _origin(servable)
    scores = _scores(servable, inputs, timings, timeout_s)
    return answers(scores, inputs, contract, options, origin)


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
