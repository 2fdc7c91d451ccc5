# SPDX-License-Identifier: Apache-2.0
"""The service behind all protocols: classifies, explains and lists the models.

In the gateway, only this module and `batch` call the preprocessing. It does not depend
on HTTP, gRPC or TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, cast

import numpy as np

from inkling.answers import answers, check_options
from inkling.errors import (
    DeadlineExceeded,
    InklingError,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    NotReady,
    TooLarge,
)
from inkling.image.budget import Budget, Limits
from inkling.image.decoding import png_size
from inkling.image.preprocess import check_inputs, explain, scaled
from inkling.model.repository import check_model_name
from inkling.types import ClassifyOptions, Origin
from inkling_serving.answers import Answer, Explanation, Scores
from inkling_serving.batch import Batch, prepared
from inkling_serving.engines.base import NO_SUCH_MODEL
from inkling_serving.runtime.timings import Timings

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.finder.doubt import Doubt
    from inkling.types import Prediction
    from inkling_serving.engines.base import (
        DeviceFile,
        Engine,
        ModelStatus,
        Servable,
    )

    Given: TypeAlias = (
        Sequence[bytes | InklingError] | npt.NDArray[np.float32] | npt.NDArray[np.uint8]
    )

__all__ = ["Options", "Service", "Target"]

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


_DEFAULTS = Options()


class Service:
    """Classifies pictures with an engine; it is thread-safe if the engine is.

    Args:
        engine: The engine that runs the models.
        limits: The limits of one picture and of the pictures of a request.
        max_batch: The largest number of pictures in a request.

    Attributes:
        max_batch: As the argument.
    """

    def __init__(self, engine: Engine, limits: Limits, max_batch: int) -> None:
        self._engine = engine
        self._limits = limits
        self.max_batch = max_batch
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
        timings = timings or Timings()
        self._check_count(len(images))
        servable = self._select(target, timings)
        check_options(options, servable.contract)
        batch = Batch(images, names, options.partial)
        budget = Budget(self._limits, _QUICK_NS if quickly else None)
        inputs, left_s = _in_time(batch, servable, budget, timings, timeout_s)
        found = _predictions(servable, inputs, options, timings, left_s, batch.doubts)
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
    ) -> Explanation:
        """Return the prediction for an image, and how it was prepared.

        Arguments and errors are those of `classify`.
        """
        timings = timings or Timings()
        servable = self._select(target, timings)
        check_options(options, servable.contract)
        if isinstance(image, InklingError):
            raise image
        started = perf_counter()
        inputs, stages, doubt = explain(image, servable.contract, Budget(self._limits))
        timings.preprocess = perf_counter() - started
        rows = inputs[np.newaxis]
        found = _predictions(servable, rows, options, timings, None, [doubt])
        return Explanation(Answer(_origin(servable), found), stages, inputs)

    def predict(
        self,
        target: Target,
        given: Given,
        timeout_s: float | None = None,
        timings: Timings | None = None,
        *,
        quickly: bool = False,
    ) -> Scores:
        """Return the scores of all labels, all by one version.

        Args:
            target: The model and version.
            given: Encoded images, as in `classify`; or pixels, uint8, in the contract's
                `input_shape`, which get its scale and offset; or inputs that the caller
                has prepared, float32, (n, *input_shape), as `inkling.image.preprocess`
                makes them.
            timeout_s: As in `classify`.
            timings: As in `classify`.
            quickly: As in `classify`.

        Raises:
            InvalidRequest: The inputs have another dtype, shape or range.
            InklingError: As in `classify`.
        """
        timings = timings or Timings()
        servable = self._select(target, timings)
        if isinstance(given, np.ndarray):
            inputs, left_s = _checked(given, servable.contract), timeout_s
            self._check_count(len(inputs))
        else:
            self._check_count(len(given))
            batch = Batch(given, (), False)
            budget = Budget(self._limits, _QUICK_NS if quickly else None)
            inputs, left_s = _in_time(batch, servable, budget, timings, timeout_s)
        values = _scores(servable, inputs, timings, left_s)
        return Scores(_origin(servable), servable.contract, values)

    def contract(self, target: Target) -> tuple[int, Contract]:
        """Return the number of the version that would answer, and its contract.

        Raises:
            InklingError: `Engine.select` raised an error.
        """
        servable = self._select(target)
        return servable.version, servable.contract

    def device_file(self, target: Target) -> DeviceFile:
        """Return the TFLite file with which this process would answer.

        Raises:
            NotFound: The model runs in another process.
            InklingError: `Engine.select` raised an error.
        """
        found = self._select(target).device_file
        if found is None:
            raise NotFound(
                "This gateway has no TFLite file of the model, because TensorFlow "
                "Serving runs it. Take the file from the model repository."
            )
        return found

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
        if count > self.max_batch:
            raise TooLarge(
                f"The request has {count} images; the limit is {self.max_batch}. "
                "Send several requests."
            )


def _in_time(
    batch: Batch,
    servable: Servable,
    budget: Budget,
    timings: Timings,
    timeout_s: float | None,
) -> tuple[npt.NDArray[np.float32], float | None]:
    """Return the inputs of the images, and the seconds that are left for the engine."""
    started = perf_counter()
    inputs = prepared(batch, servable.contract, budget, timings)
    if timeout_s is not None:
        timeout_s -= perf_counter() - started
        if timeout_s <= 0:
            raise DeadlineExceeded(
                "The deadline passed while the images were prepared. Set a longer "
                "deadline."
            )
    return inputs, timeout_s


def _checked(
    given: npt.NDArray[np.float32] | npt.NDArray[np.uint8], contract: Contract
) -> npt.NDArray[np.float32]:
    """Return the inputs that are or that the pixels stand for."""
    if given.dtype == np.uint8 and given.shape[1:] == contract.input_shape:
        inputs = scaled(given, contract)
    else:
        inputs = cast("npt.NDArray[np.float32]", given)
    check_inputs(inputs, contract)
    return inputs


def _predictions(
    servable: Servable,
    inputs: npt.NDArray[np.float32],
    options: Options,
    timings: Timings,
    timeout_s: float | None,
    doubts: Sequence[Doubt | None],
) -> list[Prediction]:
    if not len(inputs):
        return []
    contract, origin = servable.contract, _origin(servable)
    scores = _scores(servable, inputs, timings, timeout_s)
    return answers(scores, inputs, contract, options, origin, doubts)


def _scores(
    servable: Servable,
    inputs: npt.NDArray[np.float32],
    timings: Timings,
    timeout_s: float | None,
) -> npt.NDArray[np.float32]:
    started = perf_counter()
    timings.images = len(inputs)
    try:
        return servable.predict(inputs, timeout_s)
    finally:
        timings.engine = perf_counter() - started


def _origin(servable: Servable) -> Origin:
    return Origin(servable.model, servable.version, servable.contract.hash)
