# SPDX-License-Identifier: Apache-2.0
"""The version labels of a model, such as `stable`, and the log of their moves.

`labels.json` maps labels to version numbers. `labels.log` has a line of JSON for each
move. The line is written first, so that a process that is killed leaves no move without
a line; a line whose move did not happen is told from the others by the next state.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from inkling.errors import BrokenVersion, InvalidRequest
from inkling.labels import is_text
from inkling.model.assignment import SHARED, Assignment, Rule, is_share
from inkling.model.regular_files import fault, read
from inkling.model.version_files import json_object

__all__ = [
    "STABLE",
    "Move",
    "VersionLabels",
    "default_version",
]

# The version with this label answers requests that name no version.
STABLE = "stable"
_FILE = "labels.json"
_LOG = "labels.log"
_WRITTEN = ".labels.json.new"
_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MAX_BYTES = 1024 * 1024
# A line has about 150 bytes. Older lines than those in this many bytes are not read.
_LOG_BYTES = 4 * 1024 * 1024
_ROLLBACK = "rollback"


@dataclass(frozen=True)
class Move:
    """One move of a label.

    Attributes:
        time: When, in ISO 8601 and UTC.
        who: The user and the machine, such as `anna@host`, or the name of an API key.
        by: The command, such as `promote`.
        label: The label.
        before: The version that it named; None where there was none.
        after: The version that it names now; None where it was taken away.
        share: The share that it has now, in percent; None for a label without one.
        why: The figures by which a rule decided; None for the move of a person.
    """

    time: str
    who: str
    by: str
    label: str
    before: int | None
    after: int | None
    share: float | None = None
    why: str | None = None

    def line(self) -> bytes:
        """Return the line of the log; it has only the fields that the move needs."""
        optional = {"share", "why"}
        shown = {
            k: v for k, v in asdict(self).items() if v is not None or k not in optional
        }
        return json.dumps(shown).encode() + b"\n"


def default_version(labels: Mapping[str, int], newest: int | None) -> int | None:
    """Return the version that answers if a request names none.

    Args:
        labels: The version labels of the model.
        newest: The newest version that can answer; None without.
    """
    return labels.get(STABLE, newest)


class VersionLabels:
    """The version labels of one model; every method reads the files again."""

    def __init__(self, directory: Path) -> None:
        """Take the model's directory, which holds its versions."""
        self._directory = directory

    def read(self) -> dict[str, int]:
        """Return the labels and the number of each version; raises as `assignments`."""
        return {label: one.version for label, one in self.assignments().items()}

    def assignments(self) -> dict[str, Assignment]:
        """Return the labels and what each stands for.

        Raises:
            BrokenVersion: The file cannot be read, or does not map labels to versions.
        """
        path = self._directory / _FILE
        try:
            labels = json_object(read(path, _MAX_BYTES), _FILE)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not path.is_symlink():
                return {}
            raise BrokenVersion(f"{_FILE} {fault(path, error)}.") from None
        for name in labels:
            if not is_text(name):
                raise BrokenVersion(
                    f"{_FILE} has the label {name!r:.80}, which is not Unicode "
                    "text. Rename the label."
                )
        return {name: Assignment.of_json(name, one) for name, one in labels.items()}

    def moves(self) -> list[Move]:
        """Return the moves in the log, the oldest first; damaged lines are left out."""
        return list(self._logged())

    def move(
        self,
        label: str,
        version: int | None,
        newest: int | None,
        by: str,
        who: str | None = None,
        share: float | None = None,
        rule: Rule | None = None,
    ) -> Move:
        """Let a label name a version, or take the label away, and log the move.

        Args:
            label: The label.
            version: The version; None takes the label away.
            newest: The version that answers while the model has no `stable`.
            by: The command that moves the label, for the log.
            who: Who moves it; None for the user of this process.
            share: The share of the requests, in percent; None keeps the one it has.
            rule: When the version is promoted or loses the label; None for never.

        Raises:
            InvalidRequest: No label may be called so, it takes no such share, or the
                directory cannot be written.
            BrokenVersion: The labels cannot be read.
        """
        if rule is not None and label not in SHARED:
            raise InvalidRequest(
                f"The label {label!r:.80} takes no rule; expected "
                f"{' or '.join(SHARED)}."
            )
        if share is not None and (label not in SHARED or not is_share(share)):
            raise InvalidRequest(
                f"The label {label!r:.80} cannot have a share of {share:g} %; expected "
                f"0 to 100 for {' or '.join(SHARED)}, and none for other labels."
            )
        if not _LABEL.fullmatch(label):
            raise InvalidRequest(
                f"{label!r:.80} is not a valid version label; expected 1 to 64 "
                'characters from a-z, 0-9, ".", "_" and "-", with a letter or a digit '
                "first."
            )
        try:
            return self._move(label, version, newest, by, who or _who(), share, rule)
        except OSError as error:
            raise InvalidRequest(
                f"The label {label} cannot be moved in {self._directory}: "
                f"{error.strerror}."
            ) from None

    def _move(
        self,
        label: str,
        version: int | None,
        newest: int | None,
        by: str,
        who: str,
        share: float | None,
        rule: Rule | None,
    ) -> Move:
        with self._locked() as log:
            labels = self.assignments()
            former = labels.pop(label, None)
            before = former.version if former else newest if label == STABLE else None
            if version is not None:
                kept = former.share if former else 0.0
                labels[label] = Assignment(
                    version, kept if share is None else share, rule
                )
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            shown = labels[label].share if label in SHARED and label in labels else None
            move = Move(now, who, by, label, before, version, shown)
            log.write(move.line())
            os.fsync(log.fileno())
            self._write(labels)
        return move

    def conclude(
        self, label: str, judged: Assignment, newest: int | None, why: str, won: bool
    ) -> list[Move]:
        """Take away the label of a version that was judged, and promote it if it won.

        Both are one change of the file. The version of `stable` before can come back by
        `roll_back`.

        Args:
            label: `canary` or `shadow`.
            judged: What the label stood for when its version was judged. If it does not
                stand for that any more, nothing changes and no move is returned.
            newest: As in `move`.
            why: The figures of the judgement, for the log.
            won: Whether the version gets the label `stable`.

        Raises:
            OSError: The directory cannot be written.
            BrokenVersion: The labels cannot be read.
        """
        with self._locked() as log:
            labels = self.assignments()
            if labels.get(label) != judged:
                return []
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            version = labels.pop(label).version
            moves = [Move(now, _who(), "rule", label, version, None, None, why)]
            if won:
                stable = labels.get(STABLE)
                before = stable.version if stable else newest
                labels[STABLE] = Assignment(version)
                move = Move(now, _who(), "rule", STABLE, before, version, None, why)
                moves.append(move)
            log.write(b"".join(move.line() for move in moves))
            os.fsync(log.fileno())
            self._write(labels)
        return moves

    def roll_back(
        self, label: str, published: list[int], who: str | None = None
    ) -> Move:
        """Let a label name the version that it named before.

        A second rollback leads to the version before that one.

        Args:
            label: The label.
            published: The versions that the repository has, newest first. Others are
                passed over.
            who: As in `move`.

        Raises:
            InvalidRequest: The log has no earlier version of this label, or the
                directory cannot be written.
            BrokenVersion: The labels cannot be read.
        """
        newest = published[0] if published else None
        current = self.read().get(label, newest if label == STABLE else None)
        earlier = [one for one in self._states(label, current)[:-1] if one in published]
        if not earlier and label == STABLE:
            # The log does not go back so far, so the older version is the one before.
            earlier = [one for one in published if current and one < current][:1]
        if not earlier:
            raise InvalidRequest(
                f"The label {label} named no other version before that is still there. "
                "Name a version with: inkling promote NAME VERSION"
            )
        return self.move(label, earlier[-1], newest, _ROLLBACK, who)

    def _states(self, label: str, current: int | None) -> list[int | None]:
        """Return the versions to which a label can go back, and the current one last.

        A move leads to a further state, and a rollback to an earlier one. Where a state
        does not follow from the log, somebody has edited the file by hand, or the
        process that moved the label was killed before the move.
        """
        states: list[int | None] = []
        for move in self._logged():
            if move.label != label:
                continue
            _reach(states, move.before)
            if move.by == _ROLLBACK:
                # It passed over versions that are gone.
                while states and states[-1] != move.after:
                    states.pop()
                states = states or [move.after]
            elif move.after != move.before:
                states.append(move.after)
        _reach(states, current)
        return states

    def _logged(self) -> Iterator[Move]:
        try:
            with (self._directory / _LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
                lines = file.read(_LOG_BYTES).splitlines()
        except OSError:
            return
        for line in lines:
            try:
                yield Move(**json.loads(line))
            except (ValueError, TypeError):
                continue

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """Open the log for a further line; no other process moves a label meanwhile."""
        with (self._directory / _LOG).open("ab") as log:
            try:
                import fcntl  # noqa: PLC0415 - Windows does not have it

                fcntl.flock(log, fcntl.LOCK_EX)
            except (ImportError, OSError):  # some network volumes have no locks
                pass
            if log.tell() and not self._ends_with_a_line():
                log.write(b"\n")
            yield log

    def _ends_with_a_line(self) -> bool:
        with (self._directory / _LOG).open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _write(self, labels: Mapping[str, Assignment]) -> None:
        """Replace the file by one rename, so that every reader gets a whole one."""
        written = self._directory / _WRITTEN
        with written.open("w", encoding="utf-8") as file:
            content = {name: labels[name].to_json() for name in sorted(labels)}
            file.write(json.dumps(content) + "\n")
            file.flush()
            os.fsync(file.fileno())
        written.replace(self._directory / _FILE)


def _reach(states: list[int | None], wanted: int | None) -> None:
    """Let the last state be the wanted one, by a step back or a further step."""
    if states and states[-1] == wanted:
        return
    if len(states) > 1 and states[-2] == wanted:
        states.pop()
    else:
        states.append(wanted)


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"
