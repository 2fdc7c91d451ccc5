# SPDX-License-Identifier: Apache-2.0
"""Opens a model of any kind, by its content."""

from __future__ import annotations

from pathlib import Path

from inkling_training.sources.guards import digest_of
from inkling_training.sources.keras_file import open_h5, open_keras
from inkling_training.sources.saved_model import open_saved_model
from inkling_training.sources.source import Choice, Source, UnusableModel
from inkling_training.sources.tflite_file import open_tflite

__all__ = ["open_source"]

_ZIP, _HDF5, _TFLITE = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"TFL3"
_FOREIGN = {
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".onnx": "ONNX",
    ".safetensors": "safetensors weights",
    ".pkl": "a pickle",
    ".joblib": "a pickle",
    ".mlmodel": "Core ML",
    ".pb": "a graph of TensorFlow 1",
    ".json": "a configuration without weights",
}


def open_source(path: Path, choice: Choice) -> Source:
    """Open the model in a `.keras`, `.h5` or `.tflite` file, or in a SavedModel.

    Args:
        path: The file, or the directory of the SavedModel.
        choice: What the caller chose where the file leaves a choice.

    Raises:
        UnusableModel: The model cannot be opened, carries code that is not trusted, or
            is no image classifier.
    """
    if path.is_dir():
        return open_saved_model(path, choice)
    digest_of(path)
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(_ZIP):
        return open_keras(path, choice)
    if head == _HDF5:
        return open_h5(path, choice)
    if head[4:] == _TFLITE:
        return open_tflite(path, choice)
    if path.name == "saved_model.pb":
        raise UnusableModel(
            f"{path} is a part of a SavedModel; give its directory, {path.parent}."
        )
    foreign = _FOREIGN.get(path.suffix.lower())
    came = f"is {foreign}" if foreign else "is damaged, or no model that Inkling knows"
    raise UnusableModel(
        f"{path.name} {came}; expected a .keras, .h5 or .tflite file, or the directory "
        "of a SavedModel."
    )
