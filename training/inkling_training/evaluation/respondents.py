# SPDX-License-Identifier: Apache-2.0
"""Answers labelled pictures by a classifier, and shows what the model saw of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

import inkling
from inkling.errors import InklingError
from inkling.image.pictures import encoded
from inkling.image.preprocess import explain
from inkling.types import ClassifyOptions, Prediction

__all__ = ["Respondent"]

_TIMEOUT_S = 30.0


class Respondent:
    """A classifier of `inkling.connect` with the contract that it answers by.

    Attributes:
        contract: The contract, with the labels in the order of the scores.
    """

    def __init__(self, target: str | Path, model: str, **secured: Any) -> None:
        """Connect, and ask for the contract.

        Args:
            target: A gateway's address, or on this device a file or directory.
            model: Which model a gateway is asked.
            secured: Options of `inkling.connect` for the connection to a gateway.

        Raises:
            InklingError: As `inkling.connect` and `Classifier.contract` say.
        """
        if not isinstance(target, Path):
            secured = {"timeout_s": _TIMEOUT_S, **secured}
        self._classifier = inkling.connect(target, model=model, **secured)
        try:
            self.contract = self._classifier.contract()
        except InklingError:
            self._classifier.close()
            raise

    def outcomes(
        self, pictures: Iterable[Path], options: ClassifyOptions
    ) -> Iterator[Prediction | InklingError]:
        """Yield for each picture, in order, its prediction or its error."""
        return self._classifier.outcomes(
            pictures,
            options.top_k,
            abstain=options.abstain,
            threshold=options.threshold,
        )

    def shown(self, picture: Path) -> tuple[Image.Image, Image.Image]:
        """Return a picture upright, and what the model saw of it.

        Both are prepared here, with the contract of the model that answers.

        Raises:
            InvalidImage: The picture cannot be read any more.
        """
        _, stages, _ = explain(encoded(picture), self.contract)
        upright = [stage for stage in stages if stage.name in ("decoded", "upright")]
        return upright[-1].picture, stages[-1].picture

    def close(self) -> None:
        """Close the classifier."""
        self._classifier.close()
