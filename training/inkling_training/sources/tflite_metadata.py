# SPDX-License-Identifier: Apache-2.0
"""Reads TFLite metadata: the labels and the normalisation that a file carries.

The metadata is a flatbuffer in a buffer of the model, by the schema
`metadata_schema.fbs` of tflite-support. Its files, such as the labels, are in a zip
archive behind the model.
"""

from __future__ import annotations

import ast
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers.number_types import Float32Flags, Uint8Flags
from flatbuffers.table import Table

__all__ = ["DAMAGED", "Metadata", "read_metadata"]

_MAX_LABELS_BYTES = 4 * 1024**2
_NAME = b"TFLITE_METADATA"
_AXIS_LABELS, _NORMALISATION = 2, 1
# The places of fields in `metadata_schema.fbs`.
_SUBGRAPHS, _INPUTS, _OUTPUTS = 3, 2, 3
_UNITS, _FILES = 4, 6
_FILE_NAME, _FILE_TYPE, _FILE_LOCALE = 0, 2, 3
# What reading a damaged flatbuffer raises.
DAMAGED = (struct.error, IndexError, ValueError, TypeError, AttributeError)


@dataclass(frozen=True)
class Metadata:
    """The statements of a TFLite file about itself.

    Attributes:
        labels: Its labels, in the order of the outputs; empty without.
        mean: What is subtracted from a pixel of 0..255, once or for each channel; empty
            if the file does not say.
        std: What the difference is divided by; as `mean`.
    """

    labels: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def normalisation(self) -> dict[str, Any]:
        """Scale and offset, as in a contract; empty if the file does not say."""
        if not self.mean or not self.std or 0 in self.std:
            return {}
        size = max(len(self.mean), len(self.std))
        mean, std = (np.resize(one, size) for one in (self.mean, self.std))
        return {
            "scale": tuple((1 / std).tolist()),
            "offset": tuple((-mean / std).tolist()),
        }


@dataclass(frozen=True)
class _Stated:
    """The content of the flatbuffer that matters here."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    # From the name of a file of labels to its language.
    files: Mapping[str, str] = field(default_factory=dict)


def read_metadata(content: bytes) -> tuple[bytes, Metadata]:
    """Return the model without the archive behind it, and its metadata.

    Args:
        content: The bytes of a TFLite file.
    """
    model, texts = _without_archive(content)
    try:
        stated = _stated(model)
    except DAMAGED:
        stated = _Stated()
    labels = _labels(texts, stated.files)
    return model, Metadata(labels, stated.mean, stated.std)


def _without_archive(content: bytes) -> tuple[bytes, Mapping[str, str]]:
    """Return the model, and the texts in its archive by their names."""
    texts: dict[str, str] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            start = min((one.header_offset for one in members), default=len(content))
            for one in members:
                if (
                    one.filename.endswith((".txt", ".json"))
                    and one.file_size < _MAX_LABELS_BYTES
                ):
                    texts[one.filename] = archive.read(one).decode()
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError):
        return content, {}
    except (RuntimeError, EOFError, OSError):
        return content, {}
    return content[:start], texts


def _labels(texts: Mapping[str, str], files: Mapping[str, str]) -> tuple[str, ...]:
    named = {name: locale for name, locale in files.items() if name in texts}
    # The labels without a language come first, then the English ones.
    names = sorted(named, key=lambda name: (named[name] not in ("", "en"), named[name]))
    objects = [found for one in texts.values() if (found := _in_object(one))]
    if not names and objects:
        return objects[0]
    plain = [name for name in texts if name.endswith(".txt")]
    if not names and len(plain) == 1:
        names = plain
    if not names:
        return ()
    return tuple(line for line in texts[names[0]].splitlines() if line.strip())


def _in_object(text: str) -> tuple[str, ...]:
    """Return the `names` of an object in JSON or Python, as Ultralytics writes it."""
    for read in (json.loads, ast.literal_eval):
        try:
            names = {str(key): name for key, name in read(text)["names"].items()}
            return tuple(str(names[str(place)]) for place in range(len(names)))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        except (TypeError, KeyError, AttributeError):
            break
    return ()


def _stated(model: bytes) -> _Stated:
    root = schema.Model.GetRootAs(model, 0)
    for place in range(root.MetadataLength()):
        entry = root.Metadata(place)
        if entry.Name() == _NAME:
            data = root.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            return _of_tensors(data)
    return _Stated()


def _of_tensors(data: bytes) -> _Stated:
    start = flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0)
    subgraph = next(_tables(Table(data, start), _SUBGRAPHS))
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    for tensor in _tables(subgraph, _INPUTS):
        for unit in _tables(tensor, _UNITS):
            kind, options = _union(unit)
            if kind == _NORMALISATION and options is not None:
                mean, std = _floats(options, 0), _floats(options, 1)
    files = {
        _text(file, _FILE_NAME): _text(file, _FILE_LOCALE)
        for tensor in _tables(subgraph, _OUTPUTS)
        for file in _tables(tensor, _FILES)
        if _byte(file, _FILE_TYPE) == _AXIS_LABELS
    }
    return _Stated(mean, std, files)


def _offset(table: Table, place: int) -> int:
    """Return the offset of a field, by its place in the schema; 0 without."""
    return int(table.Offset(4 + 2 * place))


def _tables(table: Table, place: int) -> Iterator[Table]:
    offset = _offset(table, place)
    if not offset:
        return
    start = table.Vector(offset)
    for number in range(table.VectorLen(offset)):
        yield Table(table.Bytes, table.Indirect(start + 4 * number))


def _union(table: Table) -> tuple[int, Table | None]:
    """Return the kind and the content of a union, whose kind is the first field."""
    offset = _offset(table, 1)
    if not offset:
        return 0, None
    content = Table(bytearray(), 0)
    table.Union(content, offset)
    return _byte(table, 0), content


def _floats(table: Table, place: int) -> tuple[float, ...]:
    offset = _offset(table, place)
    if not offset:
        return ()
    found: Any = table.GetVectorAsNumpy(Float32Flags, offset)
    return tuple(np.asarray(found, np.float64).tolist())


def _text(table: Table, place: int) -> str:
    offset = _offset(table, place)
    return table.String(offset + table.Pos).decode() if offset else ""


def _byte(table: Table, place: int) -> int:
    return int(table.GetSlot(4 + 2 * place, 0, Uint8Flags))
