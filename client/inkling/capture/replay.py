# SPDX-License-Identifier: Apache-2.0
"""Compares versions and formats of a model on captured pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from inkling.capture.records import Record, records
from inkling.capture.store import STORE_FILE, Store
from inkling.errors import InklingError, InvalidRequest
from inkling.image.preprocess import to_input
from inkling.model.loading import load_version
from inkling.model.repository import VersionFiles
from inkling.model.runner import TFLiteRunner

__all__ = ["Replay", "Row", "replay"]


@dataclass
class Row:
    """The answers of one version in one format, or those that were captured.

    Attributes:
        version: The version; None for the captured answers.
        format: The TFLite format; None for the captured answers.
        pictures: The pictures that were answered.
        refused: The pictures that this version cannot prepare.
        agreeing: The pictures with the captured label.
        largest_difference: The largest difference of a score from the captured one;
            None where the labels are others, or for the captured answers.
        latencies_ms: The milliseconds of the engine, for each picture.
        labelled: The pictures with feedback.
        right: Those of them that have the label of the feedback.
    """

    version: int | None
    format: str | None
    pictures: int = 0
    refused: int = 0
    agreeing: int = 0
    largest_difference: float | None = None
    latencies_ms: list[float] = field(default_factory=list)
    labelled: int = 0
    right: int = 0

    @property
    def agreement(self) -> float | None:
        """The share of the pictures with the captured label, 0 to 1."""
        return self.agreeing / self.pictures if self.pictures else None

    @property
    def accuracy(self) -> float | None:
        """The share of the pictures with feedback that are right, 0 to 1."""
        return self.right / self.labelled if self.labelled else None

    def latency_ms(self, share: float) -> float | None:
        """Return the milliseconds below which a share of the answers took."""
        if not self.latencies_ms:
            return None
        ordered = sorted(self.latencies_ms)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    def add(self, label: str, record: Record, right: str | None, ms: float) -> None:
        """Count the answer to a picture; `right` is its feedback, if there is any."""
        self.pictures += 1
        self.agreeing += label == record.label
        self.latencies_ms.append(ms)
        if right is not None:
            self.labelled += 1
            self.right += label == right


@dataclass(frozen=True)
class Replay:
    """The comparison of a model's versions on captured pictures.

    Attributes:
        model: The model.
        answered_by: The versions that had answered.
        missing: The captured pictures that are gone or damaged.
        rows: The captured answers, then each version in each format.
    """

    model: str
    answered_by: Sequence[int]
    missing: int
    rows: Sequence[Row]


def replay(
    directory: Path, versions: Sequence[VersionFiles], formats: Sequence[str]
) -> Replay:
    """Return how versions of one model answer the pictures that were captured of it.

    Args:
        directory: The directory of the captures.
        versions: The versions, at least one, all of the same model.
        formats: The TFLite formats of each version.

    Raises:
        InvalidRequest: The directory cannot be read, or has no picture of the model.
        BrokenVersion: A version differs from the published one.
        MissingDependency: LiteRT is not installed.
    """
    model = versions[0].model
    runners = [
        (Row(one.version, name), load_version(one, name))
        for one in versions
        for name in formats
    ]
    captured, missing, answered_by = Row(None, None), 0, set[int]()
    rights = _feedback(directory, model)
    for record in records(directory, model):
        content = record.content(directory)
        if content is None:
            missing += 1
            continue
        answered_by.add(record.version)
        right = rights.get((record.request_id, record.image))
        captured.add(record.label, record, right, record.engine_ms)
        for row, runner in runners:
            _answer(row, runner, record, content, right)
    if not captured.pictures:
        raise InvalidRequest(
            f"{directory} has no captured picture of the model {model}. Serve it with "
            f"inkling serve --capture {directory}."
        )
    rows = [captured, *(row for row, _ in runners)]
    return Replay(model, sorted(answered_by), missing, rows)


def _answer(
    row: Row, runner: TFLiteRunner, record: Record, content: bytes, right: str | None
) -> None:
    labels = runner.contract.labels
    try:
        inputs = to_input(content, runner.contract)[np.newaxis]
    except InklingError:
        row.refused += 1
        return
    started = time.perf_counter()
    [scores] = runner.run_prepared(inputs)
    took_ms = 1000 * (time.perf_counter() - started)
    row.add(labels[int(scores.argmax())], record, right, took_ms)
    if len(labels) == len(record.scores):
        difference = float(np.abs(scores - np.asarray(record.scores)).max())
        row.largest_difference = max(row.largest_difference or 0.0, difference)


def _feedback(directory: Path, model: str) -> dict[tuple[str, int], str]:
    if not (directory / STORE_FILE).is_file():
        return {}
    store = Store(directory)
    try:
        return dict(_rights(store, model))
    finally:
        store.close()


def _rights(store: Store, model: str) -> Iterator[tuple[tuple[str, int], str]]:
    for one in store.labelled(model):
        yield (one.request_id, one.image), one.label
