# SPDX-License-Identifier: Apache-2.0
"""The work of every peer for a picture, as written by hand."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["inputs_of", "model_at", "prediction"]

Model = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def inputs_of(image: bytes) -> npt.NDArray[np.float32]:
    """Return the model input, shape (1, 28, 28, 1), in [0, 1]."""
    picture = Image.open(io.BytesIO(image)).convert("L")
    resized = picture.resize((28, 28), Image.Resampling.BILINEAR)
    inputs = np.asarray(resized, np.float32)[np.newaxis, :, :, np.newaxis]
    return inputs / np.float32(255)


def model_at(path: Path) -> Model:
    """Return a function that runs a `.tflite` file or a folder with a SavedModel.

    The function takes inputs (n, 28, 28, 1) and returns scores (n, classes), float32.
    """
    return _lite_rt(path) if path.suffix == ".tflite" else _saved_model(path)


def prediction(model: Model, image: bytes) -> dict[str, Any]:
    """Return the answer for a picture."""
    scores = model(inputs_of(image))[0]
    return {"label": str(int(scores.argmax())), "scores": scores.tolist()}


def _saved_model(path: Path) -> Model:
    import tensorflow as tf  # noqa: PLC0415 - the peers with LiteRT do not need it

    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]

    def run(inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = signature(inputs=tf.constant(inputs))[
            "scores"
        ].numpy()
        return scores

    run.keep = loaded  # type: ignore[attr-defined] # keeps its variables alive
    return run


def _lite_rt(path: Path) -> Model:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - as above

    # An interpreter is not thread-safe.
    local = threading.local()

    def run(inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        interpreter = getattr(local, "interpreter", None)
        if interpreter is None:
            interpreter = local.interpreter = Interpreter(str(path), num_threads=1)
            interpreter.allocate_tensors()
            local.input = interpreter.get_input_details()[0]["index"]
            local.output = interpreter.get_output_details()[0]["index"]
        interpreter.set_tensor(local.input, inputs)
        interpreter.invoke()
        scores: npt.NDArray[np.float32] = interpreter.get_tensor(local.output)
        return scores

    return run
