# SPDX-License-Identifier: Apache-2.0
"""The interface of every classifier, and the function that returns one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from inkling.errors import DeadlineExceeded, InklingError, InvalidRequest, NotReady
from inkling.image.named_pictures import raising
from inkling.image.pictures import encoded
from inkling.network.address import Address

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling.image.pictures import Picture
    from inkling.types import Prediction

__all__ = ["Classifier", "Fallback", "connect"]


class Classifier(Protocol):
    """Classifies pictures; safe to use from several threads, closed once."""

    def classify(
        self,
        picture: Picture,
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Prediction:
        """Return the prediction for one picture.

        Args:
            picture: One of the forms that `inkling.image.pictures` lists.
            top_k: The number of labels to return, most probable first; 1 or more.
            abstain: Whether a picture of which the model is not sure gets no label, by
                the rule of `inkling.abstention`.
            threshold: From 0 to 1: `Prediction.labels` then has all labels with this
                probability or a higher one. Only for a model whose pictures may have
                several labels (the contract's `outputs` is `sigmoid`).

        Raises:
            InklingError: The same class whether a gateway or this device refused it.
        """

    def classify_many(
        self,
        pictures: Iterable[Picture],
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Iterator[Prediction]:
        """Yield a prediction per picture, in order, with a few calls under way.

        Raises:
            InklingError: As `classify`; the predictions before it have been yielded. An
                error about a picture has its `index`, and its message begins with
                `Picture 3 (its path): `.
        """

    def outcomes(
        self,
        pictures: Iterable[Picture],
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Iterator[Prediction | InklingError]:
        """Yield for each picture, in order, its prediction or why there is none."""

    def contract(self) -> Contract:
        """Return the contract of the version that answers now, with its labels.

        Raises:
            InklingError: No version can answer, or the gateway cannot be reached.
        """

    def close(self) -> None:
        """Close the connections, and free the model; closing again does nothing.

        Calls under way in other threads, and the rest of an iteration, end with
        `NotReady`. A later call connects anew.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...


def connect(
    target: str | PathLike[str],
    *,
    model: str = "cnn",
    fallback: str | PathLike[str] | None = None,
    **options: Any,
) -> Classifier:
    """Return a classifier.

    Args:
        target: `host:port` or `grpc://host:port` of a gateway's gRPC port, or the URL
            of its HTTP port, such as `http://localhost:8080`, as the gateway's log
            prints them; or, on the device, a TFLite file that Inkling published, or a
            version's directory.
        model: Which model the gateway is asked; a file or directory is its own.
        fallback: A file or directory that answers while the gateway cannot be reached;
            `Prediction.origin` tells gateway and device apart.
        options: For a gateway, the attributes of
            `inkling.gateway.connection.Connection`; on the device, the arguments of
            `inkling.model.ondevice.OnDeviceClassifier`.

    Raises:
        InklingError: A path does not exist or cannot be loaded, or an option is
            impossible.
    """
    if _is_on_device(target):
        from inkling.model.ondevice import OnDeviceClassifier  # noqa: PLC0415 - an extra

        if fallback is not None:
            raise InvalidRequest("A classifier on the device needs no fallback.")
        unknown = set(options) - {"tflite_format", "num_threads"}
        if unknown:
            raise InvalidRequest(
                f"Unknown options on the device: {', '.join(sorted(unknown))[:200]}; "
                "known are: num_threads, tflite_format."
            )
        return OnDeviceClassifier(Path(target), **options)
    remote = _behind_a_gateway(str(target), model=model, **options)
    return Fallback(remote, connect(fallback)) if fallback is not None else remote


def _behind_a_gateway(target: str, **options: Any) -> Classifier:
    """Return a classifier; neither protocol is loaded for the other."""
    if not Address.parse(target).is_grpc:
        from inkling.gateway.http import HttpClassifier  # noqa: PLC0415

        return HttpClassifier(target, **options)
    from inkling.gateway.grpc import GrpcClassifier  # noqa: PLC0415

    return GrpcClassifier(target, **options)


def _is_on_device(target: str | PathLike[str]) -> bool:
    if not str(target):
        return False  # its path would be the current folder
    path = Path(target)
    # A file of a content-addressed store has a hash for its name.
    return path.suffix == ".tflite" or path.is_dir() or path.is_file()


class Fallback:
    """Asks one classifier, and another one while the first cannot be reached."""

    def __init__(self, first: Classifier, second: Classifier) -> None:
        self._first, self._second = first, second

    def classify(
        self,
        picture: Picture,
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Prediction:
        """Return the first's prediction, or the second's if the first is not ready."""
        image = encoded(picture)
        asked: dict[str, Any] = {"abstain": abstain, "threshold": threshold}
        try:
            return self._first.classify(image, top_k, **asked)
        except (NotReady, DeadlineExceeded):
            return self._second.classify(image, top_k, **asked)

    def outcomes(
        self,
        pictures: Iterable[Picture],
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Iterator[Prediction | InklingError]:
        """Yield a prediction or an error per picture; each call tries the first."""
        for picture in pictures:
            try:
                yield self.classify(
                    picture, top_k, abstain=abstain, threshold=threshold
                )
            except InklingError as error:
                yield error

    def classify_many(
        self,
        pictures: Iterable[Picture],
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Iterator[Prediction]:
        """Yield a prediction per picture, in order; each call tries the first."""
        return raising(
            partial(self.outcomes, top_k=top_k, abstain=abstain, threshold=threshold),
            pictures,
        )

    def contract(self) -> Contract:
        """Return the first's contract, or the second's if the first is not ready."""
        try:
            return self._first.contract()
        except (NotReady, DeadlineExceeded):
            return self._second.contract()

    def close(self) -> None:
        """Close both."""
        self._first.close()
        self._second.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
