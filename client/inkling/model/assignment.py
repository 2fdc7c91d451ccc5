# SPDX-License-Identifier: Apache-2.0
"""What a version label stands for: a version, a share of the requests, and a rule."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeGuard, cast

from inkling.errors import BrokenVersion, InvalidRequest
from inkling.model.publication import VERSION

__all__ = ["CANARY", "SHADOW", "SHARED", "Assignment", "Rule", "is_share"]

# The version with this label answers a share of the requests that name no version.
CANARY = "canary"
# The version with this label gets a share of them, too; its answers are compared only.
SHADOW = "shadow"
SHARED = (CANARY, SHADOW)
_ALL = 100.0


@dataclass(frozen=True)
class Rule:
    """When a version with a share is promoted, and when it loses its label.

    Both happen after so many requests, or pictures of a shadow. The version is promoted
    if it keeps all limits.

    Attributes:
        requests: The number of requests, from 1 on.
        errors: By how much the share of failed requests, 0 to 1, may be higher than
            that of the version that answers by default.
        slower: By which factor the mean time of a request, or of a shadow's picture,
            may be longer.
        agreement: The share of a shadow's answers, 0 to 1, that must have the same
            label; `canary` is not compared.
    """

    requests: int
    errors: float = 0.0
    slower: float = 1.5
    agreement: float = 0.98

    def __post_init__(self) -> None:
        shares = all(0 <= one <= 1 for one in (self.errors, self.agreement))
        if self.requests < 1 or not shares or not 0 < self.slower < math.inf:
            raise InvalidRequest(_expected(f"requests={self.requests}, ..."))

    @classmethod
    def of_text(cls, text: str) -> Rule:
        """Return the rule of a text such as `requests=1000,errors=0.01`.

        Raises:
            InvalidRequest: The text has another form.
        """
        pairs = [part.partition("=") for part in text.split(",")]
        try:
            given = {name.strip(): float(value) for name, _, value in pairs}
            return cls.of_json(given)
        except ValueError:
            raise InvalidRequest(_expected(text)) from None

    @classmethod
    def of_json(cls, given: Any) -> Rule:
        """Return the rule of an object in the file of the labels.

        Raises:
            InvalidRequest: It has another form.
        """
        names = {item.name for item in fields(cls)}
        if not isinstance(given, dict) or not {"requests"} <= set(given) <= names:
            raise InvalidRequest(_expected(str(given)))
        numbers = [one for one in given.values() if type(one) in (int, float)]
        count = given["requests"]
        if len(numbers) < len(given) or not math.isfinite(count) or count % 1:
            raise InvalidRequest(_expected(str(given)))
        return cls(**{**given, "requests": int(count)})


def _expected(came: str) -> str:
    return (
        f"{came:.80} is no rule; expected requests=N from 1 on, and perhaps "
        "errors=0.01, slower=1.5 or agreement=0.98, such as "
        "requests=1000,errors=0.01,slower=1.5."
    )


@dataclass(frozen=True)
class Assignment:
    """What a label stands for.

    Attributes:
        version: The version's number.
        share: The share in percent, 0 to 100, of the requests without a version that
            `canary` answers, or that are mirrored to `shadow`; other labels have none.
        rule: When the version is promoted or loses the label; None for never.
    """

    version: int
    share: float = 0.0
    rule: Rule | None = None

    @classmethod
    def of_json(cls, label: str, given: object) -> Assignment:
        """Return the assignment for a value in the file of the labels.

        Raises:
            BrokenVersion: The value has another form.
        """
        content = given if isinstance(given, dict) else {"version": given}
        version, share = content.get("version"), content.get("share", 0.0)
        known = set(content) <= {"version", "share", "rule"}
        is_number = type(version) is int and VERSION.fullmatch(str(version))
        if not (known and is_number and is_share(share)):
            raise BrokenVersion(
                f"labels.json maps {label!r:.80} to something else than a version "
                'number; expected an object such as {"stable": 3, "canary": '
                '{"version": 4, "share": 10}}.'
            )
        number = int(str(version))
        if label not in SHARED:
            return cls(number)
        try:
            rule = Rule.of_json(content["rule"]) if "rule" in content else None
        except InvalidRequest as error:
            raise BrokenVersion(f"labels.json, {label}: {error.message}") from None
        return cls(number, float(share), rule)

    def to_json(self) -> int | dict[str, Any]:
        """Return the value for the file: a number for a label without a share."""
        rule = {"rule": asdict(self.rule)} if self.rule else {}
        share = {"share": self.share} if self.share else {}
        return (
            {"version": self.version, **share, **rule}
            if share or rule
            else self.version
        )


def is_share(value: object) -> TypeGuard[float]:
    """Return whether a value is a share in percent."""
    return type(value) in (int, float) and 0 <= cast("float", value) <= _ALL
