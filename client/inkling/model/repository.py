"""The model repository: a directory of models, their versions and version labels.

A version appears complete, by one rename, with a manifest that lists the SHA-256 of
each of its files. TensorFlow Serving reads the same directory: like Inkling, it ignores
directories whose name is not a number.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from inkling.contract import Contract
from inkling.errors import BrokenVersion, InvalidRequest, ModelNotFound

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

MANIFEST_FILE = "manifest.json"
CONTRACT_FILE = "assets.extra/contract.json"
GOLDEN_FILE = "golden.npz"
METRICS_FILE = "card/metrics.json"
LABELS_FILE = "labels.json"
FORMATS = ("float32", "float16", "int8")

_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Leading zeros are refused: `7` and `0007` would be one version under two names.
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_MANIFEST_FORMAT = 1
_STAGING = ".staging-"
_STAGING_MAX_AGE_S = 3600.0


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


@dataclass(frozen=True)
class VersionFiles:
    """The files of one version; its number is 0 before it is published."""

    model: str
    version: int
    path: Path

    def tflite(self, tflite_format: str) -> Path:
        """Return the path of the TFLite file in one of `FORMATS`."""
        return self.path / "tflite" / f"{tflite_format}.tflite"

    def contract(self) -> Contract:
        """Return the contract of the version.

        Raises:
            BrokenVersion: The file is missing.
            InvalidContract: This version of Inkling does not support the contract.
        """
        return Contract.from_json(self._read(CONTRACT_FILE))

    def metrics(self) -> dict[str, object]:
        """Return the figures of the model card; empty if the version has no card.

        Raises:
            BrokenVersion: The file is not a JSON object.
        """
        if not (self.path / METRICS_FILE).exists():
            return {}
        return _object(self._read(METRICS_FILE), METRICS_FILE)

    def accuracy(self, tflite_format: str) -> float | None:
        """Return the accuracy on the test set, 0 to 1; None if the card has none.

        Raises:
            BrokenVersion: The file of the figures is not a JSON object.
        """
        accuracy = self.metrics().get("accuracy")
        value = accuracy.get(tflite_format) if isinstance(accuracy, dict) else None
        return value if isinstance(value, float) else None

    def fingerprint(self) -> int:
        """Return a number that changes if a file is changed, added or removed."""
        known = []
        for folder, _, names in os.walk(self.path):
            for name in names:
                with suppress(OSError):
                    found = os.lstat(os.path.join(folder, name))
                    what = (found.st_mtime_ns, found.st_size, found.st_ino)
                    known.append((folder, name, *what))
        return hash(tuple(sorted(known)))

    def verify(self) -> None:
        """Check every file of the version against the manifest.

        Raises:
            BrokenVersion: A file is missing, changed, unlisted or a link.
        """
        if self.path.is_symlink():
            raise BrokenVersion(
                "The version's directory is a link; expected a directory. Copy the "
                "directory instead of linking to it."
            )
        manifest = _object(self._read(MANIFEST_FILE), MANIFEST_FILE)
        listed = manifest.get("files")
        if manifest.get("format") != _MANIFEST_FORMAT or not isinstance(listed, dict):
            raise BrokenVersion(
                f"{MANIFEST_FILE} does not have format {_MANIFEST_FORMAT}, or does not "
                "list the files. Publish the version again."
            )
        found = set(_files(self.path)) - {MANIFEST_FILE}
        odd = sorted(found.symmetric_difference(listed))
        if odd:
            raise BrokenVersion(
                f"The directory and {MANIFEST_FILE} disagree about "
                f"{', '.join(odd)[:200]}. Publish the version again."
            )
        for name, digest in listed.items():
            if _sha256(self.path / name) != digest:
                raise BrokenVersion(
                    f"{name} differs from the published file (by its SHA-256). Publish "
                    "the version again."
                )

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError:
            raise BrokenVersion(
                f"{name} is missing or cannot be read. Publish the version again."
            ) from None


class Repository:
    """A directory of models; every method reads the directory again."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def models(self) -> list[str]:
        """Return the names of the models, sorted, with those that have no version."""
        return sorted(
            entry.name
            for entry in _entries(self.root)
            if _MODEL_NAME.fullmatch(entry.name) and entry.is_dir()
        )

    def versions(self, model: str) -> list[int]:
        """Return the numbers of a model's published versions, newest first.

        A directory without a manifest is left out, because it may still be copied.

        Raises:
            InvalidRequest: The model's name is invalid.
        """
        entries = _entries(self.root / check_model_name(model))
        numbers = [
            int(entry.name)
            for entry in entries
            if _VERSION.fullmatch(entry.name)
            and os.path.isfile(os.path.join(entry.path, MANIFEST_FILE))
        ]
        return sorted(numbers, reverse=True)

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
            labels = _object(path.read_bytes(), LABELS_FILE)
        except FileNotFoundError:
            return {}
        except OSError:
            raise BrokenVersion(
                f"{LABELS_FILE} cannot be read. Make the file readable."
            ) from None
        if not all(type(version) is int for version in labels.values()):
            raise BrokenVersion(
                f"{LABELS_FILE} maps a label to something else than a number; expected "
                'version numbers, such as {"stable": 3}.'
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
        directory = self.root / check_model_name(model)
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=directory))
        staging.chmod(0o755)
        try:
            yield Publication(self, model, staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@dataclass(frozen=True)
class Publication:
    """A version before it appears; `path` is its staging directory."""

    repository: Repository
    model: str
    path: Path

    def seal(self) -> VersionFiles:
        """Write the manifest and return the files, so that they can be checked."""
        _write_manifest(self.path)
        return VersionFiles(self.model, 0, self.path)

    def commit(self) -> VersionFiles:
        """Make the version appear under the next number, and return its files.

        If two publishers commit at once, the second rename fails, because its target is
        a directory with files; that publisher then takes the number after it.

        Raises:
            InvalidRequest: The largest version number is in use.
        """
        self.seal()
        _fsync_all(self.path)
        parent = self.path.parent
        while True:
            version = _next_version(parent)
            files = self.repository.files(self.model, version)
            try:
                self.path.rename(files.path)
            except OSError:
                if not files.path.exists():
                    raise
                continue
            _fsync(parent)
            return files


def _next_version(directory: Path) -> int:
    """Return the largest number in use plus 1; withdrawn versions (`7.denied`) count.

    A time stamp would not do: if the clock jumped, an old version could get the highest
    number.
    """
    numbers = [0]
    for entry in _entries(directory):
        stem = entry.name.partition(".")[0]
        if _VERSION.fullmatch(stem):
            numbers.append(int(stem))
    version = max(numbers) + 1
    if not _VERSION.fullmatch(str(version)):
        raise InvalidRequest(
            f"Version {version - 1} has the largest possible number; remove or rename "
            "that version."
        )
    return version


def _write_manifest(directory: Path) -> None:
    names = sorted(set(_files(directory)) - {MANIFEST_FILE})
    manifest = {
        "format": _MANIFEST_FORMAT,
        "files": {name: _sha256(directory / name) for name in names},
    }
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    (directory / MANIFEST_FILE).write_text(text, encoding="utf-8")


def _fsync_all(directory: Path) -> None:
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            _fsync(Path(folder, name))
        _fsync(Path(folder))


def _files(directory: Path) -> Iterator[str]:
    """Yield the relative paths of all files below a directory, with `/` in them.

    Raises:
        BrokenVersion: The directory holds a link, which could lead out of it, or an
            entry that is neither a file nor a directory, such as a pipe.
    """
    for folder, folders, names in os.walk(directory):
        for name in [*folders, *names]:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise BrokenVersion(
                    f"{name} is not a regular file; expected files and directories "
                    "without links. Publish the version again."
                )
            if name in names:
                yield path.relative_to(directory).as_posix()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _object(text: bytes, name: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BrokenVersion(
            f"{name} does not hold a JSON object. Publish the version again."
        )
    return value


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []


def _sweep(directory: Path) -> None:
    """Remove the staging directories of killed publishers after an hour."""
    for entry in _entries(directory):
        if not entry.name.startswith(_STAGING):
            continue
        with suppress(FileNotFoundError):  # another publisher has renamed it by now
            age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
            if age_s > _STAGING_MAX_AGE_S:
                shutil.rmtree(entry.path, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
