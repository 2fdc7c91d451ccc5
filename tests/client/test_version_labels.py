# SPDX-License-Identifier: Apache-2.0
"""Version labels: which version answers by default, promotion, and rollback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inkling.cli.main import main
from inkling.errors import BrokenVersion, InvalidRequest, ModelNotFound
from inkling.model.repository import Repository
from inkling.model.version_labels import (
    STABLE,
    Assignment,
    VersionLabels,
    default_version,
)

Inkling = Callable[..., tuple[int, str]]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository whose model `m` has five versions of one small file."""
    made = Repository(tmp_path / "models")
    for _ in range(5):
        with made.publishing("m") as publication:
            (publication.path / "file").write_text("content")
            publication.commit()
    return made


@pytest.fixture
def inkling(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run a command on the repository; return its exit code and output."""

    def run(*words: str) -> tuple[int, str]:
        code = main([*words, "--models-dir", str(repository.root)])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def _stable(repository: Repository) -> int | None:
    return repository.version_labels("m").get(STABLE)


def test_without_labels_the_newest_version_answers(repository: Repository) -> None:
    """A model without `stable` follows what is published."""
    assert repository.default("m").version == 5


@pytest.mark.parametrize(
    ("labels", "newest", "expected"),
    [({}, None, None), ({}, 7, 7), ({"canary": 3}, 7, 7), ({"stable": 3}, 7, 3)],
)
def test_stable_is_the_default(
    labels: dict[str, int], newest: int | None, expected: int | None
) -> None:
    """The label `stable` decides, and no other label."""
    assert default_version(labels, newest) == expected


def test_promote_and_roll_back(repository: Repository, inkling: Inkling) -> None:
    """Each rollback leads one version further back, and a promotion forward again."""
    assert inkling("promote", "m", "2")[0] == 0
    assert inkling("promote", "m", "3")[0] == 0
    code, said = inkling("promote", "m", "5")
    assert (code, repository.default("m").version) == (0, 5)
    assert "m: stable is version 5 now; it was version 3." in said

    seen = []
    for _ in range(4):
        inkling("rollback", "m")
        seen.append(_stable(repository))

    # Version 5 answered before the first promotion, without a label.
    assert seen == [3, 2, 5, 4]


def test_a_rollback_without_a_log_takes_the_version_before(
    repository: Repository, inkling: Inkling
) -> None:
    """On a bad day one command leads back, though nobody has used labels before."""
    assert inkling("rollback", "m") == (
        0,
        "m: stable is version 4 now; it was version 5.\nRunning gateways change over "
        "within seconds, once each of their processes has loaded the version.\n",
    )
    inkling("rollback", "m")
    assert _stable(repository) == 3


def test_a_rollback_passes_over_removed_versions(repository: Repository) -> None:
    """A version whose files are gone cannot answer."""
    for version in (1, 2, 4):
        repository.promote("m", version)
    (repository.root / "m" / "2").rename(repository.root / "m" / "2.denied")

    assert repository.roll_back("m").after == 1
    # The log now has nothing before version 1 but version 5, which answered first.
    assert repository.roll_back("m").after == 5


def test_a_rollback_after_an_edit_by_hand(repository: Repository) -> None:
    """Whoever edits the file moves the label, too; the log does not know of it."""
    repository.promote("m", 2)
    repository.promote("m", 3)
    path = repository.root / "m" / "labels.json"
    path.write_text('{"stable": 1}')

    assert repository.roll_back("m").after == 3
    assert repository.roll_back("m").after == 2


def test_no_version_before(repository: Repository, inkling: Inkling) -> None:
    """The oldest version has none before it, and a new label neither."""
    (repository.root / "m" / "labels.json").write_text('{"stable": 1, "canary": 2}')
    for label in ("stable", "canary", "nobody"):
        code, said = inkling("rollback", "m", "--label", label)
        assert code == 1
        assert f"The label {label} named no other version before" in said


def test_labels_are_independent(repository: Repository) -> None:
    """Each label has a history of its own."""
    repository.promote("m", 1)
    repository.promote("m", 4, "canary")
    repository.promote("m", 2)
    repository.promote("m", 5, "canary")

    repository.roll_back("m", "canary")

    assert repository.version_labels("m") == {"stable": 2, "canary": 4}


def test_a_label_is_taken_away(repository: Repository, inkling: Inkling) -> None:
    """Without `stable`, the model follows its newest version again."""
    repository.promote("m", 2)

    assert "m: the label stable is taken away." in inkling("promote", "m", "none")[1]
    assert repository.default("m").version == 5
    assert "has the label 'stable'" in inkling("promote", "m", "none")[1]
    assert repository.roll_back("m").after == 2


def test_the_log_says_who_when_and_what(repository: Repository) -> None:
    """Each move is a line of JSON, in the order of the moves."""
    repository.promote("m", 2)
    repository.roll_back("m")

    lines = (repository.root / "m" / "labels.log").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert first.keys() == {"time", "who", "by", "label", "before", "after"}
    assert (first["by"], first["before"], first["after"]) == ("promote", 5, 2)
    assert (second["by"], second["before"], second["after"]) == ("rollback", 2, 5)
    assert first["time"] <= second["time"]
    assert first["time"].endswith("+00:00")
    assert "@" in first["who"]


def test_damaged_lines_of_the_log_are_passed_over(repository: Repository) -> None:
    """A power cut in a line costs that line and no other."""
    repository.promote("m", 2)
    log = repository.root / "m" / "labels.log"
    log.write_bytes(log.read_bytes() + b'{"time": "2026-1')

    repository.promote("m", 3)

    assert [move.after for move in repository.labels("m").moves()] == [2, 3]
    assert repository.roll_back("m").after == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("m", "9"), 'The model "m" has no version 9; it has: 5, 4, 3, 2, 1.'),
        (("m", "v2"), "'v2' is no version; expected a number, or none."),
        (("n", "1"), "does not have the model n; it has: m."),
        (("M", "1"), "is not a valid model name"),
        (("m", "1", "--label", "Stable!"), "'Stable!' is not a valid version label"),
    ],
)
def test_wrong_promotions(
    words: tuple[str, ...],
    message: str,
    repository: Repository,
    inkling: Inkling,
) -> None:
    """A misspelt move changes nothing and says what there is."""
    code, said = inkling("promote", *words)

    assert (code, message in said) == (1, True), said
    assert not (repository.root / "m" / "labels.json").exists()


def test_a_damaged_version_is_not_promoted(repository: Repository) -> None:
    """A gateway could not load it, so the label stays."""
    (repository.root / "m" / "2" / "file").write_text("changed")

    with pytest.raises(BrokenVersion, match="differs from the published file"):
        repository.promote("m", 2)
    assert _stable(repository) is None


def test_publishing_only(repository: Repository) -> None:
    """The version that answers goes on answering, also with the next publication."""
    for _ in range(2):
        with repository.publishing("m", publish_only=True) as publication:
            (publication.path / "file").write_text("content")
            publication.commit()

    assert repository.versions("m")[0] == 7
    assert repository.default("m").version == 5


def test_publishing_only_fails_without_a_label(repository: Repository) -> None:
    """A publication that does not come about leaves no label behind."""
    with (
        pytest.raises(RuntimeError),
        repository.publishing("m", publish_only=True),
    ):
        raise RuntimeError
    assert repository.version_labels("m") == {}


def test_the_first_version_answers(tmp_path: Path) -> None:
    """Before it there is none that could go on answering."""
    made = Repository(tmp_path)
    with made.publishing("m", publish_only=True) as publication:
        (publication.path / "file").write_text("content")
        publication.commit()
    assert (made.default("m").version, made.version_labels("m")) == (1, {})


def test_a_label_of_a_removed_version(repository: Repository, inkling: Inkling) -> None:
    """`inkling models` and the library say which label leads nowhere."""
    (repository.root / "m" / "labels.json").write_text('{"stable": 9}')

    with pytest.raises(ModelNotFound, match="names version 9, which is not there"):
        repository.default("m")
    assert "m: The label stable" in inkling("models")[1]


def test_models_shows_the_labels(repository: Repository, inkling: Inkling) -> None:
    """The list of the versions has their labels."""
    repository.promote("m", 2)
    repository.promote("m", 2, "canary")
    rows = [line.split()[:3] for line in inkling("models")[1].splitlines()]
    assert ["m", "2", "canary,stable"] in rows


def test_a_directory_that_cannot_be_written(repository: Repository) -> None:
    """The reason is a sentence, and not a traceback."""
    (repository.root / "m" / "labels.log").mkdir()
    with pytest.raises(InvalidRequest, match="The label stable cannot be moved in"):
        repository.promote("m", 1)


_MOVER = """
import sys
from pathlib import Path
from inkling.model.version_labels import VersionLabels
labels = VersionLabels(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    labels.move(sys.argv[3], number % 5 + 1, None, "promote")
"""


def test_moves_of_several_processes(repository: Repository) -> None:
    """Two processes that move labels at once lose no move of each other."""
    directory = repository.root / "m"
    movers = [
        subprocess.Popen([sys.executable, "-c", _MOVER, directory, "25", label])
        for label in ("one", "two")
    ]
    assert [mover.wait(timeout=60) for mover in movers] == [0, 0]

    moves = VersionLabels(directory).moves()
    for label in ("one", "two"):
        own = [move for move in moves if move.label == label]
        assert [move.after for move in own] == [n % 5 + 1 for n in range(25)]
        assert [m.before for m in own[1:]] == [m.after for m in own[:-1]]
    assert repository.version_labels("m") == {"one": 5, "two": 5}


@pytest.mark.parametrize("torn", range(0, 120, 7))
def test_a_kill_while_a_label_moves(repository: Repository, torn: int) -> None:
    """A process that is killed has moved the label or not, and rollback still works.

    The log is written before the label. So the states in between are: a part of the
    line, the whole line without the move, and a new file that has not replaced the old.
    """
    directory = repository.root / "m"
    repository.promote("m", 2)
    before = (directory / "labels.log").read_bytes()
    repository.promote("m", 4)
    line = (directory / "labels.log").read_bytes()[len(before) :]
    (directory / "labels.log").write_bytes(before + line[:torn])
    (directory / "labels.json").write_text('{"stable": 2}')
    (directory / ".labels.json.new").write_text('{"sta')

    assert repository.default("m").version == 2
    assert repository.promote("m", 3).before == 2
    assert repository.roll_back("m").after == 2
    assert repository.roll_back("m").after == 5


def test_a_canary_has_a_share(repository: Repository, inkling: Inkling) -> None:
    """A share is set with the label, stays when it moves, and is logged and shown."""
    words = ("promote", "m", "4", "--label", "canary", "--share", "10")
    assert "It gets 10 % of the requests" in inkling(*words)[1]
    assert json.loads((repository.root / "m" / "labels.json").read_text()) == {
        "canary": {"version": 4, "share": 10.0}
    }
    inkling("promote", "m", "5", "--label", "canary")
    inkling("promote", "m", "3")
    canary = repository.labels("m").assignments()["canary"]
    assert canary == Assignment(5, 10.0)
    assert "canary(10%)" in inkling("models")[1]

    assert repository.roll_back("m", "canary").share == 10.0
    inkling("promote", "m", "4", "--label", "canary", "--share", "0")

    assert repository.version_labels("m") == {"canary": 4, "stable": 3}
    shares = [one.share for one in repository.labels("m").moves()]
    assert shares == [10.0, 10.0, None, 10.0, 0.0]
    assert '"canary": 4' in (repository.root / "m" / "labels.json").read_text()


@pytest.mark.parametrize(
    ("label", "share"),
    [("canary", "101"), ("canary", "-1"), ("canary", "nan"), ("stable", "10")],
)
def test_other_shares_are_refused(
    label: str, share: str, repository: Repository, inkling: Inkling
) -> None:
    """A share is 0 to 100 %, and only `canary` has one."""
    code, said = inkling("promote", "m", "4", "--label", label, "--share", share)

    assert (code, repository.version_labels("m")) == (1, {})
    assert "expected 0 to 100 for canary" in said


@pytest.mark.parametrize(
    "value", [{"share": 1}, {"version": 1, "share": 101}, {"version": 1, "x": 1}, []]
)
def test_other_assignments_are_refused(value: object, repository: Repository) -> None:
    """A file that was edited to another form is refused, and the message shows the form."""
    path = repository.root / "m" / "labels.json"
    path.write_text(json.dumps({"canary": value}))
    with pytest.raises(BrokenVersion, match='"share": 10'):
        repository.version_labels("m")
