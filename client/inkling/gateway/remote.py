# SPDX-License-Identifier: Apache-2.0
"""The part of a gateway's classifier that does not depend on the protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

from inkling.errors import InklingError
from inkling.gateway.error_classes import closed
from inkling.image.named_pictures import raising
from inkling.image.pictures import encoded
from inkling.types import ClassifyOptions

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling.image.pictures import Picture
    from inkling.types import Prediction

__all__ = ["Call", "RemoteClassifier"]


class Call(Protocol):
    """A classification that has been sent."""

    def result(self) -> Prediction:
        """Wait for the answer.

        Raises:
            InklingError: The gateway refused the picture, or did not answer.
        """

    def cancel(self) -> None:
        """Give the answer up."""


class RemoteClassifier(ABC):
    """A classifier behind a gateway.

    Threads may share it. Its connections belong to the process that made them: after a
    fork, the child makes its own.
    """

    # Calls of `outcomes` that are under way at once.
    _window: int

    @property
    @abstractmethod
    def _generation(self) -> int:
        """How often `close` was called; a call begun before is not begun again."""

    @abstractmethod
    def _begin(self, image: bytes, options: ClassifyOptions) -> Call:
        """Send an encoded picture; a failure to send is raised by the call's result."""

    def _ask(self, image: bytes, options: ClassifyOptions) -> Prediction:
        """Send an encoded picture, and wait for the answer."""
        return self._begin(image, options).result()

    @abstractmethod
    def contract(self) -> Contract:
        """Return the contract of the version that answers now, as the gateway has it.

        Raises:
            InklingError: No version is ready, or the gateway cannot be reached.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connections, and end the calls under way; a later call connects."""

    def classify(
        self,
        picture: Picture,
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Prediction:
        """Return the prediction for one picture; see `Classifier.classify`."""
        options = ClassifyOptions.checked(top_k, abstain, threshold)
        return self._ask(encoded(picture), options)

    def outcomes(
        self,
        pictures: Iterable[Picture],
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Iterator[Prediction | InklingError]:
        """Yield a prediction or an error per picture, with a few calls under way."""
        under_way: deque[Call | InklingError] = deque()
        generation = self._generation
        try:
            for picture in pictures:
                try:
                    if generation != self._generation:
                        raise closed()
                    options = ClassifyOptions.checked(top_k, abstain, threshold)
                    under_way.append(self._begin(encoded(picture), options))
                except InklingError as error:
                    under_way.append(error)
                if len(under_way) >= self._window:
                    yield _outcome(under_way.popleft())
            while under_way:
                yield _outcome(under_way.popleft())
        finally:
            for call in under_way:
                if not isinstance(call, InklingError):
                    call.cancel()

    def classify_many(
        self,
        pictures: Iterable[Picture],
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Iterator[Prediction]:
        """Yield a prediction per picture, in order, with a few calls under way."""
        return raising(
            partial(self.outcomes, top_k=top_k, abstain=abstain, threshold=threshold),
            pictures,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _outcome(call: Call | InklingError) -> Prediction | InklingError:
    if isinstance(call, InklingError):
        return call
    try:
        return call.result()
    except InklingError as error:
        return error
