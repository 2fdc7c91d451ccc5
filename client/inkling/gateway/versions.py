# SPDX-License-Identifier: Apache-2.0
"""Chooses the version whose contract a connection asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from inkling.contract import Contract
from inkling.errors import ModelNotFound, NotReady
from inkling.gateway.connection import Connection
from inkling.model.version_labels import STABLE

__all__ = ["Version", "contract_of"]


class Version(Protocol):
    """A version of a model, as a gateway describes it."""

    @property
    def version(self) -> int:
        """Its number."""

    @property
    def version_labels(self) -> Sequence[str]:
        """The version labels that point to it."""

    @property
    def contract_json(self) -> str:
        """Its contract as JSON; empty where it is not served."""


def contract_of(connection: Connection, versions: Iterable[Version]) -> Contract:
    """Return the contract of the version that answers the calls of a connection.

    Args:
        connection: Names a version, a version label, or neither.
        versions: All versions of the model, newest first.

    Raises:
        ModelNotFound: The model does not have this version or version label.
        NotReady: The version cannot answer yet.
        InvalidContract: The contract is of a format that this client does not read.
    """
    number, label = connection.version, connection.version_label
    versions = list(versions)
    if number is None and label is None:
        # As in the gateway: the version with this label is the default, if one has it.
        label = STABLE if any(STABLE in v.version_labels for v in versions) else None
    wanted = [
        version
        for version in versions
        if number in (None, version.version)
        and (label is None or label in version.version_labels)
    ]
    if not wanted:
        raise ModelNotFound(f'The model "{connection.model}" has no such version.')
    for version in wanted:
        if version.contract_json:
            return Contract.from_json(version.contract_json)
    raise NotReady(f'No such version of the model "{connection.model}" is ready yet.')
