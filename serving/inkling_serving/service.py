# SPDX-License-Identifier: Apache-2.0
"""The service behind all protocols: classifies, explains and lists the models.

In the gateway, only this module and `batch` call the preprocessing. It does not depend
on HTTP, gRPC or TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from inkling.answers import check_options
from inkling.errors import (
    InklingError,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    NotReady,
    TooLarge,
)
from inkling.image.budget import Budget, Limits, TakesLonger
from inkling.image.decoding import png_size
from inkling.image.preprocess import explain
from inkling.model.repository import check_model_name
from inkling_serving.answers import (
    Answer,
    Explanation,
    Options,
    Scores,
    Target,
    origin_of,
    predictions_of,
    scores_of,
)
from inkling_serving.batch import Batch, checked, in_time
from inkling_serving.engines.base import NO_SUCH_MODEL
from inkling_serving.quotas import Quotas
from inkling_serving.rollout.mirror import Mirrored
from inkling_serving.runtime.timings import Timings

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy.typing as npt

    from inkling.capture.store import Given as Feedback
    from inkling.contract import Contract
    from inkling.types import Prediction
    from inkling_serving.capture.capture import Capture
    from inkling_serving.engines.base import (
        DeviceFile,
        Engine,
        ModelStatus,
        Servable,
    )
    from inkling_serving.rollout.mirror import Mirror
    from inkling_serving.telemetry.drift import Drift

    Given: TypeAlias = (
        Sequence[bytes | InklingError] | npt.NDArray[np.float32] | npt.NDArray[np.uint8]
    )

__all__ = ["Options", "Service", "Target"]

# A classification is quick if its picture has at most so many bytes, and decoding and
# framing it takes at most so many nanoseconds by the estimate that the limits use. A
# sample takes 40,000 and another PNG of 28x28 pixels 70,000, but a search for ink
# 6,000,000.
_QUICK_BYTES, _QUICK_NS = 64 * 1024, 1_000_000
_DEFAULTS = Options()


class Service:
    """Classifies pictures with an engine; it is thread-safe if the engine is.

    Args:
        engine: The engine that runs the models.
        limits: The limits of one picture and of the pictures of a request.
        max_batch: The largest number of pictures in a request.
        quotas: The quotas of the callers' keys; by default, no key has one.
        mirror: Compares answers with those of a shadow; None compares none.
        capture: Captures a share of the requests; None for none.
        drift: Counts recent pictures; None counts none.

    Attributes:
        max_batch: As the argument.
        drift: As the argument.
        quotas: The quotas of the callers' keys.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        max_batch: int,
        quotas: Quotas | None = None,
        mirror: Mirror | None = None,
        capture: Capture | None = None,
        drift: Drift | None = None,
    ) -> None:
        self._mirror = mirror
        self.drift = drift
        self._engine = engine
        self._capture = capture
        self._limits = limits
        self.max_batch = max_batch
        self.quotas = quotas or Quotas()
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
        if quickly and not servable.quick:
            raise TakesLonger  # the label `canary` may lead to a larger model
        check_options(options, servable.contract)
        batch = Batch(images, names, options.partial)
        budget = Budget(self._limits, _QUICK_NS if quickly else None)
        inputs, left_s = in_time(batch, servable, budget, timings, timeout_s)
        found, scores = predictions_of(
            servable, inputs, options, timings, left_s, batch.doubts
        )
        read = batch.read()
        if read:
            self._offer(target, servable, inputs, scores, timings, read)
            if self.drift is not None:
                self.drift.offer(servable, inputs, scores)
        self._note(servable, read, scores, found, timings)
        return Answer(origin_of(servable), batch.with_refused(found))

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
        timings.spend(stages[0].picture.width * stages[0].picture.height)
        timings.preprocess = perf_counter() - started
        rows = inputs[np.newaxis]
        found, scores = predictions_of(servable, rows, options, timings, None, [doubt])
        self._note(servable, [(0, image)], scores, found, timings)
        return Explanation(Answer(origin_of(servable), found), stages, inputs)

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
        read: Sequence[tuple[int, bytes]] = ()
        if isinstance(given, np.ndarray):
            servable = self._for_inputs(servable, target, timings)
            inputs, left_s = checked(given, servable.contract), timeout_s
            self._check_count(len(inputs))
            size = servable.contract.width * servable.contract.height
            timings.spend(len(inputs) * size)
        else:
            self._check_count(len(given))
            batch = Batch(given, (), False)
            budget = Budget(self._limits, _QUICK_NS if quickly else None)
            inputs, left_s = in_time(batch, servable, budget, timings, timeout_s)
            read = batch.read()
        values = scores_of(servable, inputs, timings, left_s)
        self._offer(target, servable, inputs, values, timings, read)
        if self.drift is not None:
            self.drift.offer(servable, inputs, values)
        self._note(servable, read, values, (), timings)
        return Scores(origin_of(servable), servable.contract, values)

    def feedback(self, request_id: str, image: int, label: str) -> Feedback:
        """Store the label that is right for a captured picture.

        Args:
            request_id: The id that the answer stated.
            image: The position of the picture in its request, from 0.
            label: The label.

        Raises:
            NotFound: This gateway captures no requests.
            UnknownRequest: No captured picture has this id.
            InvalidRequest: The version that answered does not know the label.
            NotReady: The disk is full, or the store is unusable.
        """
        if self._capture is None:
            raise NotFound(
                "This gateway takes no feedback, because it captures no requests "
                "(--capture DIR)."
            )
        return self._capture.feedback(request_id, image, label)

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

    def _note(
        self,
        servable: Servable,
        images: Sequence[tuple[int, bytes]],
        scores: npt.NDArray[np.float32],
        found: Sequence[Prediction],
        timings: Timings,
    ) -> None:
        """Capture a request that was answered, if it is in the share."""
        if self._capture is None or not images or not self._capture.wants():
            return
        timings.captured = self._capture.note(servable, images, scores, found, timings)

    def _select(self, target: Target, timings: Timings | None = None) -> Servable:
        model = check_model_name(target.model)
        caller = None if timings is None else timings.caller
        found = self._engine.select(
            model, target.version, target.version_label, caller=caller
        )
        if timings is not None:
            timings.model, timings.version = found.model, found.version
        return found

    def _offer(
        self,
        target: Target,
        servable: Servable,
        inputs: npt.NDArray[np.float32],
        scores: npt.NDArray[np.float32],
        timings: Timings,
        images: Sequence[tuple[int, bytes]],
    ) -> None:
        """Offer an answer for a comparison, if the request named no version."""
        named = target.version is not None or target.version_label is not None
        if self._mirror is None or named:
            return
        encoded = [image for _, image in images]
        mirrored = Mirrored(servable, inputs, scores, timings.engine, encoded)
        self._mirror.offer(mirrored, timings.caller)

    def _for_inputs(
        self, servable: Servable, target: Target, timings: Timings
    ) -> Servable:
        """Return the version for inputs that the caller has prepared.

        The caller knows the contract of the default version. `canary` takes them only
        if it prepares pictures alike and has the same labels.
        """
        default = self._engine.select(
            servable.model, target.version, target.version_label
        )
        if servable.contract.takes_inputs_of(default.contract):
            return servable
        timings.version = default.version
        return default

    def _check_count(self, count: int) -> None:
        if count == 0:
            raise InvalidRequest("The request has 0 images; send at least one.")
        if count > self.max_batch:
            raise TooLarge(
                f"The request has {count} images; the limit is {self.max_batch}. "
                "Send several requests."
            )
