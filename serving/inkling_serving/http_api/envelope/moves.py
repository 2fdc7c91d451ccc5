# SPDX-License-Identifier: Apache-2.0
"""The body of a request that moves a version label."""

from __future__ import annotations

from inkling.errors import InvalidRequest
from inkling_serving.dialects.json_values import document_of

__all__ = ["wanted_version"]

_EXAMPLE = '{"version": 4}, or {"version": null} to take the label away'


def wanted_version(body: bytes) -> int | None:
    """Return the version that the label is to name; None takes the label away.

    Raises:
        InvalidRequest: The body has another form.
    """
    document = document_of(body, _EXAMPLE)
    if set(document) != {"version"}:
        shown = ", ".join(sorted(document)) or "no key"
        raise InvalidRequest(f"The JSON has {shown:.80}; expected {_EXAMPLE}.")
    version = document["version"]
    if version is not None and type(version) is not int:
        raise InvalidRequest(f"version is {version!r:.40}; expected {_EXAMPLE}.")
    return version
