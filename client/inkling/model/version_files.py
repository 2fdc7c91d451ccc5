# SPDX-License-Identifier: Apache-2.0
"""The files of one published version, as its manifest lists them.

Only what the manifest lists matters. Other files and directories, such as `.DS_Store`,
`lost+found` or Kubernetes' `..data`, are never read. A listed file, the version's
directory and each directory in it may be links, as volumes and model stores make them
(KServe, DVC, Kubernetes' ConfigMaps, the cache of Hugging Face). A link is followed
wherever it leads, also into another volume: what it gives counts only if it is a
regular file with the SHA-256 in the manifest. Anything else is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from inkling.contract import Contract
from inkling.errors import BrokenVersion
from inkling.model.regular_files import fault, may_pass, read, sha256, state

__all__ = [
    "CONTRACT_FILE",
    "FORMATS",
    "GOLDEN_FILE",
    "MANIFEST_FILE",
    "MANIFEST_FORMAT",
    "METRICS_FILE",
    "ReadFailed",
    "VersionFiles",
    "json_object",
]

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = 1
CONTRACT_FILE = "assets.extra/contract.json"
GOLDEN_FILE = "golden.npz"
METRICS_FILE = "card/metrics.json"
FORMATS = ("float32", "float16", "int8")

_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
# LiteRT reads no model beyond 2 GiB.
_MAX_FILE_BYTES = 2 * 1024**3


class ReadFailed(BrokenVersion):
    """A file could not be read, for a reason that may pass without a change of it."""


@dataclass(frozen=True)
class VersionFiles:
    """The files of one version; its number is 0 before it is published."""

    model: str
    version: int
    path: Path

    def tflite(self, tflite_format: str) -> Path:
        """Return the path of the TFLite file in one of `FORMATS`."""
        return self.path / "tflite" / f"{tflite_format}.tflite"

    def offered(self, tflite_format: str) -> str:
        """Return the wanted TFLite format, or else the most exact one that is there.

        Only a model that Inkling did not design may lack a format.

        Raises:
            BrokenVersion: The version has no TFLite file, or cannot be read.
            InvalidContract: This version of Inkling does not support the contract.
        """
        listed = self.listed()
        wanted = f"tflite/{tflite_format}.tflite"
        if wanted in listed or self.contract().source is None:
            return tflite_format
        for name in FORMATS:
            if f"tflite/{name}.tflite" in listed:
                return name
        raise BrokenVersion(
            "The version has no TFLite file, because LiteRT lacks operations of the "
            "model, which its card names. Serve it with --engine tensorflow_serving."
        )

    def is_there(self) -> bool:
        """Return whether the version is published: whether it has a manifest.

        A manifest that cannot be read counts, because the version then has a reason
        for not being served.
        """
        path = self.path / MANIFEST_FILE
        try:
            return not stat.S_ISDIR(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return path.is_symlink()
        except OSError:
            return True

    def listed(self) -> Mapping[str, str]:
        """Return the SHA-256 of each file by its name, as the manifest lists them.

        Raises:
            BrokenVersion: The manifest cannot be read, or a name leads out of the
                version's directory.
        """
        content = self._read(MANIFEST_FILE, _MAX_MANIFEST_BYTES)
        manifest = json_object(content, MANIFEST_FILE)
        listed = manifest.get("files")
        if manifest.get("format") != MANIFEST_FORMAT or not isinstance(listed, dict):
            raise BrokenVersion(
                f"{MANIFEST_FILE} does not have format {MANIFEST_FORMAT}, or does not "
                "list the files. Publish the version again."
            )
        wrong = [name for name in listed if not _is_inside(name)]
        if wrong or not listed:
            raise BrokenVersion(
                f"{MANIFEST_FILE} lists {wrong[0][:80] if wrong else 'no file'}; "
                "expected files inside the version. Publish the version again."
            )
        return listed

    def content(self, name: str) -> bytes:
        """Return the content of a listed file, checked against the manifest.

        Raises:
            BrokenVersion: The file is not listed, cannot be read, or differs from the
                published one.
        """
        digest = self.listed().get(name)
        if digest is None:
            raise BrokenVersion(
                f"{name} is missing in {MANIFEST_FILE}. Publish the version again."
            )
        content = self._read(name, _MAX_FILE_BYTES)
        if hashlib.sha256(content).hexdigest() != digest:
            raise _differs(name)
        return content

    def contract(self) -> Contract:
        """Return the contract of the version.

        Raises:
            BrokenVersion: The file is missing or differs from the published one.
            InvalidContract: This version of Inkling does not support the contract.
        """
        return Contract.from_json(self.content(CONTRACT_FILE))

    def metrics(self) -> dict[str, object]:
        """Return the figures of the model card; empty if the version has no card.

        Raises:
            BrokenVersion: The file is not a JSON object, or differs from the published
                one.
        """
        if METRICS_FILE not in self.listed():
            return {}
        return json_object(self.content(METRICS_FILE), METRICS_FILE)

    def accuracy(self, tflite_format: str) -> float | None:
        """Return the accuracy on the test set, 0 to 1; None if the card has none.

        Raises:
            BrokenVersion: As `metrics`.
        """
        accuracy = self.metrics().get("accuracy")
        value = accuracy.get(tflite_format) if isinstance(accuracy, dict) else None
        # JSON has no NaN, but Python's reader accepts one.
        return value if isinstance(value, float) and 0 <= value <= 1 else None

    def fingerprint(self) -> int:
        """Return a number that changes if a listed file is replaced or its owner is."""
        try:
            names = [MANIFEST_FILE, *self.listed()]
        except BrokenVersion:
            names = [MANIFEST_FILE]
        return hash(tuple((name, *state(self.path / name)) for name in names))

    def unlisted(self) -> list[str]:
        """Return the names beside listed files that the manifest does not list, sorted.

        Raises:
            BrokenVersion: As `listed`.
        """
        known = {MANIFEST_FILE}
        for name in self.listed():
            known |= {name, *map(str, PurePosixPath(name).parents)}
        # The root of a relative path is the path ".".
        folders = {str(PurePosixPath(name).parent) for name in known - {"."}}
        found = {
            name if folder == "." else f"{folder}/{name}"
            for folder in folders
            for name in _names(self.path / folder)
        }
        return sorted(found - known)

    def verify(self) -> None:
        """Check every listed file against the manifest.

        Raises:
            BrokenVersion: A file is missing, changed, or not a regular file.
        """
        for name, digest in self.listed().items():
            try:
                found = sha256(self.path / name)
            except (OSError, ValueError) as error:
                raise self._unreadable(name, error) from None
            if found != digest:
                raise _differs(name)

    def _read(self, name: str, max_bytes: int) -> bytes:
        try:
            return read(self.path / name, max_bytes)
        except (OSError, ValueError) as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: Exception) -> BrokenVersion:
        kind = ReadFailed if may_pass(error) else BrokenVersion
        why = fault(self.path / name, error)
        return kind(f"{name:.200} {why}. Repair it, or publish the version again.")


def json_object(text: bytes, name: str) -> dict[str, object]:
    """Return the JSON object in a file.

    Raises:
        BrokenVersion: The text is something else.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BrokenVersion(
            f"{name} does not hold a JSON object. Publish the version again."
        )
    return value


def _differs(name: str) -> BrokenVersion:
    return BrokenVersion(
        f"{name:.200} differs from the published file (by its SHA-256). Publish the "
        "version again."
    )


def _is_inside(name: str) -> bool:
    """Return whether a name in a manifest stays inside the version's directory."""
    native = Path(name)
    is_plain = all(part not in ("", ".", "..") for part in name.split("/"))
    return is_plain and not native.is_absolute() and not native.drive


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
