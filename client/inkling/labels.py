# SPDX-License-Identifier: Apache-2.0
"""Labels as text: which texts can be labels, and which two texts are one label.

The same label reaches Inkling in several spellings: macOS decomposes the names of
folders, spreadsheets add a byte order mark or a non-breaking space. `normal_form` is
the one spelling in which labels enter a contract and in which they are compared. A
published contract keeps the labels that it has, and with them its hash.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from inkling.errors import InvalidRequest

__all__ = ["Spellings", "by_normal_form", "is_text", "normal_form"]

# Characters without a width and without a meaning at either end of a label: joiners,
# marks of direction, the byte order mark and the soft hyphen.
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"


class Spellings:
    """Finds a model's label by any spelling of it; `_` may stand for its `/`."""

    def __init__(self, labels: Sequence[str]) -> None:
        spelled = {normal_form(label.replace("/", "_")): label for label in labels}
        spelled |= {normal_form(label): label for label in labels}
        # A published model may have labels that differ by their spelling only.
        self._spelled: Mapping[str, str] = spelled | {label: label for label in labels}

    def get(self, label: str) -> str | None:
        """Return the model's label; None if it has no such label."""
        return self._spelled.get(label) or self._spelled.get(normal_form(label))


def is_text(label: object) -> bool:
    """Return whether a value is a text that is not empty and that UTF-8 can encode.

    JSON and the names of files can hold halves of surrogate pairs, which no answer can
    carry.
    """
    if not isinstance(label, str) or not label:
        return False
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return True


def normal_form(label: str) -> str:
    """Return a label composed (NFC), with single spaces, and with none at its ends."""
    composed = unicodedata.normalize("NFC", label)
    inner = composed.strip(_INVISIBLE + " \t\r\n\u00a0")
    return " ".join(inner.split())


def by_normal_form(names: Iterable[str]) -> Mapping[str, str]:
    """Return names by the label that each of them spells, in the order of the names.

    Raises:
        InvalidRequest: A name is not a text, or two names spell the same label.
    """
    found: dict[str, str] = {}
    for name in names:
        label = normal_form(name)
        if not is_text(label):
            raise InvalidRequest(
                f"{name!r:.100} cannot be a label; expected a text that is not empty, "
                "in UTF-8. Rename it."
            )
        if label in found:
            raise InvalidRequest(
                f"{found[label]!a:.100} and {name!a:.100} spell the same label. Rename "
                "one of them, or put their pictures together."
            )
        found[label] = name
    return found
