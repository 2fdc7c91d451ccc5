# SPDX-License-Identifier: Apache-2.0
"""The encoded images of a request, and the model inputs that the service makes of them.

In the gateway, only this module and the service call the preprocessing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, cast

import numpy as np

from inkling.errors import DeadlineExceeded, InklingError
from inkling.image.budget import Budget
from inkling.image.decoding import decode
from inkling.image.inputs import check_inputs, scaled
from inkling.image.preprocess import judged_pixels
from inkling_serving.runtime.timings import Timings
from inkling_serving.runtime.tracebacks import without_frames

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.image.finder.doubt import Doubt
    from inkling.types import Prediction
    from inkling_serving.engines.base import Servable

__all__ = ["Batch", "checked", "in_time", "prepared"]

# The longest name of a caller's file in a message.
_MAX_NAME = 80


@dataclass
class Batch:
    """The images of a request, those that are refused, and doubts about the others."""

    images: Sequence[bytes | InklingError]
    names: Sequence[str]
    partial: bool
    refused: dict[int, InklingError] = field(default_factory=dict)
    doubts: list[Doubt | None] = field(default_factory=list)

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

    def read(self) -> list[tuple[int, bytes]]:
        """Return the images that are not refused, each with its place."""
        return [
            (place, image)
            for place, image in enumerate(self.images)
            if place not in self.refused and not isinstance(image, InklingError)
        ]

    def with_refused(
        self, found: Sequence[Prediction]
    ) -> list[Prediction | InklingError]:
        """Return the predictions, with errors in the places of the refused images."""
        answered = iter(found)
        places = range(len(self.images))
        return [self.refused.get(place) or next(answered) for place in places]


def prepared(
    batch: Batch, contract: Contract, budget: Budget, timings: Timings
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
            pixels[kept], doubt = judged_pixels(decoded, contract, budget)
        except InklingError as error:
            batch.refuse(place, error)
            continue
        batch.doubts.append(doubt)
        kept += 1
        timings.spend(decoded.picture.width * decoded.picture.height)
        timings.decode += between - began
        began = perf_counter()
        timings.preprocess += began - between
    inputs = scaled(pixels[:kept], contract)
    timings.preprocess += perf_counter() - began
    return inputs


def in_time(
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


def checked(
    given: npt.NDArray[np.float32] | npt.NDArray[np.uint8], contract: Contract
) -> npt.NDArray[np.float32]:
    """Return the inputs that are or that the pixels stand for."""
    if given.dtype == np.uint8 and given.shape[1:] == contract.input_shape:
        inputs = scaled(given, contract)
    else:
        inputs = cast("npt.NDArray[np.float32]", given)
    check_inputs(inputs, contract)
    return inputs


def _shown(name: str) -> str:
    """Return a caller's name of an image for a message."""
    printable = "".join(c if c.isprintable() else "?" for c in name[:_MAX_NAME])
    return f" ({printable})" if printable else ""
