# SPDX-License-Identifier: Apache-2.0
"""Selects the version that answers a request, the same for every engine."""

from __future__ import annotations

import random
from collections.abc import Container, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar

from inkling.errors import NotReady
from inkling.model.assignment import CANARY
from inkling.model.version_labels import default_version
from inkling_serving.engines.base import no_such_label, not_served
from inkling_serving.engines.label_moves import Labels

__all__ = ["Wanted", "is_drawn", "selected"]

_T = TypeVar("_T")
_ALL = 100.0


@dataclass(frozen=True)
class Wanted:
    """What a request names; with nothing but a model, the default version answers.

    Attributes:
        model: The model's name.
        version: The version's number, or None.
        version_label: The version label, or None.
        caller: As in `Engine.select`.
    """

    model: str
    version: int | None = None
    version_label: str | None = None
    caller: str | None = None


def selected(
    wanted: Wanted,
    loaded: Mapping[int, _T],
    failed: Container[int],
    labels: Labels,
) -> _T:
    """Return the version that answers.

    Args:
        wanted: What the request names.
        loaded: The versions that can answer.
        failed: The versions that are there and cannot answer.
        labels: The version labels of the model.

    Raises:
        ModelNotFound: The model does not have the label, or not the version that the
            request names by its number.
        NotReady: The version cannot answer yet.
    """
    version = wanted.version
    if wanted.version_label is not None:
        version = labels.versions.get(wanted.version_label)
        if version is None:
            raise no_such_label(wanted.model)
    elif version is None:
        version = _of_share(wanted, loaded, labels)
        if version is None:
            version = default_version(labels.versions, max(loaded, default=None))
    if version is not None and version in loaded:
        return loaded[version]
    if wanted.version is None or version in failed:
        raise NotReady(
            f'The model "{wanted.model}" cannot answer yet; GET '
            f"/v1/models/{wanted.model} states the reason."
        )
    raise not_served(wanted.model, loaded)


def _of_share(wanted: Wanted, loaded: Container[int], labels: Labels) -> int | None:
    """Return the version of `canary` if it is to answer; it must be loaded."""
    version, share = labels.versions.get(CANARY), labels.shares.get(CANARY, 0.0)
    if not share or wanted.caller is None or version not in loaded:
        return None
    return version if is_drawn(share, wanted.model, wanted.caller) else None


def is_drawn(share: float, model: str, caller: str) -> bool:
    """Return whether a caller belongs to a share of all callers.

    A caller that belongs to a share belongs to each larger share of the model, too.

    Args:
        share: The share in percent.
        model: The model's name: each has other callers in its share.
        caller: The key of the caller; an empty one is drawn at random.
    """
    if not caller:
        return random.random() * _ALL < share
    digest = blake2b(f"{model}/{caller}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) * _ALL < share * 2**64
