# SPDX-License-Identifier: Apache-2.0
"""Selects the version that answers a request, the same for every engine."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import TypeVar

from inkling.errors import NotReady
from inkling.model.version_labels import default_version
from inkling_serving.engines.base import no_such_label, not_served

__all__ = ["Wanted", "selected"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Wanted:
    """What a request names; with nothing but a model, the default version answers."""

    model: str
    version: int | None = None
    version_label: str | None = None


def selected(
    wanted: Wanted,
    loaded: Mapping[int, _T],
    failed: Container[int],
    labels: Mapping[str, int],
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
        version = labels.get(wanted.version_label)
        if version is None:
            raise no_such_label(wanted.model)
    elif version is None:
        version = default_version(labels, max(loaded, default=None))
    if version is not None and version in loaded:
        return loaded[version]
    if wanted.version is None or version in failed:
        raise NotReady(
            f'The model "{wanted.model}" cannot answer yet; GET '
            f"/v1/models/{wanted.model} states the reason."
        )
    raise not_served(wanted.model, loaded)
