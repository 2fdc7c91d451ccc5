# SPDX-License-Identifier: Apache-2.0
"""The TFLite formats of a model that Inkling did not design: those that it allows.

LiteRT may lack an operation of the model, and a smaller format may be too inexact. The
version then lacks that format, and its card says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inkling.model.bundle import read_bundle
from inkling.model.repository import FORMATS
from inkling_training.release import export
from inkling_training.sources.tflite_file import has_loops

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inkling_training.release.parity import ParityRow

__all__ = ["convert", "exact", "leave_out"]


def convert(
    exporter: export.Exporter,
    inputs: npt.NDArray[np.float32],
    directory: Path,
    say: Callable[[str], None],
) -> tuple[list[str], list[str]]:
    """Write a model in every TFLite format that LiteRT can run.

    Args:
        exporter: Writes the model.
        inputs: Inputs that calibrate int8, float32, shape (n, height, width, channels).
        directory: The directory for the files.
        say: Prints a line of progress.

    Returns:
        The formats, and a sentence about each that is missing.
    """
    formats, notes = [], []
    for tflite_format in FORMATS:
        if tflite_format == "int8" and _has_loops(directory):
            # TensorFlow's calibration ends the process there.
            notes.append("It has no int8 file, because loops cannot be calibrated.")
            continue
        say(f"Converting to TFLite {tflite_format}.")
        try:
            _write(exporter, tflite_format, inputs, directory)
        except export.Unconvertible as error:
            notes.append(_lacking(tflite_format, error))
            if tflite_format == "float32":
                directory.rmdir()
                break
        else:
            formats.append(tflite_format)
    return formats, notes


def _has_loops(directory: Path) -> bool:
    content = (directory / "float32.tflite").read_bytes()
    return has_loops(read_bundle(content).model)


def _write(
    exporter: export.Exporter,
    tflite_format: str,
    inputs: npt.NDArray[np.float32],
    directory: Path,
) -> None:
    """Write a file for batches of any size, or of one picture if there is no other way.

    LiteRT runs recurrent layers, and some reshapings, only if it knows the batch.
    """
    try:
        exporter.write_tflite(tflite_format, inputs, directory)
    except export.Unconvertible:
        if exporter.single or tflite_format != "float32":
            raise
        exporter.single = True
        exporter.write_tflite(tflite_format, inputs, directory)


def _lacking(tflite_format: str, error: export.Unconvertible) -> str:
    why = f"LiteRT lacks {', '.join(error.operations)}"
    if not error.operations:
        why = "TensorFlow's converter failed, or LiteRT cannot run what it made"
    if tflite_format == "float32":
        return (
            f"It has no TFLite file, because {why}; TensorFlow Serving alone can "
            "serve it."
        )
    return f"It has no {tflite_format} file, because {why}."


def exact(rows: Sequence[ParityRow], formats: Sequence[str]) -> list[ParityRow]:
    """Return the rows of the exports that must agree: SavedModel and float32."""
    return [row for row in rows if row.export in ("saved_model", *formats[:1])]


def leave_out(rows: Sequence[ParityRow], path: Path) -> list[str]:
    """Delete the files that disagree with the model; return a sentence about each.

    Args:
        rows: The rows of all exports; those of `exact` have passed.
        path: The version's directory.
    """
    notes = []
    for row in rows:
        if not row.passed:
            (path / "tflite" / f"{row.export}.tflite").unlink()
            why = f"its scores differ by up to {row.worst:.2g}"
            if math.isnan(row.worst):
                why = "its answers are no probabilities"
            notes.append(f"It has no {row.export} file, because {why}.")
    return notes
