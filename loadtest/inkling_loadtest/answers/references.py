# SPDX-License-Identifier: Apache-2.0
"""The right answers: those that the same pictures had when each was asked alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of any protocol: for each picture a label and its probability."""

    version: int
    results: Sequence[tuple[str, float]]


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
        self, pictures: Sequence[LabelledPicture], labels: Sequence[str]
    ) -> None:
        """Take the pictures, and the labels that the model knows."""
        known = Spellings(labels)
        self._truth = [known.get(picture.label) for picture in pictures]
        self._names = [picture.name for picture in pictures]
        self._known: dict[int, dict[int, tuple[str, float]]] = {}

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
            if not _alike(known.setdefault(place, result), result):
                return self._wrong(known, place, result)
            if self._truth[place] is not None:
                labelled += 1
                correct += self._truth[place] == result[0]
        return Verdict("right", labelled=labelled, correct=correct)

    @property
    def versions(self) -> list[int]:
        """The versions that have answered."""
        return sorted(self._known)

    @property
    def num_labelled(self) -> int:
        """The number of pictures with a label that the model knows."""
        return sum(label is not None for label in self._truth)

    def _wrong(
        self, known: dict[int, tuple[str, float]], place: int, result: tuple[str, float]
    ) -> Verdict:
        others = [p for p, r in known.items() if p != place and _alike(r, result)]
        form = "{} was {} at {:.4f} alone, now {} at {:.4f}"
        detail = form.format(self._names[place], *known[place], *result)
        if others:
            return failed(
                "mixed-up answer", f"{detail}, as {self._names[others[0]]} was"
            )
        return failed("wrong answer", detail)


def reply_of_json(body: bytes) -> Reply | None:
    """Return the reply in an HTTP body; None if the body has another form."""
    try:
        answer = json.loads(body)
        results = [
            (item["label"], float(item["probability"])) for item in answer["results"]
        ]
        return Reply(int(answer["version"]), results)
    except (ValueError, KeyError, TypeError):
        return None


def reply_of(prediction: Prediction) -> Reply:
    """Return the reply that a prediction of the client library is."""
    best = prediction.top[0]
    return Reply(prediction.origin.version or 0, [(best.label, best.probability)])


def reply_of_message(response: pb.ClassifyResponse) -> Reply | None:
    """Return the reply in a gRPC message; None if a result has no label."""
    if not all(result.top for result in response.results):
        return None
    results = [
        (item.top[0].label, item.top[0].probability) for item in response.results
    ]
    return Reply(response.version, results)


def _alike(one: tuple[str, float], other: tuple[str, float]) -> bool:
    return one[0] == other[0] and abs(one[1] - other[1]) <= _TOLERANCE
