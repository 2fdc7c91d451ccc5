# SPDX-License-Identifier: Apache-2.0
"""The log on the standard error, which never makes a request wait for its reader.

Lines go into a bounded queue, and a thread writes them. Without the queue, a full pipe
that nobody reads would stop the event loop, the probes and the end of the process.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import logging
import os
import queue
import random
import select
import threading
import time
from datetime import datetime
from typing import Any

from inkling_serving.runtime.timings import PHASES, Timings

__all__ = ["AccessLog", "Log", "collect_stderr", "dropped_lines", "start_log"]

_access = logging.getLogger("inkling_serving.access")

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_STDERR = 2
# The part that speaks in lines of libraries in C.
_STDERR_NAME = "stderr"
_CAPACITY, _MAX_LINE = 1000, 8192
# The time for the last lines at the end of the process, if somebody reads them.
_LAST_WORDS_S = 1.0


class _Formatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the time as ISO 8601 has it, with the offset from UTC."""
        del datefmt
        local = datetime.fromtimestamp(record.created).astimezone()
        return local.isoformat(timespec="milliseconds")


class _JsonFormatter(_Formatter):
    """Makes one JSON object of each record, whatever its message contains."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON without line ends; texts in it may have escapes."""
        shown: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        return json.dumps(shown)


class Log(logging.Handler):
    """Writes to a file descriptor from a thread, and drops what finds no room.

    Attributes:
        dropped: The number of lines that were dropped.
        descriptor: The file descriptor that the lines are written to.
    """

    def __init__(
        self, descriptor: int = _STDERR, capacity: int = _CAPACITY, form: str = "text"
    ) -> None:
        """Take a file descriptor, and the form of the lines: `text` or `json`."""
        super().__init__()
        json_lines = form == "json"
        self.setFormatter(_JsonFormatter() if json_lines else _Formatter(_FORMAT))
        self._json_lines = json_lines
        self.dropped = 0
        self.descriptor = descriptor
        self._told = 0
        self._collected = -1
        self._collector: threading.Thread | None = None
        self._lines: queue.Queue[bytes | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as dropped."""
        try:
            line = self._encoded(record)
        except (TypeError, ValueError):  # arguments that do not fit the message
            line = f"a line of {record.name} cannot be formatted\n".encode()
        self._queue(line)

    def _queue(self, line: bytes) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def collect(self, descriptor: int = _STDERR) -> None:
        """Queue what libraries in C write to a descriptor, too, line by line."""
        reader, writer = os.pipe()
        os.dup2(writer, descriptor)
        os.close(writer)
        self._collected = descriptor
        self._collector = threading.Thread(
            target=self._collect, args=(reader,), name="log of C", daemon=True
        )
        self._collector.start()

    def _collect(self, reader: int) -> None:
        with os.fdopen(reader, "rb") as lines:
            while line := lines.readline(_MAX_LINE):
                self._queue(self._of_another(line.removesuffix(b"\n")))

    def _of_another(self, line: bytes) -> bytes:
        """Return a line that did not come through `logging`."""
        if not self._json_lines:
            return line + b"\n"
        text = line.decode(errors="backslashreplace")
        record = (_STDERR_NAME, logging.INFO, "", 0, text, (), None)
        return self._encoded(logging.LogRecord(*record))

    def end(self, within_s: float = _LAST_WORDS_S) -> None:
        """Write what is queued, for so long at most."""
        give_up = time.monotonic() + within_s
        if self._collector is not None:
            # With this, its pipe comes to an end.
            os.dup2(self.descriptor, self._collected)
            self._collector.join(within_s / 2)
        try:
            self._lines.put(None, timeout=within_s)
        except queue.Full:
            return
        self._thread.join(max(0.0, give_up - time.monotonic()))

    def _encoded(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            lost = self.dropped - self._told
            if lost:
                self._told += lost
                self._write(self._encoded(_record_of_loss(lost)))

    def _write(self, line: bytes) -> None:
        """Write a line, however long that takes; Python's own buffers have locks."""
        left = memoryview(line)
        while left:
            try:
                left = left[os.write(self.descriptor, left) :]
            except BlockingIOError:  # another process made the pipe non-blocking
                select.select([], [self.descriptor], [], 1.0)
            except OSError:  # nobody can ever read it
                self.dropped += 1
                self._told += 1
                return


def _record_of_loss(lost: int) -> logging.LogRecord:
    return logging.LogRecord(
        *(__name__, logging.WARNING, __file__, 0),
        *("%d log lines were dropped, because the log was not read", (lost,), None),
    )


def start_log(level: str, form: str) -> None:
    """Log to the standard error from now on; a second call changes nothing.

    Args:
        level: The lowest level, such as `info`.
        form: The form of the lines: `text` or `json`.
    """
    root = logging.getLogger()
    if _logs():
        return
    # gRPC's core would write its own lines, and wait for their reader.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    log = Log(os.dup(_STDERR), form=form)
    root.addHandler(log)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    threading.excepthook = _say_end_of_thread
    atexit.register(log.end)


def collect_stderr() -> None:
    """Let the log take what libraries in C write to the standard error of a process.

    LiteRT says there which delegate it uses; a worker that starts again would wait.
    """
    for log in _logs():
        log.collect()
        # What a crash says cannot wait for a thread.
        faulthandler.enable(log.descriptor)


class AccessLog:
    """Logs a share of the answered requests, one line each."""

    def __init__(self, share: float) -> None:
        """Take the share of the requests to log, 0 to 1."""
        self._share = share
        self._chance = random.Random()

    def tell(self, protocol: str, code: str, timings: Timings) -> None:
        """Log a request, or pass it over.

        Args:
            protocol: The protocol, such as `http`.
            code: `ok`, or the code of the error.
            timings: The request's phases, version and id.
        """
        if not self._share or self._chance.random() >= self._share:
            return
        milliseconds = {
            name: round(1000 * getattr(timings, name), 3) for name in PHASES
        }
        fields = {
            "request_id": timings.request_id,
            "trace_id": timings.trace_id,
            "protocol": protocol,
            "code": code,
            "model": timings.model,
            "version": timings.version,
            "images": timings.images,
            "duration_ms": round(1000 * (time.perf_counter() - timings.started), 3),
            "phases_ms": milliseconds,
        }
        shown = ", ".join(f"{name} {value:g}" for name, value in milliseconds.items())
        _access.info(
            "%s %s %s version %d, %d images in %g ms (%s), request %s",
            *(protocol, code, timings.model or "-", timings.version, timings.images),
            *(fields["duration_ms"], shown, timings.request_id or "-"),
            extra={"fields": fields},
        )


def dropped_lines() -> int:
    """Return the number of lines that this process has dropped."""
    return sum(log.dropped for log in _logs())


def _logs() -> list[Log]:
    return [one for one in logging.getLogger().handlers if isinstance(one, Log)]


def _say_end_of_thread(args: Any) -> None:
    name = args.thread.name if args.thread else "a thread"
    logging.getLogger(__name__).error("%s ended", name, exc_info=args.exc_value)
