# SPDX-License-Identifier: Apache-2.0
"""The rule by which a version with a share of the requests wins or loses its label."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inkling.cli.main import main
from inkling.errors import BrokenVersion, InvalidRequest
from inkling.model.assignment import Rule
from inkling.model.repository import Repository
from inkling_serving.comparison import Compared
from inkling_serving.rollout.judge import Figures, Judge, verdict
from inkling_serving.runtime.metrics import Metrics
from inkling_serving.runtime.timings import Timings

_RULE = Rule(100, errors=0.01, slower=1.5, agreement=0.9)
_DEFAULT = Figures(1000, 10, 10.0, 1000)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository whose model `m` has three versions; the second is `stable`."""
    made = Repository(tmp_path / "models")
    for _ in range(3):
        with made.publishing("m") as publication:
            (publication.path / "file").write_text("content")
            publication.commit()
    made.promote("m", 2)
    return made


@pytest.mark.parametrize(
    ("label", "ours", "won"),
    [
        ("canary", Figures(98, 1, 1.0), None),
        ("canary", Figures(99, 1, 1.0), True),
        ("canary", Figures(97, 3, 1.0), False),
        ("canary", Figures(100, 0, 1.6), False),
        ("canary", Figures(0, 100, 0.0), False),
        ("shadow", Figures(100, 0, 1.0, 90), True),
        ("shadow", Figures(100, 0, 1.0, 89), False),
        ("shadow", Figures(0, 100, 0.0, 0), False),
    ],
)
def test_limits(label: str, ours: Figures, won: bool | None) -> None:
    """After 100 requests each limit decides; errors count beside those of the default."""
    found = verdict(_RULE, label, ours, _DEFAULT)

    assert (found if found is None else found[0]) == won
    assert verdict(_RULE, label, Figures(200), Figures()) is None


def _ask(metrics: Metrics, version: int, ok: int, failed: int = 0) -> None:
    for code in ["ok"] * ok + ["not_ready"] * failed:
        timings = Timings()
        timings.model, timings.version = "m", version
        timings.started -= 1.0  # the time of all is about the same
        metrics.observe("http", code, timings)


@pytest.mark.parametrize(("failed", "stable"), [(0, 3), (30, 2)])
def test_a_canary_is_judged(failed: int, stable: int, repository: Repository) -> None:
    """A good canary becomes `stable`, a bad one loses its label; the log says why."""
    metrics = Metrics()
    _ask(metrics, 3, 0, 500)  # from before the label: they do not count
    repository.promote("m", 3, "canary", share=10, rule=_RULE)
    judges = [Judge(repository, metrics) for _ in range(2)]
    for judge in judges:
        judge.close()
        judge.look()
    _ask(metrics, 2, 50)
    _ask(metrics, 3, 80 - failed, failed)
    judges[0].look()
    assert repository.version_labels("m") == {"stable": 2, "canary": 3}
    _ask(metrics, 3, 20)

    for judge in judges:
        judge.look()

    assert repository.version_labels("m") == {"stable": stable}
    moves = [one for one in repository.labels("m").moves() if one.by == "rule"]
    assert len(moves) == (2 if stable == 3 else 1)
    assert "100 requests, errors 0." in str(moves[0].why)
    if stable == 3:
        assert repository.roll_back("m").after == 2


@pytest.mark.parametrize(("agreed", "stable"), [(95, 3), (50, 2)])
def test_a_shadow_is_judged(agreed: int, stable: int, repository: Repository) -> None:
    """A shadow that answers alike is promoted, and another one loses its label."""
    metrics = Metrics()
    repository.promote("m", 3, "shadow", share=100, rule=_RULE)
    judge = Judge(repository, metrics)
    judge.close()
    judge.look()
    metrics.compare("m", "2", "3", Compared(100, agreed, 0.5, 1.0, 1.2))

    judge.look()

    assert repository.version_labels("m") == {"stable": stable}
    why = str(repository.labels("m").moves()[-1].why)
    assert f"1.20 times the time, agreement {agreed / 100:.4f}" in why


def test_a_moved_label_is_not_concluded(repository: Repository) -> None:
    """A label that was moved meanwhile keeps its new version."""
    labels = repository.labels("m")
    repository.promote("m", 3, "canary", share=10, rule=_RULE)
    judged = labels.assignments()["canary"]
    repository.promote("m", 1, "canary")

    assert labels.conclude("canary", judged, None, "why", True) == []
    assert labels.read() == {"stable": 2, "canary": 1}


def test_without_a_rule_nothing_is_judged(repository: Repository) -> None:
    """A share without a rule stays, however good or bad its version is."""
    metrics = Metrics()
    repository.promote("m", 3, "canary", share=10)
    judge = Judge(repository, metrics)
    judge.close()
    judge.look()
    _ask(metrics, 2, 500)
    _ask(metrics, 3, 0, 500)
    judge.look()

    assert repository.version_labels("m") == {"stable": 2, "canary": 3}


def test_a_rule_is_given_with_a_share(repository: Repository) -> None:
    """The command writes the rule into the file, from which it is read again."""
    words = ["promote", "m", "3", "--label", "canary", "--share", "5"]
    words += ["--models-dir", str(repository.root)]
    assert main([*words, "--rule", "requests=1000,errors=0.02"]) == 0

    found = repository.labels("m").assignments()["canary"]
    assert (found.share, found.rule) == (5.0, Rule(1000, errors=0.02))
    text = (repository.root / "m" / "labels.json").read_text()
    assert json.loads(text)["canary"]["rule"]["requests"] == 1000
    assert main(["promote", "m", "3", *words[-2:], "--rule", "requests=1"]) == 1
    assert main([*words, "--server", "h:1", "--rule", "requests=1"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "requests", "errors=0.1", "requests=0", "requests=1.5", "requests=inf"),
        *("requests=1,errors=2", "requests=1,agreement=-1", "requests=1,slower=0"),
        *("requests=1,speed=2", "requests=nan", "requests=1,errors=nan"),
    ],
)
def test_other_rules_are_refused(text: str, repository: Repository) -> None:
    """A rule of another form is refused, as text and in the file."""
    with pytest.raises(InvalidRequest, match="expected requests=N"):
        Rule.of_text(text)
    canary = {"version": 3, "share": 10, "rule": {"requests": text}}
    path = repository.root / "m" / "labels.json"
    path.write_text(json.dumps({"canary": canary}))
    with pytest.raises(BrokenVersion, match="expected requests=N"):
        repository.version_labels("m")
