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

from inkling.errors import BrokenVersion, InvalidRequest, ModelNotFound
from inkling.labels import is_text
from inkling.model.publication import VERSION, Publication, entries, publication
from inkling.model.regular_files import fault, read
from inkling.model.version_files import (
    CONTRACT_FILE,
    FORMATS,
    GOLDEN_FILE,
    MANIFEST_FILE,
    METRICS_FILE,
    VersionFiles,
    json_object,
)

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

LABELS_FILE = "labels.json"

_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MAX_LABELS_BYTES = 1024 * 1024


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
    """A directory of models; every method reads the directory again."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def models(self) -> list[str]:
        """Return the names of the models, sorted, with those that have no version."""
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
        found = entries(self.root / check_model_name(model))
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
        path = self.root / check_model_name(model) / str(version)
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

    def version_labels(self, model: str) -> dict[str, int]:
        """Return the version labels, such as `stable`, and the number of each version.

        Raises:
            BrokenVersion: The file of the labels cannot be read.
            InvalidRequest: The model's name is invalid.
        """
        path = self.root / check_model_name(model) / LABELS_FILE
        try:
            labels = json_object(read(path, _MAX_LABELS_BYTES), LABELS_FILE)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not path.is_symlink():
                return {}
            raise BrokenVersion(f"{LABELS_FILE} {fault(path, error)}.") from None
        for name, version in labels.items():
            if not (type(version) is int and VERSION.fullmatch(str(version))):
                raise BrokenVersion(
                    f"{LABELS_FILE} maps {name!r:.80} to something else than a version "
                    'number; expected an object such as {"stable": 3}.'
                )
            if not is_text(name):
                raise BrokenVersion(
                    f"{LABELS_FILE} has the label {name!r:.80}, which is not Unicode "
                    "text. Rename the label."
                )
        return {name: int(str(version)) for name, version in labels.items()}

    @contextmanager
    def publishing(self, model: str) -> Iterator[Publication]:
        """Write a new version: the caller fills `path`, then calls `commit()`.

        Without `commit()`, the files are deleted. The staging directory is beside the
        versions, because a rename needs the same file system; readers ignore it.

        Raises:
            InvalidRequest: The model's name is invalid.
        """
        with publication(model, self.root / check_model_name(model)) as found:
            yield found
