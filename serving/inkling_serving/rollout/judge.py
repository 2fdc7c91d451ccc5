# SPDX-License-Identifier: Apache-2.0
"""Promotes a version with a share of the requests, or takes its label, by its rule.

Each process looks at the figures of all processes. The first that finds the rule met
moves the labels; the others then find another state in the file, and do nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inkling.errors import InklingError
from inkling.model.assignment import CANARY, SHADOW, SHARED, Assignment, Rule
from inkling.model.version_labels import STABLE
from inkling_serving.comparison import Compared
from inkling_serving.runtime.metrics import Served
from inkling_serving.runtime.poller import Repeating

if TYPE_CHECKING:
    from inkling.model.repository import Repository
    from inkling_serving.runtime.metrics import Metrics

__all__ = ["Figures", "Judge", "verdict"]

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Figures:
    """What a version has done, in sums.

    Attributes:
        answered: The requests that it answered, or the pictures of a shadow.
        failed: Those that it did not.
        seconds: The time of the answered ones.
        agreed: Of a shadow's pictures, those with the same label.
    """

    answered: float = 0
    failed: float = 0
    seconds: float = 0.0
    agreed: float = 0

    def since(self, before: Figures) -> Figures:
        """Return the figures without earlier ones."""
        pairs = zip(vars(self).values(), vars(before).values(), strict=True)
        return Figures(*(now - then for now, then in pairs))

    @property
    def count(self) -> float:
        """All requests."""
        return self.answered + self.failed

    @property
    def errors(self) -> float:
        """The share of failed requests; 0 without requests."""
        return self.failed / self.count if self.count else 0.0

    @property
    def mean_s(self) -> float:
        """The mean time of an answered request; 0 without any."""
        return self.seconds / self.answered if self.answered else 0.0


def verdict(
    rule: Rule, label: str, ours: Figures, default: Figures
) -> tuple[bool, str] | None:
    """Return whether a version wins, with its figures; None before it is time.

    Args:
        rule: The rule.
        label: `canary` or `shadow`.
        ours: The figures of the version with the label.
        default: Those of the version that answers by default, over the same time.
    """
    if ours.count < rule.requests or not default.answered:
        return None
    slower = ours.mean_s / default.mean_s if default.mean_s else 1.0
    compared = label == SHADOW and ours.answered
    agreement = ours.agreed / ours.answered if compared else 1.0
    won = (
        bool(ours.answered)
        and ours.errors <= default.errors + rule.errors
        and slower <= rule.slower
        and agreement >= rule.agreement
    )
    shown = f", agreement {agreement:.4f}" if label == SHADOW else ""
    return won, (
        f"{ours.count:.0f} requests, errors {ours.errors:.4f} (default "
        f"{default.errors:.4f}), {slower:.2f} times the time{shown}"
    )


class Judge:
    """Looks at the rules of all labels once a second."""

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        """Start to look."""
        self._repository = repository
        self._metrics = metrics
        # The figures when each assignment was first seen, of the version and of the
        # default version.
        self._begun: dict[tuple[str, str], tuple[Assignment, Figures, Figures]] = {}
        self._thread = Repeating("judging versions", self.look, lambda: _PAUSE_S)

    def close(self) -> None:
        """Stop looking."""
        self._thread.stop()

    def look(self) -> None:
        """Look at each rule, and move labels where one is met."""
        for model in self._repository.models():
            try:
                labels = self._repository.labels(model).assignments()
            except InklingError:  # the engine says so
                continue
            for label in SHARED:
                found = labels.get(label)
                if found is not None and found.rule is not None and found.share:
                    self._judge(model, label, found, labels.get(STABLE))

    def _judge(
        self, model: str, label: str, found: Assignment, stable: Assignment | None
    ) -> None:
        if stable is None or found.rule is None or stable.version == found.version:
            return
        pair = (stable.version, found.version)
        ours, default = self._figures(model, label, *pair)
        begun = self._begun.get((model, label))
        if begun is None or begun[0] != found:
            begun = self._begun[model, label] = (found, ours, default)
        said = verdict(found.rule, label, ours.since(begun[1]), default.since(begun[2]))
        if said is not None:
            self._conclude(model, label, found, *said)

    def _conclude(
        self, model: str, label: str, found: Assignment, won: bool, why: str
    ) -> None:
        if won:
            self._repository.files(model, found.version).verify()
        labels = self._repository.labels(model)
        if labels.conclude(label, found, None, why, won):
            end = "is promoted" if won else f"loses the label {label}"
            _log.warning("%s version %d %s: %s", model, found.version, end, why)

    def _figures(
        self, model: str, label: str, stable: int, version: int
    ) -> tuple[Figures, Figures]:
        if label == CANARY:
            served = [one for one in self._metrics.served() if one.model == model]
            return _served(served, version), _served(served, stable)
        key = (model, str(stable), str(version))
        found = self._metrics.comparisons().get(key, Compared())
        pictures = found.pictures
        return (
            Figures(pictures, found.failed, found.shadow_seconds, found.agreed),
            # A shadow that answers nothing loses, too.
            Figures(pictures or found.failed, 0, found.seconds, pictures),
        )


def _served(served: Iterable[Served], version: int) -> Figures:
    for one in served:
        if one.version == str(version):
            answered = one.answered
            return Figures(answered.count, one.failed.count, answered.seconds)
    return Figures()
