"""The model repository: a directory of models, their versions and version labels.

A version appears by one rename, complete, with a manifest of the sha256 of each of
its files. TensorFlow Serving reads the same directory as it is: it takes only
directories whose name is a number, and so do we.
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
# No leading zeros: `7` and `0007` would be one version under two names.
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_MANIFEST_FORMAT = 1
_STAGING = ".staging-"
_STAGING_MAX_AGE_S = 3600.0


def check_model_name(name: str) -> str:
    """Return `name` if it can be a model's; it is safe to join to a path then.

    Raises:
        InvalidRequest: It has other characters, or is too long.
    """
    if not _MODEL_NAME.fullmatch(name):
        raise InvalidRequest(
            "A model name has 1 to 64 characters: a-z, 0-9, and after the first also "
            '".", "_" and "-".'
        )
    return name


@dataclass(frozen=True)
class VersionFiles:
    """The files of one published version of a model."""

    model: str
    version: int
    path: Path

    def tflite(self, tflite_format: str) -> Path:
        """Path of the TFLite file in one of `FORMATS`."""
        return self.path / "tflite" / f"{tflite_format}.tflite"

    def contract(self) -> Contract:
        """Read the contract.

        Raises:
            BrokenVersion: There is none.
            InvalidContract: It cannot be read.
        """
        return Contract.from_json(self._read(CONTRACT_FILE))

    def metrics(self) -> dict[str, object]:
        """Read the figures of the model card; empty where there is none."""
        if not (self.path / METRICS_FILE).exists():
            return {}
        return _object(self._read(METRICS_FILE), METRICS_FILE)

    def accuracy(self, tflite_format: str) -> float | None:
        """Share of right answers on the test set; None where the card has none."""
        accuracy = self.metrics().get("accuracy")
        value = accuracy.get(tflite_format) if isinstance(accuracy, dict) else None
        return value if isinstance(value, float) else None

    def fingerprint(self) -> int:
        """What changes when any file of the version does, or one joins it."""
        known = []
        for folder, _, names in os.walk(self.path):
            for name in names:
                with suppress(OSError):
                    found = os.lstat(os.path.join(folder, name))
                    what = (found.st_mtime_ns, found.st_size, found.st_ino)
                    known.append((folder, name, *what))
        return hash(tuple(sorted(known)))

    def verify(self) -> None:
        """Check every file against the manifest.

        Raises:
            BrokenVersion: A file is missing, changed, extra or a link.
        """
        if self.path.is_symlink():
            raise BrokenVersion("The version is a link; it must be a folder.")
        manifest = _object(self._read(MANIFEST_FILE), MANIFEST_FILE)
        listed = manifest.get("files")
        if manifest.get("format") != _MANIFEST_FORMAT or not isinstance(listed, dict):
            raise BrokenVersion(
                f"{MANIFEST_FILE} is not of format {_MANIFEST_FORMAT}, or lists no "
                "files. Publish the version again."
            )
        found = set(_files(self.path)) - {MANIFEST_FILE}
        odd = sorted(found.symmetric_difference(listed))
        if odd:
            raise BrokenVersion(
                f"Files and {MANIFEST_FILE} disagree about {', '.join(odd)[:200]}. "
                "Publish the version again."
            )
        for name, digest in listed.items():
            if _sha256(self.path / name) != digest:
                raise BrokenVersion(
                    f"{name} is not the file that was published (its sha256 differs). "
                    "Publish the version again."
                )

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError:
            raise BrokenVersion(
                f"{name} is missing or cannot be read. Publish the version again."
            ) from None


class Repository:
    """A directory of models; every method reads the disk anew."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def models(self) -> list[str]:
        """Names of the models, sorted; one without a version counts too."""
        return sorted(
            entry.name
            for entry in _entries(self.root)
            if _MODEL_NAME.fullmatch(entry.name) and entry.is_dir()
        )

    def versions(self, model: str) -> list[int]:
        """Numbers of a model's published versions, newest first.

        A directory without a manifest is still being copied, and is not counted.
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
        """Where a version's files are, whether or not it exists."""
        path = self.root / check_model_name(model) / str(version)
        return VersionFiles(model, version, path)

    def newest(self, model: str) -> VersionFiles:
        """The files of the newest version.

        Raises:
            ModelNotFound: The model has no version.
        """
        versions = self.versions(model)
        if not versions:
            raise ModelNotFound(
                f'There is no version of the model "{model}". Train one with: '
                f"inkling train {model}"
            )
        return self.files(model, versions[0])

    def version_labels(self, model: str) -> dict[str, int]:
        """Version labels such as `stable`, with the versions that they stand for.

        Raises:
            BrokenVersion: The file of labels cannot be read.
        """
        path = self.root / check_model_name(model) / LABELS_FILE
        try:
            labels = _object(path.read_bytes(), LABELS_FILE)
        except FileNotFoundError:
            return {}
        except OSError:
            raise BrokenVersion(f"{LABELS_FILE} cannot be read.") from None
        if not all(type(version) is int for version in labels.values()):
            raise BrokenVersion(f"{LABELS_FILE} must map names to version numbers.")
        return {name: int(str(version)) for name, version in labels.items()}

    @contextmanager
    def publishing(self, model: str) -> Iterator[Publication]:
        """Write a new version: fill `.path`, then call `commit()`; else nothing stays.

        The staging directory is beside the versions, on the same file system, and
        no reader looks at it.
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
    """A version that is being written."""

    repository: Repository
    model: str
    path: Path

    def seal(self) -> VersionFiles:
        """Write the manifest; return the files, to check them before they appear."""
        _write_manifest(self.path)
        return VersionFiles(self.model, 0, self.path)

    def commit(self) -> VersionFiles:
        """Make the version appear, complete, under the next number.

        Of two publishers at once, one is renamed first and the other takes the
        number after it: a directory with files cannot be renamed onto.
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
    """One more than the largest number in use, withdrawn ones (`7.denied`) included.

    Never the time: a clock that jumped would give an old version the highest number.
    """
    numbers = [0]
    for entry in _entries(directory):
        stem = entry.name.partition(".")[0]
        if _VERSION.fullmatch(stem):
            numbers.append(int(stem))
    version = max(numbers) + 1
    if not _VERSION.fullmatch(str(version)):
        raise InvalidRequest(
            f"There is no version after {version - 1}; remove the one that has this "
            "number."
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
    """Names of all files below, with `/` between; anything but a file is refused.

    Raises:
        BrokenVersion: There is a link, which could lead out of the version, or a pipe.
    """
    for folder, folders, names in os.walk(directory):
        for name in [*folders, *names]:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise BrokenVersion(f"{name} is a link, or no file at all.")
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
        raise BrokenVersion(f"{name} is no JSON object. Publish the version again.")
    return value


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:
        return []


def _sweep(directory: Path) -> None:
    """Remove what a killed publisher left an hour ago or longer."""
    for entry in _entries(directory):
        if not entry.name.startswith(_STAGING):
            continue
        with suppress(FileNotFoundError):  # another publisher's, renamed meanwhile
            age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
            if age_s > _STAGING_MAX_AGE_S:
                shutil.rmtree(entry.path, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
