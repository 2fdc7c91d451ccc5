# SPDX-License-Identifier: Apache-2.0
"""Reads the preparation that the metadata of a TFLite file states: `--like FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from inkling.errors import InvalidRequest
from inkling_training.sources.tflite_metadata import DAMAGED, read_metadata

__all__ = ["is_tflite", "tflite_like"]

_WHOLE = (schema.TensorType.UINT8, schema.TensorType.INT8)


def is_tflite(path: Path) -> bool:
    """Return whether a file is a TFLite file, by its content.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(8)[4:] == b"TFL3"


def tflite_like(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of the contract that the file states, and its labels.

    Raises:
        InvalidRequest: The file is damaged, or states neither values nor labels.
    """
    model, metadata = read_metadata(path.read_bytes())
    try:
        root = schema.Model.GetRootAs(model, 0).Subgraphs(0)
        taken = root.Tensors(root.Inputs(0))
        _, height, width, channels = taken.ShapeAsNumpy().tolist()
        whole = taken.Type() in _WHOLE
    except DAMAGED:
        raise InvalidRequest(
            f"{path} is a TFLite file whose input is no picture, or is damaged; --like "
            "expects one of an image classifier."
        ) from None
    values = metadata.normalisation
    if whole and values.get("scale") == (1.0,):
        values = {}  # The file's own whole numbers are meant.
    if not values and not metadata.labels:
        raise InvalidRequest(
            f"{path} has no metadata with values or labels; state the preparation with "
            "--values and the other options."
        )
    size = {"height": height, "width": width, "channels": channels}
    return {**size, **values}, metadata.labels
