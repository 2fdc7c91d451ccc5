# SPDX-License-Identifier: Apache-2.0
"""The model repository: a directory of models, their versions and version labels.

A version appears complete, by one rename, with a manifest that lists the SHA-256 of
each of its files. TensorFlow Serving reads the same directory: like Inkling, it ignores
directories whose name is not a number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inkling.errors import InvalidRequest, ModelNotFound
from inkling.model.assignment import Rule
from inkling.model.publication import VERSION, Publication, entries, publication
from inkling.model.version_files import (
    CONTRACT_FILE,
    FORMATS,
    GOLDEN_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    VersionFiles,
)
from inkling.model.version_labels import STABLE, Move, VersionLabels, default_version

__all__ = [
    "CONTRACT_FILE",
    "FORMATS",
    "GOLDEN_FILE",
    "MANIFEST_FILE",
    "METRICS_FILE",
    "Publication",
    "Repository",
    "VersionFiles",
    "check_model_name",
]

_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_model_name(name: str) -> str:
    """Return `name` if it is a valid model name, which is safe as part of a path.

    Raises:
        InvalidRequest: The name is empty, is too long or has other characters.
    """
    if not _MODEL_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name!r:.80} is not a valid model name; expected 1 to 64 characters "
            'from a-z, 0-9, ".", "_" and "-", with a letter or a digit first.'
        )
    return name


class Repository:
    """A directory of models; every method reads the directory again.

    Attributes:
        root: The directory.
        only: The name of the only model, whose versions are in the directory itself;
            empty where each model has a directory of its own.
    """

    def __init__(self, root: Path | str, only: str = "") -> None:
        """Take the directory, and the name of its only model if it is one's.

        Raises:
            InvalidRequest: The model's name is invalid.
        """
        self.root = Path(root)
        self.only = check_model_name(only) if only else ""

    def folder(self, model: str) -> Path:
        """Return the directory of a model, which need not exist.

        Raises:
            InvalidRequest: The model's name is invalid.
            ModelNotFound: The directory is that of another model.
        """
        if self.only and model != self.only:
            raise ModelNotFound(f"{self.root} has the versions of {self.only} alone.")
        return self.root if self.only else self.root / check_model_name(model)

    def models(self) -> list[str]:
        """Return the names of the models, sorted, with those that have no version."""
        if self.only:
            return [self.only]
        return sorted(
            entry.name
            for entry in entries(self.root)
            if _MODEL_NAME.fullmatch(entry.name)
            # To follow a link may take for ever, where its volume does not answer.
            and (entry.is_symlink() or entry.is_dir())
        )

    def numbers(self, model: str) -> list[int]:
        """Return the numbers among a model's directories, newest first.

        Nothing inside them is looked at, so that one on a volume that does not answer
        does not hide the others; `VersionFiles.is_there` says which are published.

        Raises:
            InvalidRequest: The model's name is invalid.
        """
        found = entries(self.folder(model))
        numbers = [int(one.name) for one in found if VERSION.fullmatch(one.name)]
        return sorted(numbers, reverse=True)

    def versions(self, model: str) -> list[int]:
        """Return the numbers of a model's published versions, newest first.

        A directory without a manifest is left out, because it may still be copied.

        Raises:
            InvalidRequest: The model's name is invalid.
        """
        numbers = self.numbers(model)
        return [one for one in numbers if self.files(model, one).is_there()]

    def files(self, model: str, version: int) -> VersionFiles:
        """Return the files of a version, which need not exist.

        Raises:
            InvalidRequest: The model's name is invalid.
        """
        path = self.folder(model) / str(version)
        return VersionFiles(model, version, path)

    def newest(self, model: str) -> VersionFiles:
        """Return the files of the newest version.

        Raises:
            InvalidRequest: The model's name is invalid.
            ModelNotFound: The model has no version.
        """
        versions = self.versions(model)
        if not versions:
            raise ModelNotFound(
                f'The model "{model}" has no published version. Train one with: '
                f"inkling train {model}"
            )
        return self.files(model, versions[0])

    def default(self, model: str) -> VersionFiles:
        """Return the files of the version that answers if a request names none.

        Raises:
            BrokenVersion: The version labels cannot be read.
            InvalidRequest: The model's name is invalid.
            ModelNotFound: The model has no version, or not the one with that label.
        """
        version = default_version(self.version_labels(model), None)
        if version is None:
            return self.newest(model)
        files = self.files(model, version)
        if not files.is_there():
            raise ModelNotFound(
                f'The label {STABLE} of the model "{model}" names version {version}, '
                f"which is not there. Move it with: inkling promote {model} VERSION"
            )
        return files

    def labels(self, model: str) -> VersionLabels:
        """Return the version labels of a model, with the log of their moves.

        Raises:
            InvalidRequest: The model's name is invalid.
        """
        return VersionLabels(self.folder(model))

    def version_labels(self, model: str) -> dict[str, int]:
        """Return the version labels, such as `stable`, and the number of each version.

        Raises:
            BrokenVersion: The file of the labels cannot be read.
            InvalidRequest: The model's name is invalid.
        """
        return self.labels(model).read()

    @contextmanager
    def publishing(
        self, model: str, *, publish_only: bool = False
    ) -> Iterator[Publication]:
        """Write a new version: the caller fills `path`, then calls `commit()`.

        With `publish_only`, requests that name no version go on to get the version that
        they get now: it gets the label `stable`, if no version has it.

        Without `commit()`, the files are deleted. The staging directory is beside the
        versions, because a rename needs the same file system; readers ignore it.

        Raises:
            InvalidRequest: The model's name is invalid.
        """

        def hold() -> None:
            versions = self.versions(model)
            if publish_only and versions and STABLE not in self.version_labels(model):
                self.labels(model).move(STABLE, versions[0], versions[0], "publish")

        directory = self.folder(model)
        with publication(model, directory, hold) as found:
            yield found

    def roll_back(
        self, model: str, label: str = STABLE, who: str | None = None
    ) -> Move:
        """Let a label name the version that it named before; see `VersionLabels`.

        Raises:
            InvalidRequest: There is no such version, the name is invalid, or its
                directory cannot be written.
            BrokenVersion: The version labels cannot be read.
        """
        return self.labels(model).roll_back(label, self.versions(model), who)

    def take_away(
        self, model: str, label: str = STABLE, who: str | None = None
    ) -> Move:
        """Take a label away; without `stable`, the newest version answers.

        Raises:
            InvalidRequest: No version has the label, the name is invalid, or its
                directory cannot be written.
            BrokenVersion: The version labels cannot be read.
        """
        if label not in self.version_labels(model):
            raise InvalidRequest(
                f'No version of the model "{model}" has the label {label!r:.80}.'
            )
        return self.labels(model).move(label, None, None, "promote", who)

    def promote(
        self,
        model: str,
        version: int,
        label: str = STABLE,
        who: str | None = None,
        share: float | None = None,
        rule: Rule | None = None,
    ) -> Move:
        """Let a label name a version, after its files were checked.

        With a share, `canary` gets so many percent of the requests without a version;
        without one, it keeps the share that it has. A rule says when the version is
        promoted or loses the label.

        Raises:
            BrokenVersion: The files differ from the published ones, or the version
                labels cannot be read.
            ModelNotFound: The model has no such version.
            InvalidRequest: The label or the name is invalid, or the model's directory
                cannot be written.
        """
        self.published(model, version).verify()
        newest, labels = self.versions(model)[0], self.labels(model)
        return labels.move(label, version, newest, "promote", who, share, rule)

    def published(self, model: str, version: int) -> VersionFiles:
        """Return the files of a version that is published.

        Raises:
            ModelNotFound: The model has no such version.
            InvalidRequest: The model's name is invalid.
        """
        versions = self.versions(model)
        if version not in versions:
            shown = ", ".join(map(str, versions)) or "none"
            raise ModelNotFound(
                f'The model "{model}" has no version {version}; it has: {shown}.'
            )
        return self.files(model, version)
