# SPDX-License-Identifier: Apache-2.0
"""The format of captured pictures and answers: segments of NDJSON and picture files.

    CAPTURE/
      feedback.sqlite                     the index, and the labels that people gave
      20261128T031500.123456Z-4711/       a segment; one process writes it
        records.ndjson                    a line of JSON for each picture
        000001.png 000002.jpg             the pictures, as they came or as redacted

A line is written after its picture. A process that is killed may leave a picture
without a line, and a line without its end; both are passed over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inkling.errors import InvalidRequest

__all__ = ["FORMAT", "RECORDS_FILE", "Record", "line_of", "records", "segments"]

FORMAT = 1
RECORDS_FILE = "records.ndjson"


@dataclass(frozen=True, slots=True)
class Record:
    """One captured picture with its answer.

    Attributes:
        request_id: The id of the request, as its answer stated it.
        image: The position of the picture in its request, from 0.
        time: When it was answered, in seconds since 1970.
        model: The model that answered.
        version: The version that answered.
        contract: The hash of the version's contract.
        label: The most probable label.
        abstained: The reason why the answer had no label; None if it had one.
        scores: The scores of all labels, in the order of the contract's labels.
        engine_ms: The milliseconds that the engine took for the request.
        picture: The file of the picture, relative to the directory of the captures.
        sha256: The SHA-256 of that file.
    """

    request_id: str
    image: int
    time: float
    model: str
    version: int
    contract: str
    label: str
    abstained: str | None
    scores: tuple[float, ...]
    engine_ms: float
    picture: str
    sha256: str

    def content(self, directory: Path) -> bytes | None:
        """Return the picture's bytes; None if the file is gone or is not whole."""
        try:
            content = (directory / self.picture).read_bytes()
        except OSError:
            return None
        whole = hashlib.sha256(content).hexdigest() == self.sha256
        return content if whole else None


def line_of(record: Record) -> bytes:
    """Return the line of a record, with its end."""
    shown = {name: getattr(record, name) for name in Record.__slots__}
    shown["picture"] = record.picture.rpartition("/")[2]
    text = json.dumps({"format": FORMAT, **shown}, separators=(",", ":"))
    return text.encode() + b"\n"


def segments(directory: Path) -> list[Path]:
    """Return the segments of a directory of captures, the oldest first.

    Raises:
        InvalidRequest: The directory cannot be read.
    """
    try:
        found = [one for one in directory.iterdir() if (one / RECORDS_FILE).is_file()]
    except OSError:
        raise InvalidRequest(
            f"The directory of captures {directory} cannot be read; expected the "
            "directory that inkling serve --capture names."
        ) from None
    return sorted(found)


def records(directory: Path, model: str | None = None) -> Iterator[Record]:
    """Yield the whole records, the oldest segment first.

    Lines that are damaged or of another format are passed over, and so are segments
    that a gateway removes meanwhile.

    Args:
        directory: The directory of the captures.
        model: Yield only the records of this model; None for all.

    Raises:
        InvalidRequest: The directory cannot be read.
    """
    for segment in segments(directory):
        try:
            lines = (segment / RECORDS_FILE).read_bytes().split(b"\n")[:-1]
        except OSError:
            continue
        for line in lines:
            record = _record(segment.name, line)
            if record is not None and model in (None, record.model):
                yield record


def _record(segment: str, line: bytes) -> Record | None:
    try:
        shown: dict[str, Any] = json.loads(line)
        if shown.pop("format") != FORMAT:
            return None
        name = shown.pop("picture")
        if not isinstance(name, str) or "/" in name:
            return None
        scores = tuple(map(float, shown.pop("scores")))
        return Record(**shown, picture=f"{segment}/{name}", scores=scores)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
