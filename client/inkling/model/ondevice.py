# SPDX-License-Identifier: Apache-2.0
"""A classifier that runs the model in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from inkling.answers import answers, check_options
from inkling.errors import InklingError, InvalidRequest
from inkling.image.named_pictures import raising
from inkling.image.pictures import encoded
from inkling.image.preprocess import prepare
from inkling.model.loading import load_bundle
from inkling.model.publication import VERSION
from inkling.model.runner import TFLiteRunner
from inkling.model.version_files import FORMATS, MANIFEST_FILE, VersionFiles
from inkling.types import ClassifyOptions, Origin, Prediction

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling.image.pictures import Picture

__all__ = ["OnDeviceClassifier"]


class OnDeviceClassifier:
    """A classifier that runs a TFLite file in this process; it is thread-safe."""

    def __init__(
        self,
        path: Path,
        *,
        tflite_format: str = "float32",
        num_threads: int = 1,
    ) -> None:
        """Load a TFLite file that Inkling published, or a version's directory.

        Args:
            path: The TFLite file, or the version's directory. All files that the
                directory's manifest lists are verified against it. Any of them may be
                a link, as `inkling.model.version_files` says.
            tflite_format: Which file of a directory runs: `float32`, `float16` or
                `int8`; if a version lacks it, the most exact one that it has.
            num_threads: Threads that LiteRT uses for one picture.

        Raises:
            InvalidRequest: The path does not exist or is the directory of a whole
                model, or the format is unknown.
            BrokenVersion: A file is damaged, or differs from the published one.
            InvalidContract: This version of Inkling does not support the contract.
            MissingDependency: LiteRT is not installed.
        """
        if not path.exists():
            raise InvalidRequest(
                f"{path} does not exist; give the path of a .tflite file or of a "
                "version's directory, such as models/cnn/1."
            )
        if tflite_format not in FORMATS:
            raise InvalidRequest(
                f"The format {tflite_format!r:.40} is unknown; use one of "
                f"{', '.join(FORMATS)}."
            )
        version = None
        if path.is_dir():
            _check_is_version(path)
            version = _version(path)
            files = VersionFiles(path.parent.name, version or 0, path)
            files.verify()
            path = files.tflite(files.offered(tflite_format))
        bundle = load_bundle(path)
        self._runner = TFLiteRunner(bundle.model, bundle.contract, num_threads)
        self._origin = Origin(bundle.name, version, bundle.contract.hash, "device")

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
            picture: A path, bytes, a file opened in binary mode, a Pillow image, or
                uint8 pixels.
            top_k: How many of the most probable labels to return, 1 or more.
            abstain: True if the model may abstain, as `inkling.abstention` describes.
            threshold: From 0 to 1: return all labels with this probability or a higher
                one, for a model whose pictures may have several labels.

        Raises:
            InvalidImage: The picture cannot be read.
            InvalidRequest: An option is invalid, or the model takes no threshold.
            TooLarge: The picture exceeds a limit.
            UnsupportedMediaType: The picture is in a format that Inkling does not read.
        """
        [outcome] = self.outcomes(
            [picture], top_k, abstain=abstain, threshold=threshold
        )
        if isinstance(outcome, InklingError):
            raise outcome
        return outcome

    def outcomes(
        self,
        pictures: Iterable[Picture],
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Iterator[Prediction | InklingError]:
        """Yield one prediction or one error per picture, in the pictures' order.

        The arguments are those of `classify`; an error does not end the iteration.
        """
        for picture in pictures:
            try:
                options = ClassifyOptions.checked(top_k, abstain, threshold)
                outcome = self._prediction(picture, options)
            except InklingError as error:
                yield error
            else:
                yield outcome

    def classify_many(
        self,
        pictures: Iterable[Picture],
        top_k: int = 1,
        *,
        abstain: bool = False,
        threshold: float | None = None,
    ) -> Iterator[Prediction]:
        """Yield one prediction per picture, in the pictures' order.

        Arguments and errors are those of `classify`; the first error ends the
        iteration.
        """
        return raising(
            partial(self.outcomes, top_k=top_k, abstain=abstain, threshold=threshold),
            pictures,
        )

    def _prediction(self, picture: Picture, options: ClassifyOptions) -> Prediction:
        contract = self._runner.contract
        check_options(options, contract)
        prepared, doubt = prepare(encoded(picture), contract)
        inputs = prepared[np.newaxis]
        scores = self._runner.run(inputs)
        [found] = answers(scores, inputs, contract, options, self._origin, [doubt])
        return found

    def contract(self) -> Contract:
        """Return the contract that the file carries."""
        return self._runner.contract

    def close(self) -> None:
        """Do nothing: the model is freed with this object."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _check_is_version(directory: Path) -> None:
    """Refuse the directory of a model or of several models; name a version in it."""
    for place in (MANIFEST_FILE, f"*/{MANIFEST_FILE}", f"*/*/{MANIFEST_FILE}"):
        found = [one.parent for one in directory.glob(place)]
        if directory in found:
            return
        if found:
            raise InvalidRequest(
                f"{directory} is not the directory of a version. Name one of those in "
                f"it, such as {max(found, key=_version_number)}."
            )


def _version_number(directory: Path) -> int:
    return _version(directory) or 0


def _version(directory: Path) -> int | None:
    """Return the number of a version's directory; a link's own name comes first."""
    for path in (directory.absolute(), directory.resolve()):
        if VERSION.fullmatch(path.name):
            return int(path.name)
    return None
