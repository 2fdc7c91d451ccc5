# SPDX-License-Identifier: Apache-2.0
"""The index of captured pictures and the feedback on them, in SQLite.

All processes of a gateway and the side-car use one file, on one machine: its
write-ahead log needs shared memory. The number of the schema is in SQLite's
`user_version`, and an older file gets the missing steps when it is opened.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inkling.capture.records import Record
from inkling.errors import InvalidRequest, NotReady, UnknownRequest

__all__ = ["STORE_FILE", "Given", "Labelled", "LiveAccuracy", "Retraining", "Store"]

STORE_FILE = "feedback.sqlite"
# Step n leads from schema n to schema n + 1. A step never changes once it is released.
_STEPS = (
    """
    CREATE TABLE versions (
        model TEXT NOT NULL, version INTEGER NOT NULL, labels TEXT NOT NULL,
        PRIMARY KEY (model, version)
    ) WITHOUT ROWID;
    CREATE TABLE captures (
        request_id TEXT NOT NULL, image INTEGER NOT NULL, time REAL NOT NULL,
        model TEXT NOT NULL, version INTEGER NOT NULL, label TEXT NOT NULL,
        segment TEXT NOT NULL, picture TEXT NOT NULL, sha256 TEXT NOT NULL,
        PRIMARY KEY (request_id, image)
    ) WITHOUT ROWID;
    CREATE INDEX captures_of_segment ON captures (segment);
    CREATE TABLE feedback (
        request_id TEXT NOT NULL, image INTEGER NOT NULL, time REAL NOT NULL,
        model TEXT NOT NULL, version INTEGER NOT NULL, answered TEXT NOT NULL,
        label TEXT NOT NULL, PRIMARY KEY (request_id, image)
    ) WITHOUT ROWID;
    CREATE INDEX feedback_of_version ON feedback (model, version);
    """,
    """
    CREATE TABLE retrainings (
        id INTEGER PRIMARY KEY, model TEXT NOT NULL, began REAL NOT NULL,
        ended REAL, reason TEXT NOT NULL, upto REAL NOT NULL, pictures INTEGER NOT NULL,
        version INTEGER, outcome TEXT
    );
    """,
)
_PATIENCE_S = 5.0
# The log goes into the file when it has so many pages of 4 KiB.
_LOG_PAGES = 256


@dataclass(frozen=True, slots=True)
class Given:
    """Feedback that was stored.

    Attributes:
        model: The model that had answered.
        version: The version that had answered.
        answered: The label of the answer.
        label: The label that is right.
    """

    model: str
    version: int
    answered: str
    label: str


@dataclass(frozen=True, slots=True)
class LiveAccuracy:
    """The feedback on the answers of one version: all, and those that were right."""

    model: str
    version: int
    count: int
    right: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """A captured picture that has feedback.

    Attributes:
        request_id: The id of its request.
        image: Its position in the request.
        time: When the feedback came, in seconds since 1970.
        label: The label that is right.
        picture: Its file, relative to the directory of the captures.
        sha256: The SHA-256 of that file.
    """

    request_id: str
    image: int
    time: float
    label: str
    picture: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Retraining:
    """A retraining by the side-car.

    Attributes:
        id: Its number.
        model: The model.
        began: When it began, in seconds since 1970.
        ended: When it ended; None while it is under way, or if it was killed.
        reason: Why it began.
        upto: It uses the feedback that came until this time.
        pictures: The number of pictures with feedback that it uses.
        version: The version that it published; None for none.
        outcome: What became of it; None while it is under way.
    """

    id: int
    model: str
    began: float
    ended: float | None
    reason: str
    upto: float
    pictures: int
    version: int | None
    outcome: str | None


class Store:
    """The file `feedback.sqlite` of a directory of captures; it is thread-safe.

    Raises:
        InvalidRequest: The file cannot be opened, is no database, or is of a newer
            version of Inkling.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / STORE_FILE
        self._lock = threading.Lock()
        try:
            self._connection = self._opened()
        except sqlite3.Error as error:
            raise InvalidRequest(
                f"{self._path} cannot be opened ({error}). Give a directory that this "
                "user may write, or move a damaged file away."
            ) from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def add(
        self, captured: Iterable[Record], labels: Iterable[tuple[str, int, str]]
    ) -> None:
        """Index captured pictures; a later one takes the place of one with its id.

        Args:
            captured: The records.
            labels: Model, version and the labels as JSON, of versions that are new.

        Raises:
            sqlite3.Error: The disk is full, or the file is unusable.
        """
        rows = [
            (
                *(one.request_id, one.image, one.time, one.model, one.version),
                *(one.label, one.picture.partition("/")[0], one.picture, one.sha256),
            )
            for one in captured
        ]
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO versions VALUES (?, ?, ?)", labels
            )
            connection.executemany(
                "INSERT OR REPLACE INTO captures VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def segments(self) -> list[str]:
        """Return the names of the segments that have pictures in the index.

        Raises:
            sqlite3.Error: The file is unusable.
        """
        return [name for (name,) in self._rows("SELECT DISTINCT segment FROM captures")]

    def forget(self, segments: Sequence[str], before: float) -> None:
        """Remove the pictures of some segments, and feedback that came before a time.

        Raises:
            sqlite3.Error: The disk is full, or the file is unusable.
        """
        with self._transaction() as connection:
            connection.executemany(
                "DELETE FROM captures WHERE segment = ?", [(one,) for one in segments]
            )
            connection.execute("DELETE FROM feedback WHERE time < ?", (before,))

    def give(self, request_id: str, image: int, label: str) -> Given:
        """Store the right label of a captured picture; it replaces an earlier one.

        Raises:
            UnknownRequest: No captured picture has this id.
            InvalidRequest: The version that answered does not know the label.
            NotReady: The disk is full, or the file is unusable.
        """
        try:
            with self._transaction() as connection:
                found = _answer_to(connection, request_id, image)
                model, version, answered, labels = found
                if label not in labels:
                    shown = ", ".join(map(repr, labels[:20]))
                    raise InvalidRequest(
                        f"{label!r:.80} is no label of {model} version {version}; "
                        f"expected one of {shown}{', ...' if labels[20:] else ''}."
                    )
                connection.execute(
                    "INSERT OR REPLACE INTO feedback VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (request_id, image, time.time(), model, version, answered, label),
                )
        except sqlite3.Error:
            raise NotReady(
                "The feedback cannot be stored now, because the disk is full or the "
                "store is unusable. Send it again later."
            ) from None
        return Given(model, version, answered, label)

    def accuracy(self) -> list[LiveAccuracy]:
        """Return the feedback on each version, sorted.

        Raises:
            sqlite3.Error: The file is unusable.
        """
        rows = self._rows(
            "SELECT model, version, COUNT(*), SUM(answered = label) FROM feedback "
            "GROUP BY model, version ORDER BY model, version"
        )
        return [LiveAccuracy(*row) for row in rows]

    def labelled(self, model: str, after: float = 0.0) -> list[Labelled]:
        """Return a model's captured pictures with feedback, by the time it came.

        Args:
            model: The model.
            after: Only feedback that came after this time, in seconds since 1970.

        Raises:
            sqlite3.Error: The file is unusable.
        """
        rows = self._rows(
            "SELECT request_id, image, f.time, f.label, picture, sha256 "
            "FROM feedback f JOIN captures USING (request_id, image) "
            "WHERE f.model = ? AND f.time > ? ORDER BY f.time, request_id, image",
            (model, after),
        )
        return [Labelled(*row) for row in rows]

    def begin_retraining(
        self, model: str, reason: str, upto: float, pictures: int
    ) -> Retraining:
        """Store that a retraining begins.

        Raises:
            sqlite3.Error: The disk is full, or the file is unusable.
        """
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO retrainings (model, began, reason, upto, pictures) "
                "VALUES (?, ?, ?, ?, ?)",
                (model, time.time(), reason, upto, pictures),
            )
        return self.retrainings(model)[-1]

    def end_retraining(self, number: int, version: int | None, outcome: str) -> None:
        """Store what became of a retraining.

        Raises:
            sqlite3.Error: The disk is full, or the file is unusable.
        """
        with self._transaction() as connection:
            connection.execute(
                "UPDATE retrainings SET ended = ?, version = ?, outcome = ? "
                "WHERE id = ?",
                (time.time(), version, outcome, number),
            )

    def retrainings(self, model: str) -> list[Retraining]:
        """Return the retrainings of a model, the oldest first.

        Raises:
            sqlite3.Error: The file is unusable.
        """
        rows = self._rows(
            "SELECT * FROM retrainings WHERE model = ? ORDER BY id", (model,)
        )
        return [Retraining(*row) for row in rows]

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=_PATIENCE_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            _with_log(connection)
            # The log is flushed at checkpoints. A power cut can lose the last feedback,
            # and never the file.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            [(schema,)] = connection.execute("PRAGMA user_version")
            if schema > len(_STEPS):
                raise InvalidRequest(
                    f"{self._path} has the schema {schema} of a newer Inkling; this "
                    f"one knows {len(_STEPS)}. Upgrade Inkling, or give another "
                    "directory."
                )
            for step in _STEPS[schema:]:
                for statement in filter(str.strip, step.split(";")):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(_STEPS)}")
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


def _with_log(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; SQLite does not wait for others that do it now."""
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with closing(connection.execute("PRAGMA journal_mode = WAL")):
                return
        except sqlite3.OperationalError as error:
            locked = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
            if not locked or time.monotonic() > give_up:
                raise
            time.sleep(0.02)


def _answer_to(
    connection: sqlite3.Connection, request_id: str, image: int
) -> tuple[str, int, str, list[str]]:
    found = connection.execute(
        "SELECT model, version, label, labels FROM captures "
        "JOIN versions USING (model, version) WHERE request_id = ? AND image = ?",
        (request_id, image),
    ).fetchone()
    if found is None:
        raise UnknownRequest(
            f"No captured picture has the request id {request_id!r:.80} and the "
            f"position {image}. Only a share of the requests is captured, and their "
            "answers say so; give feedback within the time for which captures are "
            "kept."
        )
    model, version, answered, labels = found
    return model, version, answered, json.loads(labels)
