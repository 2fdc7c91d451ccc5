# SPDX-License-Identifier: Apache-2.0
"""Says what a models directory holds in place of models that can be served."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from inkling.model.repository import MANIFEST_FILE, Repository

__all__ = ["survey"]

_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_IN_NAME = re.compile(r"[^a-z0-9._-]+")
# What systems leave in every directory, and what publishers keep beside the versions.
_NO_MODELS = ("lost+found", "__pycache__", "runs", "tmp")
_MOST = 5


def survey(root: Path, only: str = "") -> list[str]:
    """Return a sentence for each thing that keeps a directory of models from being one.

    The list is empty for a repository in which every entry is as it should be. `only`
    is the name of the model whose directory `root` is, if it is one's.
    """
    try:
        folders = _folders(root)
    except FileNotFoundError:
        return [f"The models directory {root} does not exist."]
    except NotADirectoryError:
        return [f"{root} is a file; expected the directory of the models."]
    except OSError as error:
        return [f"The models directory {root} cannot be read: {error.strerror}."]
    has_version = any(_is_version(folder) for folder in folders)
    if only:
        return [] if has_version else [f"{root} has no version of the model {only}."]
    return _in_repository(root, folders, has_version)


def _in_repository(root: Path, folders: list[Path], has_version: bool) -> list[str]:
    if (root / MANIFEST_FILE).is_file():
        shown = root.absolute().parent.parent
        return [f"{root} is one version of a model; set --models-dir {shown}."]
    if has_version:
        shown = root.absolute().parent
        return [
            f"{root} is the directory of one model; set --models-dir {shown}, or name "
            "the model with --model-name."
        ]
    found = [remark for folder in folders for remark in _about(root, folder)]
    if not folders:
        found = [f"The models directory {root} is empty."]
    if len(found) > _MOST:
        found = [*found[:_MOST], f"There are {len(found) - _MOST} more such entries."]
    return found


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return sorted(
            root / entry.name
            for entry in entries
            if entry.is_dir()
            and not entry.name.startswith((".", "_"))
            and entry.name not in _NO_MODELS
        )


def _is_version(folder: Path) -> bool:
    return bool(_NUMBER.fullmatch(folder.name)) and (folder / MANIFEST_FILE).is_file()


def _about(root: Path, folder: Path) -> Iterator[str]:
    """Yield what is wrong with the directory of one model."""
    name = folder.name
    if name not in Repository(root).models():
        better = _IN_NAME.sub("-", name.lower()).strip("-._")[:64] or "model"
        yield (
            f"{folder} is not served, because {name!r:.80} is no name of a model: "
            'expected up to 64 characters from a-z, 0-9, ".", "_" and "-". '
            f"Rename it, for example to {better}."
        )
        return
    try:
        inner = _folders(folder)
    except OSError as error:
        yield f"{folder} cannot be read: {error.strerror}."
        return
    versions = [one for one in inner if _is_version(one)]
    if not versions and any(
        _is_version(one) for middle in inner for one in _readable(middle)
    ):
        yield f"{folder} holds models itself; set --models-dir {folder}."
    elif not versions and not inner:
        yield f"{folder} has no version."
    else:
        yield from filter(None, map(_about_version, inner))


def _about_version(folder: Path) -> str:
    if _is_version(folder):
        return ""
    if _NUMBER.fullmatch(folder.name):
        return (
            f"{folder} is not served, because it has no {MANIFEST_FILE}: it is still "
            "being copied, or Inkling has not published it."
        )
    if folder.name.partition(".")[0].isdecimal() and not folder.name.isdecimal():
        return ""  # a version that was withdrawn, such as 7.denied
    digits = re.sub(r"\D", "", folder.name).lstrip("0")
    return (
        f"{folder} is not served, because {folder.name!r:.80} is no version: expected "
        f"a whole number without leading zeros. Rename it, for example to "
        f"{digits or 1}."
    )


def _readable(folder: Path) -> list[Path]:
    try:
        return _folders(folder)
    except OSError:
        return []
