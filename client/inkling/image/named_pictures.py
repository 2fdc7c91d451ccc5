# SPDX-License-Identifier: Apache-2.0
"""Names the picture of a batch that an error is about."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import TYPE_CHECKING

from inkling.errors import InklingError, InvalidImage, TooLarge, UnsupportedMediaType

if TYPE_CHECKING:
    from inkling.image.pictures import Picture
    from inkling.types import Prediction

__all__ = ["NamedPictures", "raising"]

# The errors that one picture causes; any other is about the whole batch.
_OF_A_PICTURE = (InvalidImage, TooLarge, UnsupportedMediaType)


class NamedPictures:
    """Yields pictures, and knows the place and the name of each until its answer."""

    def __init__(self, pictures: Iterable[Picture]) -> None:
        self._pictures = pictures
        self._names: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[Picture]:
        for place, picture in enumerate(self._pictures):
            self._names.append((place, _name(picture)))
            yield picture

    def answer(self, outcome: Prediction | InklingError) -> Prediction:
        """Return the prediction for the next picture in order.

        Raises:
            InklingError: The outcome; an error about a picture says about which, in its
                message and by its `index`.
        """
        place, name = self._names.popleft()
        if not isinstance(outcome, InklingError):
            return outcome
        if not isinstance(outcome, _OF_A_PICTURE):
            raise outcome
        is_named = not name or outcome.message.startswith(name)
        shown = f"Picture {place + 1}" + ("" if is_named else f" ({name})")
        error = type(outcome)(f"{shown}: {outcome.message}")
        error.index = place
        raise error from None


def raising(
    outcomes: Callable[[Iterable[Picture]], Iterator[Prediction | InklingError]],
    pictures: Iterable[Picture],
) -> Iterator[Prediction]:
    """Yield the predictions for pictures up to the first error, and raise that error.

    Args:
        outcomes: Yields the outcome of each picture, in their order.
        pictures: The pictures.
    """
    named = NamedPictures(pictures)
    for outcome in outcomes(named):
        yield named.answer(outcome)


def _name(picture: Picture) -> str:
    """Return the path of a picture, shortened; empty where it has none."""
    if isinstance(picture, str | PathLike):
        return str(picture)[:200]
    # A Pillow image has `filename`, and a file has `name`.
    name = getattr(picture, "filename", None) or getattr(picture, "name", None)
    return str(name)[:200] if isinstance(name, str | PathLike) else ""
