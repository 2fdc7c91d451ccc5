# SPDX-License-Identifier: Apache-2.0
"""Moves version labels for callers over the network, who need a key for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inkling.errors import ModelNotFound, PermissionDenied
from inkling.model.repository import Repository, check_model_name
from inkling.model.version_labels import STABLE

if TYPE_CHECKING:
    from pathlib import Path

    from inkling.model.assignment import Assignment
    from inkling.model.version_labels import Move
    from inkling_serving.keys import Key

__all__ = ["Admin"]

_MOVES_TOLD = 100


class Admin:
    """Reads and moves the version labels of a repository.

    Each method takes the key of the request, which has the role `admin`. None stands
    for a gateway without keys, where everybody could move labels: it is refused with
    `PermissionDenied`.
    """

    def __init__(self, models_dir: Path, only: str = "") -> None:
        """Take the directory of the repository, and the name of its only model."""
        self._repository = Repository(models_dir, only)

    def labels(self, key: Key | None, model: str) -> dict[str, Assignment]:
        """Return the labels of a model, with their versions and shares.

        Raises:
            PermissionDenied: There is no key.
            ModelNotFound: The repository does not have the model.
            BrokenVersion: The labels cannot be read.
        """
        self._check(key, model)
        return self._repository.labels(model).assignments()

    def moves(self, key: Key | None, model: str) -> list[Move]:
        """Return the last moves of a model's labels, the newest first.

        Raises:
            PermissionDenied: There is no key.
            ModelNotFound: The repository does not have the model.
        """
        self._check(key, model)
        return self._repository.labels(model).moves()[: -_MOVES_TOLD - 1 : -1]

    def promote(
        self,
        key: Key | None,
        model: str,
        version: int | None,
        label: str | None = None,
        share: float | None = None,
    ) -> Move:
        """Let a label name a version; without a version, take the label away.

        Without a share, the label keeps the share that it has.

        Raises:
            PermissionDenied: There is no key.
            InklingError: As `Repository.promote` and `Repository.take_away`.
        """
        who, label = self._check(key, model), label or STABLE
        if version is None:
            return self._repository.take_away(model, label, who)
        return self._repository.promote(model, version, label, who, share)

    def roll_back(self, key: Key | None, model: str, label: str | None) -> Move:
        """Let a label name the version that it named before.

        Raises:
            PermissionDenied: There is no key.
            InklingError: As `Repository.roll_back`.
        """
        who = self._check(key, model)
        return self._repository.roll_back(model, label or STABLE, who)

    def _check(self, key: Key | None, model: str) -> str:
        """Return the name for the log of the holder of the key."""
        if key is None:
            raise PermissionDenied(
                "Version labels are moved over the network only with an API key of the "
                "role admin, and this gateway has no keys. Start it with "
                "--api-key-file, or run inkling promote where the models are."
            )
        models = self._repository.models()
        if check_model_name(model) not in models:
            shown = ", ".join(models) or "none"
            raise ModelNotFound(
                f'The gateway\'s --models-dir does not have the model "{model}"; it '
                f"has: {shown}."
            )
        return key.name
