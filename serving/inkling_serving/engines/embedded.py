# SPDX-License-Identifier: Apache-2.0
"""The embedded engine: LiteRT in this process runs the files of the repository.

A thread reads the repository every second. The engine checks a new version (manifest,
contract, golden pictures), warms it up, and only then serves it. If a version fails,
the engine reports the reason and keeps serving the other versions. A version whose
volume does not answer is such a failure: it holds up neither the others, nor the start,
nor the end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from inkling.errors import InklingError, ModelNotFound
from inkling.model.survey import survey
from inkling.model.version_files import ReadFailed
from inkling_serving.engines.base import (
    NO_SUCH_MODEL,
    ModelStatus,
    State,
    VersionStatus,
)
from inkling_serving.engines.label_moves import LabelMoves, Labels, labels_in
from inkling_serving.engines.loaded_version import LoadedVersion
from inkling_serving.engines.selection import Wanted, selected
from inkling_serving.runtime.bounded_calls import BoundedCalls
from inkling_serving.runtime.poller import Repeating

if TYPE_CHECKING:
    from pathlib import Path

    from inkling.model.repository import Repository, VersionFiles

__all__ = ["EmbeddedEngine"]

_log = logging.getLogger(__name__)

# The newest version, and the version before it for a rollback.
_VERSIONS_KEPT = 2
# Broken versions that are named where nothing is ready.
_MOST_NAMED = 3
# How long the reading of one version holds up the others, and all of them the start.
_READING_S = 2.0
_START_S = 10.0
# The pause while a reading is under way, if that is shorter than the usual one.
_READING_PAUSE_S = 0.5
_STILL_READ = (
    f"Its files are being read for more than {_READING_S:g} s. If this lasts, the "
    "volume that holds them does not answer."
)


@dataclass(frozen=True)
class _Model:
    """An immutable state of one model; a new state replaces it.

    Attributes:
        loaded: The versions that can answer.
        fingerprints: The fingerprint of each version's files at the last attempt to
            load them.
        failed: The reasons of the versions whose files cannot be served.
        version_labels: Labels, such as `stable`, and their versions.
        shares: The share of the requests of each label that has one.
    """

    loaded: Mapping[int, LoadedVersion] = field(default_factory=dict)
    fingerprints: Mapping[int, int] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    version_labels: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    def status(self, name: str) -> ModelStatus:
        """Return the status that the engine reports for this model."""
        available = [
            VersionStatus(
                version,
                State.AVAILABLE,
                self.failed.get(version),
                contract=loaded.contract,
                accuracy=loaded.accuracy,
                device_file=loaded.device_file,
            )
            for version, loaded in self.loaded.items()
        ]
        failed = [
            VersionStatus(version, State.FAILED, reason)
            for version, reason in self.failed.items()
            if version not in self.loaded
        ]
        versions = sorted(available + failed, key=lambda v: v.version, reverse=True)
        return ModelStatus(name, tuple(versions), self.version_labels, self.shares)

    def still_read(self, version: int) -> _Model:
        """Return the model with a version whose files are being read for long.

        A version that cannot answer is then looked at as if it were new.
        """
        known = dict(self.fingerprints)
        if version not in self.loaded or version in self.failed:
            known.pop(version, None)
        failed = {**self.failed, version: _STILL_READ}
        return replace(self, failed=failed, fingerprints=known)

    def labelled(self, wanted: Mapping[str, int]) -> _Model:
        """Return the model with the new labels whose versions can answer.

        A version that was published beside `stable` must not answer before `stable` is
        known.
        """
        new = {label: one for label, one in wanted.items() if one in self.loaded}
        return replace(self, version_labels={**new, **self.version_labels})

    def with_reading(self, reading: _Reading) -> _Model:
        """Return the model with what was found in the files of a version."""
        version, found, failed = reading.version, reading.found, dict(self.failed)
        failed.pop(version, None)
        loaded = dict(self.loaded)
        if isinstance(found, LoadedVersion):
            loaded[version] = found
        elif found:
            failed[version] = found
        fingerprints = {**self.fingerprints, version: reading.fingerprint}
        return replace(self, loaded=loaded, failed=failed, fingerprints=fingerprints)


@dataclass(frozen=True)
class _Reading:
    """What was found in the files of a version.

    Attributes:
        found: The version, or why it cannot be served; None if its files are as they
            were, and empty if it has none.
    """

    version: int
    fingerprint: int
    found: LoadedVersion | str | None


class EmbeddedEngine:
    """Serves the models of a repository from memory, and loads new versions."""

    def __init__(
        self,
        repository: Repository,
        tflite_format: str,
        poll_s: float,
        folder: Path | None = None,
    ) -> None:
        """Load the versions of a repository.

        Args:
            repository: The models.
            tflite_format: The TFLite format that runs, such as `float32`.
            poll_s: The seconds between two looks at the repository.
            folder: The directory that all processes of the gateway share, if any.
        """
        self._repository = repository
        self._moves = LabelMoves(folder)
        self._format = tflite_format
        self._models: Mapping[str, _Model] = {}
        # The last remarks on the directory; only changes go to the log.
        self._remarks: list[str] = []
        self._poll_s = poll_s
        self._calls = BoundedCalls(_READING_S)
        self._is_read = threading.Event()
        self._watcher = Repeating(
            "reading the repository", self._refresh, self._pause_s
        )
        self._is_read.wait(_START_S)

    def select(
        self,
        model: str,
        version: int | None = None,
        version_label: str | None = None,
        caller: str | None = None,
    ) -> LoadedVersion:
        """Return the requested version, or the one that answers without."""
        found = self._models.get(model)
        if found is None:
            raise ModelNotFound(NO_SUCH_MODEL)
        wanted = Wanted(model, version, version_label, caller)
        labels = Labels(found.version_labels, found.shares)
        return selected(wanted, found.loaded, found.failed, labels)

    def status(self) -> list[ModelStatus]:
        """Return the status of all models, sorted by name."""
        models = self._models
        return [models[name].status(name) for name in sorted(models)]

    def why_not_ready(self) -> str:
        """Return what the models directory holds in place of models, and the remedy."""
        broken = [
            f"{name} version {version}: {reason}"
            for name, model in sorted(self._models.items())
            for version, reason in sorted(model.failed.items())
        ]
        found = " ".join([*self._remarks, *broken[:_MOST_NAMED]])
        return (
            f"{found} Publish a model with: inkling train mlp --models-dir "
            f"{self._repository.root}"
        )

    def close(self) -> None:
        """Stop reading the repository."""
        self._watcher.stop()

    def _pause_s(self) -> float:
        if not self._calls.are_under_way:
            return self._poll_s if self._is_read.is_set() else 0.0
        return min(self._poll_s, _READING_PAUSE_S)

    def _refresh(self) -> None:
        try:
            for name in self._repository.models():
                before = self._models.get(name, _Model())
                after = self._refreshed(name, before)
                if after != before or name not in self._models:
                    self._models = {**self._models, name: after}
            self._look_around()
        finally:
            if not self._calls.are_under_way:
                self._is_read.set()

    def _look_around(self) -> None:
        """Say once what is in the models directory and is not served."""
        root = self._repository.root
        only = self._repository.only
        remarks = self._calls.result(f"looking at {root}", lambda: survey(root, only))
        for remark in remarks or ():
            if remark not in self._remarks:
                _log.warning("%s", remark)
        self._remarks = self._remarks if remarks is None else remarks

    def _refreshed(self, name: str, model: _Model) -> _Model:
        """Return the model in the repository's current state.

        The engine loads the newest versions that work, and the versions with a label.
        Broken versions do not count, so that they never displace a working version.
        """
        listing = self._calls.result(
            f"reading the directory of {name}", lambda: self._listing(name, model)
        )
        if listing is None:
            return model
        numbers, labels = listing
        if not model.loaded:
            # Until the version with the label `stable` is loaded, no other answers.
            begun = self._moves.at_start(name, labels.versions)
            model = replace(model, version_labels=begun)
        named = {*labels.versions.values(), *model.version_labels.values()}
        good, keep = 0, set()
        for version in numbers:
            if good >= _VERSIONS_KEPT and version not in named:
                continue
            model, is_there = self._with_version(model, name, version)
            if not is_there:
                continue
            keep.add(version)
            good += version in model.loaded
            # Requests can use a version as soon as it is loaded, before the others are.
            self._models = {**self._models, name: model.labelled(labels.versions)}
        if not keep & set(model.loaded):
            # No version on disk can answer, so the versions in memory stay.
            keep |= set(model.loaded)
        followed = self._moves.moved(
            name, labels.versions, model.version_labels, model.loaded
        )
        model = _only(model, keep | set(followed.values()))
        return replace(model, version_labels=followed, shares=labels.shares)

    def _listing(self, name: str, model: _Model) -> tuple[list[int], Labels]:
        """Return the numbers of a model's directories, and its version labels."""
        before = Labels(model.version_labels, model.shares)
        while True:
            numbers = self._repository.numbers(name)
            labels = labels_in(self._repository, name, before)
            # A publisher may have moved a label and added a version between the two.
            if numbers == self._repository.numbers(name):
                return numbers, labels

    def _with_version(
        self, model: _Model, name: str, version: int
    ) -> tuple[_Model, bool]:
        """Return the model with this version as its files are, and if it has any."""
        files = self._repository.files(name, version)
        known = model.fingerprints.get(version)
        reading = self._calls.result(
            f"reading {name} version {version}",
            lambda: self._read(files, known, model.failed.get(version)),
        )
        if reading is None:
            return model.still_read(version), True
        if reading.found == "":
            return model, False
        if reading.found is not None:
            return model.with_reading(reading), True
        if model.failed.get(version) == _STILL_READ:
            failed = {k: v for k, v in model.failed.items() if k != version}
            return replace(model, failed=failed), True
        return model, True

    def _read(
        self, files: VersionFiles, known: int | None, failed: str | None
    ) -> _Reading:
        """Load a version if its fingerprint is not the known one.

        Args:
            files: The files of the version.
            known: The fingerprint at the last attempt.
            failed: Why that attempt failed, which is not logged again.
        """
        name, version = files.model, files.version
        if not files.is_there():
            return _Reading(version, 0, "")
        fingerprint = files.fingerprint()
        if fingerprint == known:
            return _Reading(version, fingerprint, None)
        try:
            loaded = LoadedVersion.read(files, self._format)
            _log_unlisted(files)
        except InklingError as error:
            reason = error.message
            if reason != failed:
                _log.error("%s version %d is not served: %s", name, version, reason)
            is_final = not isinstance(error, ReadFailed)
            return _Reading(version, fingerprint if is_final else 0, reason)
        _log.info("%s version %d is available", name, version)
        return _Reading(version, fingerprint, loaded)


def _log_unlisted(files: VersionFiles) -> None:
    names = files.unlisted()
    if names:
        _log.info(
            "%s version %d holds files that its manifest does not list, which are not "
            "read: %.200s",
            *(files.model, files.version, ascii(names)),
        )


def _only(model: _Model, keep: set[int]) -> _Model:
    """Return the model with only the versions in `keep`."""
    return replace(
        model,
        loaded={k: v for k, v in model.loaded.items() if k in keep},
        fingerprints={k: v for k, v in model.fingerprints.items() if k in keep},
        failed={k: v for k, v in model.failed.items() if k in keep},
    )
