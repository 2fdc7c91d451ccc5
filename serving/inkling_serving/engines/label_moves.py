# SPDX-License-Identifier: Apache-2.0
"""Moves version labels: only to versions that every process of the gateway has loaded.

Otherwise the same label would lead to an error in a process that still loads a version,
while another process already answers with it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inkling.errors import BrokenVersion
from inkling_serving.runtime.files import ProcessFiles

if TYPE_CHECKING:
    from inkling.model.repository import Repository

__all__ = ["LabelMoves", "Labels", "labels_in"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labels:
    """The version labels of a model, as the repository has them.

    Attributes:
        versions: The version of each label.
        shares: The share in percent of each label that has one.
    """

    versions: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)


def labels_in(repository: Repository, model: str, before: Labels) -> Labels:
    """Return the version labels of a model in a repository.

    Args:
        repository: The repository.
        model: The model's name.
        before: The labels so far; they stay if the new ones cannot be read.
    """
    try:
        found = repository.labels(model).assignments()
    except BrokenVersion as error:
        _log.warning(
            "the version labels of %s stay as they were: %s", model, error.message
        )
        return before
    return Labels(
        {label: one.version for label, one in found.items()},
        {label: one.share for label, one in found.items() if one.share},
    )


class LabelMoves:
    """Decides for one process to which version each label leads.

    The processes tell each other through files in a folder that they share.
    """

    def __init__(self, folder: Path | None) -> None:
        """Take the folder; None for a process without others."""
        self._files = ProcessFiles(folder, "versions")
        self._told: dict[str, dict[str, Any]] = {}
        self._remarks: dict[tuple[str, str], str] = {}

    def at_start(self, model: str, wanted: Mapping[str, int]) -> Mapping[str, int]:
        """Return the labels that a process begins with: those that the others follow.

        Args:
            model: The model's name.
            wanted: The labels in the repository.
        """
        followed = [one["labels"] for one in self._others(model)]
        return {
            label: next((one[label] for one in followed if label in one), version)
            for label, version in wanted.items()
        }

    def moved(
        self,
        model: str,
        wanted: Mapping[str, int],
        before: Mapping[str, int],
        loaded: Collection[int],
    ) -> Mapping[str, int]:
        """Return the version of each label from now on, and tell the other processes.

        Args:
            model: The model's name.
            wanted: The labels in the repository.
            before: The labels that this process has followed so far.
            loaded: The versions that can answer in this process.
        """
        labels = {
            label: self._version(model, label, version, before, loaded)
            for label, version in wanted.items()
        }
        self._tell(model, labels, loaded)
        return labels

    def _version(
        self,
        model: str,
        label: str,
        wanted: int,
        before: Mapping[str, int],
        loaded: Collection[int],
    ) -> int:
        old = before.get(label, wanted)
        if old == wanted or old not in loaded:
            # The next move that has to wait is told again.
            self._remarks.pop((model, label), None)
            return wanted
        if wanted not in loaded:
            return self._staying(model, label, old, f"version {wanted} is not loaded")
        missing = sum(wanted not in one["loaded"] for one in self._others(model))
        if missing:
            why = f"{missing} other processes have not loaded version {wanted} yet"
            return self._staying(model, label, old, why)
        _log.info(
            "the label %s of %s moves from version %d to %d", label, model, old, wanted
        )
        self._remarks.pop((model, label), None)
        return wanted

    def _staying(self, model: str, label: str, old: int, why: str) -> int:
        remark = f"the label {label} of {model} stays at version {old}: {why}"
        if self._remarks.get((model, label)) != remark:
            self._remarks[model, label] = remark
            _log.warning("%s", remark)
        return old

    def _tell(
        self, model: str, labels: Mapping[str, int], loaded: Collection[int]
    ) -> None:
        told = {"labels": dict(labels), "loaded": sorted(loaded)}
        if self._told.get(model) != told or not self._files.has_own:
            self._files.write({**self._told, model: told})
            self._told[model] = told

    def _others(self, model: str) -> Iterator[dict[str, Any]]:
        """Yield what the other processes have told of a model."""
        for told in self._files.others():
            if told.lives:
                yield told.content.get(model, {"labels": {}, "loaded": []})
