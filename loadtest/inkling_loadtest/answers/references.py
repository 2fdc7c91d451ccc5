# SPDX-License-Identifier: Apache-2.0
"""The right answers: those that the same pictures had when each was asked alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inkling.labels import Spellings
from inkling.types import Prediction
from inkling.v1 import classifier_pb2 as pb
from inkling_loadtest.load.pictures import LabelledPicture

__all__ = [
    "References",
    "Reply",
    "Verdict",
    "failed",
    "refused",
    "reply_of",
    "reply_of_json",
    "reply_of_message",
]

# Float sums differ with the batch in which a picture was computed; this is twenty times
# what parity between the engines allows.
_TOLERANCE = 2e-3


# The labels that a picture got, each with its probability, by falling probability.
Result = Sequence[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of any protocol: the labels of each picture.

    A picture has one label, or all labels at or above the threshold if the request has
    one.
    """

    version: int
    results: Sequence[Result]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a request.

    Attributes:
        outcome: `right`, `refused` or `failed`. `right` says that the answer is the one
            that the same picture had alone, and nothing about its label.
        reason: A few words, the same for all failures of a kind.
        detail: The words of this failure.
        labelled: Pictures that were answered and have a label that the model knows.
        correct: Pictures among them that were given their label.
    """

    outcome: str
    reason: str = ""
    detail: str = ""
    labelled: int = 0
    correct: int = 0


def failed(reason: str, detail: str = "") -> Verdict:
    """Return the verdict on a request without an answer, or with a wrong one."""
    return Verdict("failed", reason, detail[:200])


def refused(reason: str) -> Verdict:
    """Return the verdict on a request that the gateway refused."""
    return Verdict("refused", reason)


class References:
    """The answers that the pictures had alone, by model version.

    The first answer of a version that appears under load is its reference.
    """

    def __init__(
        self,
        pictures: Sequence[LabelledPicture],
        labels: Sequence[str],
        threshold: float | None = None,
    ) -> None:
        """Take the pictures, the model's labels, and the threshold of the requests."""
        self._threshold = threshold
        known = Spellings(labels)
        self._truth = [known.get(picture.label) for picture in pictures]
        self._names = [picture.name for picture in pictures]
        self._known: dict[int, dict[int, Result]] = {}

    def judge(self, pictures: Sequence[int], reply: Reply | None) -> Verdict:
        """Return the verdict on a reply to the pictures with these places."""
        if reply is None:
            return failed("unreadable answer")
        if len(reply.results) != len(pictures):
            return failed(
                "missing answers",
                f"{len(reply.results)} answers to {len(pictures)} pictures",
            )
        known = self._known.setdefault(reply.version, {})
        correct = labelled = 0
        for place, result in zip(pictures, reply.results, strict=True):
            if not self._alike(known.setdefault(place, result), result):
                return self._wrong(known, place, result)
            if self._truth[place] is not None:
                labelled += 1
                correct += any(self._truth[place] == label for label, _ in result)
        return Verdict("right", labelled=labelled, correct=correct)

    @property
    def versions(self) -> list[int]:
        """The versions that have answered."""
        return sorted(self._known)

    @property
    def num_labelled(self) -> int:
        """The number of pictures with a label that the model knows."""
        return sum(label is not None for label in self._truth)

    def _alike(self, one: Result, other: Result) -> bool:
        """Return whether both have the same labels with about the same probabilities.

        A label that is missing in one of them is below the threshold there, so it may
        be just above the threshold in the other.
        """
        if self._threshold is None:
            [(label, score)], [(other_label, other_score)] = one, other
            return label == other_label and abs(score - other_score) <= _TOLERANCE
        first, second = dict(one), dict(other)
        return all(
            abs(first.get(label, self._threshold) - second.get(label, self._threshold))
            <= _TOLERANCE
            for label in first.keys() | second.keys()
        )

    def _wrong(self, known: dict[int, Result], place: int, result: Result) -> Verdict:
        others = [p for p, r in known.items() if p != place and self._alike(r, result)]
        before, now = _shown(known[place]), _shown(result)
        detail = f"{self._names[place]} was {before} alone, now {now}"
        if others:
            return failed(
                "mixed-up answer", f"{detail}, as {self._names[others[0]]} was"
            )
        return failed("wrong answer", detail)


def reply_of_json(body: bytes) -> Reply | None:
    """Return the reply in an HTTP body; None if the body has another form."""
    try:
        answer = json.loads(body)
        results = [_result_of_json(item) for item in answer["results"]]
        return Reply(int(answer["version"]), results)
    except (ValueError, KeyError, TypeError):
        return None


def _result_of_json(item: Any) -> Result:
    if "labels" not in item:
        return [(item["label"], float(item["probability"]))]
    return [(one["label"], float(one["probability"])) for one in item["labels"]]


def reply_of(prediction: Prediction) -> Reply:
    """Return the reply that a prediction of the client library is."""
    given = prediction.top[:1] if prediction.labels is None else prediction.labels
    result = [(score.label, score.probability) for score in given]
    return Reply(prediction.origin.version or 0, [result])


def reply_of_message(response: pb.ClassifyResponse) -> Reply | None:
    """Return the reply in a gRPC message; None if a result has no scores."""
    if not all(result.top for result in response.results):
        return None
    results = [_result_of_message(item) for item in response.results]
    return Reply(response.version, results)


def _result_of_message(item: pb.Prediction) -> Result:
    # A request with a threshold can get no label at all, for which there is a reason.
    given = item.labels if item.labels or item.abstained else item.top[:1]
    return [(score.label, score.probability) for score in given]


def _shown(result: Result) -> str:
    return ", ".join(f"{label} at {p:.4f}" for label, p in result) or "without a label"
