# SPDX-License-Identifier: Apache-2.0
"""Captures answered pictures: a bounded queue, and a thread that writes them to disk.

A request pays for a random number, and, if it is in the share, for a place in the
queue. The thread redacts, writes and indexes. A full queue, a full disk or a failing
redaction loses captures, and never a request.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inkling.capture.records import Record
from inkling.capture.store import Given, Store
from inkling.errors import InvalidRequest
from inkling_serving.capture.figures import counted, fed_back
from inkling_serving.capture.redaction import redaction_of
from inkling_serving.capture.space import NoSpace, Space
from inkling_serving.runtime.metrics import NOW

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from prometheus_client.core import Metric

    from inkling.types import Prediction
    from inkling_serving.capture.segment import Segment
    from inkling_serving.engines.base import Servable
    from inkling_serving.optional_settings import CaptureOptions
    from inkling_serving.runtime.timings import Timings

__all__ = ["Capture", "check_capture"]

_log = logging.getLogger(__name__)
# What waits for the thread, in a process.
_MAX_WAITING, _MAX_WAITING_BYTES = 256, 32 * 1024**2
# The records reach the disk within this time, and what is too old is looked for.
_FLUSH_S, _TIDY_S = 1.0, 30.0
# What comes within this time is indexed by one transaction.
_GATHER_S = 0.1
# After the disk failed, captures are dropped for so long.
_PAUSE_S = 5.0
_END_S = 5.0
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class _Answered:
    """A request that was answered.

    Attributes:
        request_id: Its id.
        model: The model that answered.
        version: The version that answered.
        contract: The hash of the version's contract.
        labels: The contract's labels.
        images: The encoded pictures, each with its position in the request.
        scores: The scores of each picture, shape (pictures, labels).
        abstained: The reason of each answer without a label, or None.
        engine_s: The seconds that the engine took.
    """

    request_id: str
    model: str
    version: int
    contract: str
    labels: Sequence[str]
    images: Sequence[tuple[int, bytes]]
    scores: npt.NDArray[np.float32]
    abstained: Sequence[str | None]
    engine_s: float


class Capture:
    """Captures a share of the requests of a process, and takes feedback on them."""

    def __init__(self, options: CaptureOptions, processes: int) -> None:
        """Make the directory, and start the thread.

        Args:
            options: The settings.
            processes: The number of processes that capture into the directory.

        Raises:
            InvalidRequest: The directory or the redaction cannot be used.
        """
        self._share = options.capture_share
        self._redact = redaction_of(options.capture_redaction)
        directory = _made(Path(options.capture))
        self._max_age_s = options.capture_max_age_s
        self._space = Space(
            directory, options.capture_max_bytes, self._max_age_s, processes
        )
        self._store = Store(directory)
        self._chance = random.Random()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._queue: queue.SimpleQueue[_Answered | None] = queue.SimpleQueue()
        self._segment: Segment | None = None
        self._known: set[tuple[str, int]] = set()
        self._stopped_until = 0.0
        self._flushed_at = self._tidied_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def wants(self) -> bool:
        """Return whether a request is in the share."""
        return self._chance.random() < self._share

    def note(
        self,
        servable: Servable,
        images: Sequence[tuple[int, bytes]],
        scores: npt.NDArray[np.float32],
        found: Sequence[Prediction],
        timings: Timings,
    ) -> bool:
        """Queue the pictures of a request; return whether the queue had room.

        Args:
            servable: The version that answered.
            images: The encoded pictures, each with its position in the request.
            scores: The scores of each picture, shape (pictures, labels).
            found: The answers; none where the caller asked for the scores.
            timings: Has the request's id, and the time of the engine.
        """
        contract = servable.contract
        return self._offer(
            _Answered(
                timings.request_id,
                servable.model,
                servable.version,
                contract.hash,
                contract.labels,
                images,
                scores,
                [one.abstained for one in found] or [None] * len(images),
                timings.engine,
            )
        )

    def _offer(self, answered: _Answered) -> bool:
        size = sum(len(image) for _, image in answered.images)
        with self._lock:
            full = (
                self._queue.qsize() >= _MAX_WAITING
                or self._waiting_bytes + size > _MAX_WAITING_BYTES
            )
            if full:
                self._counts["queue"] += len(answered.images)
                return False
            self._waiting_bytes += size
        self._queue.put(answered)
        return True

    def feedback(self, request_id: str, image: int, label: str) -> Given:
        """Store the right label of a captured picture.

        Raises:
            UnknownRequest: No captured picture has this id.
            InvalidRequest: The version that answered does not know the label.
            NotReady: The disk is full, or the store is unusable.
        """
        return self._store.give(request_id, image, label)

    def counts(self) -> dict[str, float]:
        """Return the counters of this process."""
        with self._lock:
            return {**self._counts, f"{NOW}stopped": float(self._is_stopped)}

    def families(self, counts: Sequence[dict[str, float]]) -> Iterator[Metric]:
        """Yield the metrics for the counters of all processes."""
        yield from counted(counts)
        with suppress(sqlite3.Error):
            yield from fed_back(self._store.accuracy())

    def close(self) -> None:
        """Write what is queued, and end the thread."""
        self._queue.put(None)
        self._thread.join(_END_S)
        self._store.close()

    @property
    def _is_stopped(self) -> bool:
        return self._stopped_until > 0

    def _run(self) -> None:
        while True:
            found, last = self._next()
            try:
                self._write(found)
                self._flush(last)
            except (OSError, sqlite3.Error) as error:
                self._stop(error)
            if last:
                self._leave_segment()
                return

    def _next(self) -> tuple[list[_Answered], bool]:
        """Return the requests that wait, and whether they are the last ones."""
        found: list[_Answered] = []
        with suppress(queue.Empty):
            one = self._queue.get(timeout=_FLUSH_S)
            if one is not None:
                time.sleep(_GATHER_S)
            while one is not None:
                found.append(one)
                one = self._queue.get_nowait()
            return found, True
        return found, False

    def _write(self, found: Sequence[_Answered]) -> None:
        """Write the pictures of some requests, and index them.

        Raises:
            OSError: The disk is full or cannot be written.
            sqlite3.Error: The index cannot be written.
        """
        left = sum(len(one.images) for one in found)
        written: list[Record] = []
        try:
            if self._is_stopped and time.monotonic() < self._stopped_until:
                return
            try:
                for one in found:
                    for record in self._captured(one):
                        left -= record is None
                        if record is not None:
                            written.append(record)
            finally:
                self._index(found, written)
                left -= len(written)
            if self._is_stopped and written:
                _log.warning("captures are written again")
                self._stopped_until = 0.0
        finally:
            self._count("disk", left)
            size = sum(len(image) for one in found for _, image in one.images)
            with self._lock:
                self._waiting_bytes -= size

    def _index(self, found: Sequence[_Answered], written: Sequence[Record]) -> None:
        if not written:
            return
        labels = {
            (one.model, one.version): json.dumps(list(one.labels))
            for one in found
            if (one.model, one.version) not in self._known
        }
        self._store.add(written, [(*key, text) for key, text in labels.items()])
        self._known.update(labels)
        self._count("stored", len(written))

    def _captured(self, answered: _Answered) -> Iterator[Record | None]:
        """Write a request's pictures; yield each record, or None if it is left out."""
        rows = zip(answered.images, answered.scores, answered.abstained, strict=True)
        for (place, image), scores, abstained in rows:
            picture = self._redacted(image)
            if picture is None:
                self._count("redaction", 1)
                yield None
                continue
            try:
                segment = self._room_for(len(picture))
            except NoSpace:
                self._count("full", 1)
                yield None
                continue
            record = Record(
                request_id=answered.request_id,
                image=place,
                time=time.time(),
                model=answered.model,
                version=answered.version,
                contract=answered.contract,
                label=answered.labels[int(scores.argmax())],
                abstained=abstained,
                scores=tuple(round(float(one), _DIGITS) for one in scores),
                engine_ms=round(1000 * answered.engine_s, 3),
                picture="",
                sha256=hashlib.sha256(picture).hexdigest(),
            )
            yield segment.add(picture, record)

    def _redacted(self, image: bytes) -> bytes | None:
        try:
            return self._redact(image)
        except Exception as error:  # noqa: BLE001 - code of the user
            _log.warning("the redaction of a picture failed: %s", type(error).__name__)
            return None

    def _room_for(self, size: int) -> Segment:
        """Return the segment that takes a picture.

        Raises:
            NoSpace: The bound on bytes leaves no room.
            OSError: The disk is full or cannot be written.
        """
        segment = self._segment
        if segment is not None and not self._fits(segment, size):
            self._leave_segment()
        if self._segment is None:
            if size > self._space.segment_bytes // 2:
                raise NoSpace
            self._segment = self._space.segment()
        return self._segment

    def _fits(self, segment: Segment, size: int) -> bool:
        is_new = time.monotonic() - segment.began < self._space.segment_s
        return is_new and segment.has_room(size, self._space.segment_bytes)

    def _flush(self, now: bool) -> None:
        """Let the records reach the disk, and remove what is too old."""
        segment, at = self._segment, time.monotonic()
        if segment is not None and (now or at - self._flushed_at >= _FLUSH_S):
            self._flushed_at = at
            segment.flush()
            if not self._fits(segment, 0):
                self._leave_segment()
        if at - self._tidied_at >= min(_TIDY_S, self._space.segment_s):
            self._tidied_at = at
            self._space.tidy()
            # Any process may have removed a segment, before its rows were written, too.
            gone = [one for one in self._store.segments() if not self._space.has(one)]
            self._store.forget(gone, time.time() - self._max_age_s)

    def _leave_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _stop(self, error: Exception) -> None:
        """Drop captures for a while, because the disk is full or fails."""
        if not self._is_stopped:
            _log.warning("captures cannot be written, and are dropped: %s", error)
        self._leave_segment()
        self._stopped_until = time.monotonic() + _PAUSE_S

    def _count(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] += number


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(
            f"The directory {directory} for captures cannot be made: {error.strerror}. "
            "Choose another directory with --capture."
        ) from None
    return directory


def check_capture(options: CaptureOptions) -> None:
    """Check, before any process starts, that captures can be written.

    Raises:
        InvalidRequest: The directory, the store or the redaction cannot be used.
    """
    if options.capture:
        redaction_of(options.capture_redaction)
        Store(_made(Path(options.capture))).close()
