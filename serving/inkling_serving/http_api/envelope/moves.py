# SPDX-License-Identifier: Apache-2.0
"""The body of a request that moves a version label."""

from __future__ import annotations

from inkling.errors import InvalidRequest
from inkling_serving.dialects.json_values import document_of

__all__ = ["wanted_move"]

_EXAMPLE = (
    '{"version": 4}, {"version": 4, "share": 10}, or {"version": null} to take the '
    "label away"
)


def wanted_move(body: bytes) -> tuple[int | None, float | None]:
    """Return the version that the label is to name, and its share in percent.

    Without a version, the label is taken away; without a share, it keeps its share.

    Raises:
        InvalidRequest: The body has another form.
    """
    document = document_of(body, _EXAMPLE)
    if not {"version"} <= set(document) <= {"version", "share"}:
        shown = ", ".join(sorted(document)) or "no key"
        raise InvalidRequest(f"The JSON has {shown:.80}; expected {_EXAMPLE}.")
    version, share = document["version"], document.get("share")
    if version is not None and type(version) is not int:
        raise InvalidRequest(f"version is {version!r:.40}; expected {_EXAMPLE}.")
    if share is not None and type(share) not in (int, float):
        raise InvalidRequest(f"share is {share!r:.40}; expected {_EXAMPLE}.")
    return version, share
