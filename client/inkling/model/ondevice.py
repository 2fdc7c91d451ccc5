"""The classifier on this device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from inkling.abstention import abstaining
from inkling.errors import InklingError, InvalidRequest
from inkling.image.pictures import encoded, raising
from inkling.image.preprocess import to_input
from inkling.model.loading import load_bundle
from inkling.model.repository import FORMATS, VersionFiles
from inkling.model.runner import TFLiteRunner
from inkling.types import Origin, Prediction, check_abstain, check_top_k, predictions

if TYPE_CHECKING:
    from inkling.contract import Contract
    from inkling.image.pictures import Picture

__all__ = ["OnDeviceClassifier"]


class OnDeviceClassifier:
    """A classifier in this process; safe to use from several threads."""

    def __init__(
        self,
        path: Path,
        *,
        tflite_format: str = "float32",
        num_threads: int = 1,
    ) -> None:
        """Load a TFLite file that Inkling published, or a version's directory.

        Args:
            path: The file; or the directory, whose every file is verified then.
            tflite_format: Which file of a directory is run.
            num_threads: Threads that work on one picture.

        Raises:
            InvalidRequest: There is nothing at this path.
            BrokenVersion: What is there is not what was published.
        """
        if not path.exists():
            raise InvalidRequest(
                f"There is nothing at {path}; name a .tflite file or a version's "
                "directory, such as models/cnn/1."
            )
        if tflite_format not in FORMATS:
            raise InvalidRequest(
                f"There is no format {tflite_format!r:.40}; there are: "
                f"{', '.join(FORMATS)}."
            )
        version = None
        if path.is_dir():
            path = path.resolve()
            version = int(path.name) if path.name.isdecimal() else None
            VersionFiles(path.parent.name, version or 0, path).verify()
            path = path / "tflite" / f"{tflite_format}.tflite"
        bundle = load_bundle(path)
        self._runner = TFLiteRunner(bundle.model, bundle.contract, num_threads)
        self._origin = Origin(bundle.name, version, bundle.contract.hash, "device")

    def classify(
        self, picture: Picture, top_k: int = 1, *, abstain: bool = False
    ) -> Prediction:
        """Return what the model says of one picture."""
        [prediction] = self.classify_many([picture], top_k, abstain=abstain)
        return prediction

    def outcomes(
        self, pictures: Iterable[Picture], top_k: int = 1, *, abstain: bool = False
    ) -> Iterator[Prediction | InklingError]:
        """Yield a prediction or an error per picture, in order."""
        contract = self._runner.contract
        for picture in pictures:
            try:
                check_top_k(top_k)
                check_abstain(abstain)
                inputs = to_input(encoded(picture), contract)[np.newaxis]
                scores = self._runner.run(inputs)
            except InklingError as error:
                yield error
            else:
                found = predictions(scores, contract.labels, top_k, self._origin)
                yield from abstaining(found, inputs, contract) if abstain else found

    def classify_many(
        self, pictures: Iterable[Picture], top_k: int = 1, *, abstain: bool = False
    ) -> Iterator[Prediction]:
        """Yield a prediction per picture, in order."""
        return raising(self.outcomes(pictures, top_k, abstain=abstain))

    def contract(self) -> Contract:
        """Return the contract that the file carries."""
        return self._runner.contract

    def close(self) -> None:
        """Do nothing: the model goes with this object."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
