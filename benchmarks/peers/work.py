# SPDX-License-Identifier: Apache-2.0
"""The work of every peer for a picture, as written by hand."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["Model", "inputs_of", "model_at", "prediction"]


@dataclass(frozen=True)
class Model:
    """A model in memory.

    Attributes:
        shape: Height, width and channels of its input.
        run: Takes inputs (n, height, width, channels) and returns scores (n, classes),
            both float32.
    """

    shape: tuple[int, int, int]
    run: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def inputs_of(
    image: bytes, shape: tuple[int, int, int] = (28, 28, 1)
) -> npt.NDArray[np.float32]:
    """Return the model input, shape (1, height, width, channels), in [0, 1]."""
    height, width, channels = shape
    picture = Image.open(io.BytesIO(image)).convert("L" if channels == 1 else "RGB")
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    inputs = np.asarray(resized, np.float32).reshape(1, *shape)
    return inputs / np.float32(255)


def model_at(path: Path) -> Model:
    """Return the model of a `.tflite` file or of a folder with a SavedModel."""
    return _lite_rt(path) if path.suffix == ".tflite" else _saved_model(path)


def prediction(model: Model, image: bytes) -> dict[str, Any]:
    """Return the answer for a picture."""
    scores = model.run(inputs_of(image, model.shape))[0]
    return {"label": str(int(scores.argmax())), "scores": scores.tolist()}


def _saved_model(path: Path) -> Model:
    import tensorflow as tf  # noqa: PLC0415 - the peers with LiteRT do not need it

    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    [_, height, width, channels] = signature.structured_input_signature[1][
        "inputs"
    ].shape

    def run(inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = signature(inputs=tf.constant(inputs))[
            "scores"
        ].numpy()
        return scores

    run.keep = loaded  # type: ignore[attr-defined] # keeps its variables alive
    return Model((height, width, channels), run)


def _lite_rt(path: Path) -> Model:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 - as above

    # An interpreter is not thread-safe.
    local = threading.local()

    def interpreter() -> Any:
        if not hasattr(local, "interpreter"):
            local.interpreter = Interpreter(str(path), num_threads=1)
            local.interpreter.allocate_tensors()
            [local.input] = local.interpreter.get_input_details()
            [local.output] = local.interpreter.get_output_details()
        return local.interpreter

    def run(inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        mine = interpreter()
        mine.set_tensor(local.input["index"], inputs)
        mine.invoke()
        scores: npt.NDArray[np.float32] = mine.get_tensor(local.output["index"])
        return scores

    interpreter()
    _, height, width, channels = local.input["shape"].tolist()
    return Model((height, width, channels), run)
