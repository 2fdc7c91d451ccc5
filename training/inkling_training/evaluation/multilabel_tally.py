# SPDX-License-Identifier: Apache-2.0
"""Counts the answers of a model whose pictures may have several labels, or none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score

from inkling_training.evaluation.tally import Outcomes, Share, f_one
from inkling_training.figures.reliability import expected_calibration_error

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.errors import InklingError
    from inkling.types import Prediction
    from inkling_training.data.labelled_folder import Tagged

__all__ = [
    "LabelFigures",
    "MultiLabelTally",
    "SourceOfSeveral",
    "WrongLabels",
]


@dataclass(frozen=True)
class WrongLabels:
    """A picture that did not get exactly its labels.

    Attributes:
        answer: The labels that it got.
        worst: The largest probability of a wrong statement about a label, 0 to 1: that
            it has one that it does not have, or lacks one that it has.
    """

    picture: Tagged
    answer: tuple[str, ...]
    worst: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "picture": str(self.picture.path),
            "truth": sorted(self.picture.labels),
            "answer": list(self.answer),
            "probability": self.worst,
        }


class LabelFigures(NamedTuple):
    """How well a model tells one label.

    Attributes:
        precision: Right among the pictures that got the label.
        recall: Right among the pictures that have the label.
        average_precision: The area under the curve of precision over recall, over all
            thresholds, 0 to 1; None without a picture that has the label.
    """

    precision: Share
    recall: Share
    average_precision: float | None

    @property
    def f1(self) -> float | None:
        """The harmonic mean of both, 0 to 1; None if the label does not occur."""
        return f_one(self.precision, self.recall)

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "precision": self.precision.as_json(),
            "recall": self.recall.as_json(),
            "f1": self.f1,
            "average_precision": self.average_precision,
        }


class SourceOfSeveral(NamedTuple):
    """The figures of the pictures of one source.

    Attributes:
        exact: Its pictures that got exactly their labels.
        without: Pictures of all other sources that got exactly their labels.
        precision: Right among the labels that its pictures got.
        recall: Right among the labels that its pictures have.
        calibration_error: The expected calibration error over all labels of its
            pictures, 0 to 1.
    """

    exact: Share
    without: Share
    precision: Share
    recall: Share
    calibration_error: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return {
            "pictures": self.exact.of,
            "exact": self.exact.as_json(),
            "without": self.without.as_json(),
            "precision": self.precision.as_json(),
            "recall": self.recall.as_json(),
            "expected_calibration_error": self.calibration_error,
        }


class MultiLabelTally(Outcomes):
    """Counts outcomes; keeps a few numbers for each picture, and no pixels.

    Attributes:
        threshold: At or above it a picture gets a label.
        mistakes: The pictures that did not get exactly their labels, in their order.
    """

    def __init__(self, labels: Sequence[str], threshold: float) -> None:
        super().__init__(labels)
        self.threshold = threshold
        self.mistakes: list[WrongLabels] = []
        # Rows of booleans, and of probabilities, one value for each label.
        self._truth: list[list[bool]] = []
        self._given: list[list[bool]] = []
        self._scores: list[list[float]] = []
        self._sources: list[str] = []

    def add(self, picture: Tagged, outcome: Prediction | InklingError) -> None:
        """Count one picture, whose outcome has the scores of all labels.

        Raises:
            InklingError: The outcome, where it says nothing about this picture.
        """
        answer = self._answer(picture.path, outcome)
        if answer is None:
            return
        given = tuple(score.label for score in answer.labels or ())
        by_index = {score.index: score.probability for score in answer.top}
        wrong = picture.labels.symmetric_difference(given)
        if wrong:
            worst = max(
                by_index[place] if label in given else 1 - by_index[place]
                for place, label in enumerate(self.labels)
                if label in wrong
            )
            self.mistakes.append(WrongLabels(picture, given, worst))
        self._sources.append(picture.source)
        self._truth.append([label in picture.labels for label in self.labels])
        self._given.append([label in given for label in self.labels])
        self._scores.append([by_index[place] for place in range(len(self.labels))])

    def by_label(self) -> dict[str, LabelFigures]:
        """Return the figures of each label that a picture has or got."""
        truth, given, scores = self._arrays
        return {
            label: LabelFigures(
                *_precision_and_recall(truth[:, place], given[:, place]),
                _average_precision(truth[:, place], scores[:, place]),
            )
            for place, label in enumerate(self.labels)
            if truth[:, place].any() or given[:, place].any()
        }

    def by_source(self) -> dict[str, SourceOfSeveral]:
        """Return the figures of each source; nothing if there is only one."""
        names = sorted(set(self._sources))
        if len(names) < 2:
            return {}
        sources = np.array(self._sources)
        return {name: self._of_source(sources == name) for name in names}

    def _of_source(self, own: npt.NDArray[np.bool_]) -> SourceOfSeveral:
        truth, given, scores = self._arrays
        return SourceOfSeveral(
            _exact(truth[own], given[own]),
            _exact(truth[~own], given[~own]),
            *_precision_and_recall(truth[own].ravel(), given[own].ravel()),
            expected_calibration_error(scores[own].ravel(), truth[own].ravel()),
        )

    @property
    def micro(self) -> tuple[Share, Share]:
        """Precision and recall over all labels of all pictures."""
        truth, given, _ = self._arrays
        return _precision_and_recall(truth.ravel(), given.ravel())

    @property
    def macro_f1(self) -> float | None:
        """The mean of the labels' F1, 0 to 1; None if no label occurs."""
        return _mean(one.f1 for one in self.by_label().values())

    @property
    def mean_average_precision(self) -> float | None:
        """The mean of the labels' average precision, 0 to 1; None if none occurs."""
        return _mean(one.average_precision for one in self.by_label().values())

    @property
    def exact(self) -> Share:
        """Pictures that got exactly their labels, of all that could be read."""
        truth, given, _ = self._arrays
        return _exact(truth, given)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over all labels of all pictures."""
        return expected_calibration_error(*self.scored)

    @property
    def scored(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Each label's score for each picture, and whether it has the label."""
        truth, _, scores = self._arrays
        return scores.ravel(), truth.ravel()

    @property
    def _arrays(
        self,
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """Truth, given labels and scores, each (pictures, labels)."""
        shape = (-1, len(self.labels))
        truth, given = (
            np.array(rows, np.bool_).reshape(shape)
            for rows in (self._truth, self._given)
        )
        return truth, given, np.array(self._scores, np.float64).reshape(shape)


def _exact(truth: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_]) -> Share:
    return Share(int((truth == given).all(axis=1).sum()), len(truth))


def _precision_and_recall(
    truth: npt.NDArray[np.bool_], given: npt.NDArray[np.bool_]
) -> tuple[Share, Share]:
    right = int((truth & given).sum())
    return Share(right, int(given.sum())), Share(right, int(truth.sum()))


def _average_precision(
    truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]
) -> float | None:
    return float(average_precision_score(truth, scores)) if truth.any() else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
