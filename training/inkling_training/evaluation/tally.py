# SPDX-License-Identifier: Apache-2.0
"""Counts the answers of a model to labelled pictures, one after the other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inkling.errors import (
    InklingError,
    InvalidRequest,
    TooLarge,
    UnsupportedMediaType,
)
from inkling_training.figures.reliability import expected_calibration_error
from inkling_training.release.card import confusion

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.types import Prediction
    from inkling_training.data.labelled_folder import Labelled

__all__ = [
    "Mistake",
    "Outcomes",
    "Share",
    "SourceFigures",
    "Tally",
    "Withheld",
    "f_one",
]

# Two-sided 95 % of a normal distribution.
_Z = 1.959963984540054
# The errors that a picture can cause; any other says nothing about the picture.
_OF_THE_PICTURE = (InvalidRequest, TooLarge, UnsupportedMediaType)


class Share(NamedTuple):
    """A number of pictures among others, with its interval.

    Attributes:
        right: The number.
        of: The number of all pictures that were counted.
    """

    right: int
    of: int

    @property
    def value(self) -> float | None:
        """The share from 0 to 1; None where no picture was counted."""
        return self.right / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share in all such pictures.

        Wilson's score interval (Probable Inference, the Law of Succession, and
        Statistical Inference, 1927), which holds for few pictures and near 100 %, too.
        """
        if not self.of:
            return 0.0, 1.0
        share, spread = self.right / self.of, _Z**2 / self.of
        centre = share + spread / 2
        reach = _Z * math.sqrt(share * (1 - share) / self.of + spread / self.of / 4)
        low, high = (centre - reach) / (1 + spread), (centre + reach) / (1 + spread)
        return max(0.0, low), min(1.0, high)

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        low, high = self.interval
        return f"{self.value:.2%} ({low:.2%} to {high:.2%})"

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {"right": self.right, "of": self.of, "share": self.value} | (
            {"interval_95": list(self.interval)} if self.of else {}
        )


def f_one(precision: Share, recall: Share) -> float | None:
    """Return F1, the harmonic mean of both, 0 to 1; None where nothing was counted."""
    both = precision.of + recall.of
    return 2 * precision.right / both if both else None


@dataclass(frozen=True)
class Mistake:
    """A picture with a label that is not its own."""

    picture: Labelled
    answer: str
    score: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "picture": str(self.picture.path),
            "truth": self.picture.label,
            "answer": self.answer,
            "probability": self.score,
        }


@dataclass(frozen=True)
class Withheld:
    """A picture for which the model gave no label.

    Attributes:
        best: The likeliest label, which was not given.
        score: Its probability, 0 to 1.
        reason: Why no label was given, such as `unsure`.
    """

    picture: Labelled
    best: str
    score: float
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "picture": str(self.picture.path),
            "truth": self.picture.label,
            "likeliest": self.best,
            "probability": self.score,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class SourceFigures:
    """The figures of the pictures of one source.

    Attributes:
        alone: Right answers of the answers to its pictures.
        without: Right answers of the answers to all other pictures.
        withheld: Pictures of it without an answer.
        wrong_withheld: Withheld pictures whose likeliest label is wrong.
        calibration_error: The expected calibration error of all its pictures, 0 to 1.
    """

    alone: Share
    without: Share
    withheld: Share
    wrong_withheld: Share
    calibration_error: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "pictures": self.withheld.of,
            "alone": self.alone.as_json(),
            "without": self.without.as_json(),
            "withheld": self.withheld.as_json(),
            "wrong_withheld": self.wrong_withheld.as_json(),
            "expected_calibration_error": self.calibration_error,
        }


class Outcomes:
    """What is kept of every outcome, whatever is counted.

    Attributes:
        labels: Those of the model.
        count: How many pictures were asked about.
        failures: Pictures that were refused, with the reason.
        reasons: How often the model gave no label, by reason.
        versions: Which versions answered, as `model version` and contract.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self._known = frozenset(labels)
        self.count = 0
        self.failures: list[tuple[Path, str]] = []
        self.reasons: Counter[str] = Counter()
        self.versions: dict[str, str] = {}

    def _answer(
        self, picture: Path, outcome: Prediction | InklingError
    ) -> Prediction | None:
        """Keep what every outcome has; return the prediction, None for a refusal.

        Raises:
            InklingError: The outcome, where it says nothing about this picture; the
                figures would then be of the pictures before it only.
        """
        self.count += 1
        if isinstance(outcome, _OF_THE_PICTURE):
            self.failures.append((picture, outcome.message))
            return None
        if isinstance(outcome, InklingError):
            raise outcome
        if any(score.label not in self._known for score in outcome.top):
            raise InvalidRequest(
                "Another version with other labels answers now; evaluate again."
            )
        if outcome.abstained is not None:
            self.reasons[outcome.abstained] += 1
        origin = outcome.origin
        name = f"{origin.model} {origin.version}" if origin.version else origin.model
        self.versions[name] = origin.contract
        return outcome


class Tally(Outcomes):
    """Counts outcomes; keeps a few numbers for each picture, and no pixels.

    Attributes:
        mistakes: In the order of the pictures.
        withheld: The pictures without a label, in their order.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self.mistakes: list[Mistake] = []
        self.withheld: list[Withheld] = []
        self._places = {label: place for place, label in enumerate(labels)}
        # Truth, likeliest label, whether it was given as the answer, and source.
        self._rows: list[tuple[int, int, bool, int]] = []
        self._scores: list[float] = []
        self._sources: dict[str, int] = {}

    def add(self, picture: Labelled, outcome: Prediction | InklingError) -> None:
        """Count one picture.

        Raises:
            InklingError: The outcome, where it says nothing about this picture.
        """
        answer = self._answer(picture.path, outcome)
        if answer is None:
            return
        best, reason = answer.top[0], answer.abstained
        answered = reason is None
        if reason is not None:
            self.withheld.append(
                Withheld(picture, best.label, best.probability, reason)
            )
        elif best.label != picture.label:
            self.mistakes.append(Mistake(picture, best.label, best.probability))
        source = self._sources.setdefault(picture.source, len(self._sources))
        truth, found = self._places[picture.label], self._places[best.label]
        self._rows.append((truth, found, answered, source))
        self._scores.append(best.probability)

    @property
    def accuracy(self) -> Share:
        """Right answers of all answers."""
        table = self._table
        return _share(table[table[:, 2] > 0])

    @property
    def coverage(self) -> Share:
        """Answers of all pictures that could be read."""
        answered = self._table[:, 2]
        return Share(int(answered.sum()), len(answered))

    @property
    def without_abstaining(self) -> Share:
        """Right likeliest labels of all pictures that could be read."""
        return _share(self._table)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over all pictures that could be read."""
        return expected_calibration_error(*self.scored)

    @property
    def scored(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Highest score of each picture and whether its label is right, each (n,)."""
        table = self._table
        return np.array(self._scores), table[:, 0] == table[:, 1]

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Answers, shape (classes, classes): rows are the truth, columns the answer."""
        answers = self._table[self._table[:, 2] > 0]
        return confusion(answers[:, 0], answers[:, 1], len(self.labels))

    def by_label(self) -> dict[str, dict[str, Share]]:
        """Return precision and recall of each label among the answered pictures."""
        counts = self.confusion
        return {
            label: {
                "precision": Share(right, int(counts[:, place].sum())),
                "recall": Share(right, int(counts[place].sum())),
            }
            for label, place in self._places.items()
            for right in [int(counts[place, place])]
            if counts[place].any() or counts[:, place].any()
        }

    @property
    def second_label_f1(self) -> float | None:
        """F1 of the second of two labels, which is what a binary model detects.

        None with more labels, and where the second label does not occur.
        """
        figures = self.by_label().get(self.labels[1]) if len(self.labels) == 2 else None
        return f_one(figures["precision"], figures["recall"]) if figures else None

    @property
    def wrong_withheld(self) -> Share:
        """Withheld pictures whose likeliest label is wrong, of all withheld ones."""
        return _wrong(self._table[self._table[:, 2] == 0])

    def by_source(self) -> dict[str, SourceFigures]:
        """Return the figures of each source; nothing if there is only one."""
        if len(self._sources) < 2:
            return {}
        return {
            name: self._of_source(place)
            for name, place in sorted(self._sources.items())
        }

    def _of_source(self, place: int) -> SourceFigures:
        table = self._table
        own, answered = table[:, 3] == place, table[:, 2] > 0
        scores, right = self.scored
        return SourceFigures(
            alone=_share(table[answered & own]),
            without=_share(table[answered & ~own]),
            withheld=Share(int((own & ~answered).sum()), int(own.sum())),
            wrong_withheld=_wrong(table[own & ~answered]),
            calibration_error=expected_calibration_error(scores[own], right[own]),
        )

    @property
    def _table(self) -> npt.NDArray[np.int64]:
        return np.array(self._rows, np.int64).reshape(-1, 4)


def _wrong(rows: npt.NDArray[np.int64]) -> Share:
    right = _share(rows)
    return Share(right.of - right.right, right.of)


def _share(rows: npt.NDArray[np.int64]) -> Share:
    return Share(int((rows[:, 0] == rows[:, 1]).sum()), len(rows))
