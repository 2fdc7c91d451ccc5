# SPDX-License-Identifier: Apache-2.0
"""Looks at a model's files before any library opens them.

A file from somebody else may be truncated, may unpack to far more than it seems, or may
carry code. Each is found here by reading, so that a library never gets such a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from inkling.model.regular_files import sha256
from inkling_training.sources.source import UnusableModel

__all__ = [
    "MAX_BYTES",
    "check_code",
    "digest_of",
    "is_unknown",
    "keras_archive",
    "objects",
]

# LiteRT and protobuf read no model beyond 2 GiB.
MAX_BYTES = 2 * 1024**3
_MAX_CONFIG_BYTES = 64 * 1024**2
_MAX_FILES = 10_000
_CODE = ("Lambda", "__lambda__")
# What an archive may hold, such as one of Teachable Machine's.
_MODELS = (".keras", ".h5", ".tflite", "saved_model.pb")


def digest_of(path: Path) -> str:
    """Return `sha256:` and the SHA-256 of a file, or of all files of a folder.

    Raises:
        UnusableModel: The files are missing, special, or larger than `MAX_BYTES`.
    """
    try:
        if path.is_dir():
            return _digest_of_folder(path)
        _check_regular(path, path.stat())
        return f"sha256:{sha256(path)}"
    except OSError:
        raise UnusableModel(
            f"{path} cannot be read; expected a .keras, .h5 or .tflite file, or the "
            "directory of a SavedModel."
        ) from None


def _digest_of_folder(path: Path) -> str:
    files = sorted(_files(path))
    if len(files) > _MAX_FILES:
        raise UnusableModel(
            f"{path} holds more than {_MAX_FILES:,} files; give the directory of one "
            "SavedModel, which holds saved_model.pb."
        )
    total, digest = 0, hashlib.sha256()
    for file in files:
        found = file.stat()
        _check_regular(file, found)
        total += found.st_size
        _check_size(path, total)
        name = file.relative_to(path).as_posix()
        digest.update(f"{sha256(file)}  {name}\n".encode(errors="surrogateescape"))
    return f"sha256:{digest.hexdigest()}"


def _files(path: Path) -> Iterator[Path]:
    for count, (folder, _, names) in enumerate(os.walk(path)):
        yield from (Path(folder, name) for name in names)
        if count > _MAX_FILES:
            return


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnusableModel(f"{path} is not a regular file; give a model's file.")
    if not found.st_size:
        raise UnusableModel(f"{path} is empty; save or copy the model again.")
    _check_size(path, found.st_size)


def _check_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise UnusableModel(
            f"{path} has {size:,} bytes or more; the limit is {MAX_BYTES:,}, which is "
            "that of TFLite files."
        )


def _check_unpacked(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise UnusableModel(
            f"{name} unpacks to {size:,} bytes; the limit is {limit:,}. The file was "
            "refused unopened."
        )


def keras_archive(path: Path) -> tuple[dict[str, Any], str]:
    """Return the configuration in a `.keras` file, and the version that wrote it.

    Raises:
        UnusableModel: The archive is damaged, unpacks to too much, or has none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename: member.file_size for member in archive.infolist()}
            _check_unpacked(path.name, sum(sizes.values()), MAX_BYTES)
            config_name = f"The config.json in {path.name}"
            _check_unpacked(config_name, sizes.get("config.json", 0), _MAX_CONFIG_BYTES)
            if "config.json" not in sizes:
                raise UnusableModel(_no_keras_file(path.name, sizes))
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
            config = json.loads(archive.read("config.json"))
            about = {}
            if 0 < sizes.get("metadata.json", 0) <= _MAX_CONFIG_BYTES:
                about = json.loads(archive.read("metadata.json"))
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, RecursionError):
        config = None
    except (EOFError, NotImplementedError, RuntimeError):
        config = None
    if not isinstance(config, dict):
        raise UnusableModel(
            f"{path.name} is damaged: its archive or its configuration cannot be "
            "read. Copy or save the model again."
        )
    version = about.get("keras_version") if isinstance(about, dict) else None
    return config, str(version or "3.")


def _no_keras_file(name: str, members: Iterable[str]) -> str:
    inside = next((one for one in members if one.endswith(_MODELS)), None)
    if inside is not None:
        return (
            f"{name} is an archive that holds {inside:.100}; unpack it, and give that "
            "file, or the directory of the saved_model.pb."
        )
    return (
        f"{name} is an archive without config.json, so no .keras file. Save the model "
        "with model.save('model.keras')."
    )


def objects(config: object) -> Iterator[dict[str, Any]]:
    """Yield every object with a class in a Keras configuration, at any depth."""
    waiting = [config]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            if isinstance(found.get("class_name"), str):
                yield found
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def check_code(name: str, config: object, *, trust: bool) -> None:
    """Check that a Keras configuration carries no code.

    Raises:
        UnusableModel: It does, and the caller does not trust it.
    """
    if trust:
        return
    for found in objects(config):
        if found["class_name"] in _CODE:
            raise UnusableModel(
                f"{name} carries Python code (a Lambda layer), which would run on this "
                "machine. Give --trust if you know its author, or replace the layer "
                "by keras.ops and save the model again."
            )


def is_unknown(found: dict[str, Any], known: frozenset[str]) -> bool:
    """Return whether a configuration names a class that Keras itself does not have.

    Args:
        found: One of `objects`.
        known: The names of Keras's own classes.
    """
    module = found.get("module", "keras")
    if str(module).partition(".")[0] not in ("keras", "builtins"):
        return True
    return "module" not in found and found["class_name"] not in known
