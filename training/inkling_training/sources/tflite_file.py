# SPDX-License-Identifier: Apache-2.0
"""Opens bare `.tflite` files with LiteRT."""

from __future__ import annotations

import io
import zipfile
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from inkling_training.sources.guards import digest_of
from inkling_training.sources.source import (
    DTYPES,
    Choice,
    Source,
    UnusableModel,
    shape_of,
    two_dimensional,
)

__all__ = ["open_tflite", "precision"]

_MAX_LABELS_BYTES = 4 * 1024**2
_ACTIVATIONS = {
    "SOFTMAX": "softmax",
    "LOGISTIC": "sigmoid",
    "FULLY_CONNECTED": "linear",
}
_PASSED = ("DEQUANTIZE", "QUANTIZE", "RESHAPE", "SQUEEZE", "CAST", "DELEGATE")


def open_tflite(path: Path, choice: Choice) -> Source:
    """Open a TFLite file, with or without metadata.

    Raises:
        UnusableModel: The file is damaged, or is no image classifier.
    """
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    digest, content = digest_of(path), path.read_bytes()
    if choice.output is not None or choice.signature is not None:
        raise UnusableModel(
            "--output and --signature do not apply to a TFLite file, which has one "
            "input and one output."
        )
    model, labels = _without_archive(content)
    try:
        interpreter = Interpreter(model_content=model)
        interpreter.allocate_tensors()
        inputs, outputs = (
            interpreter.get_input_details(),
            interpreter.get_output_details(),
        )
    except (ValueError, RuntimeError, TypeError):
        raise UnusableModel(
            f"LiteRT cannot open {path.name}: it is damaged, or needs operations that "
            "LiteRT lacks. Copy or convert the model again."
        ) from None
    if len(inputs) != 1 or len(outputs) != 1:
        raise UnusableModel(
            f"{path.name} has {len(inputs)} inputs and {len(outputs)} outputs; "
            "expected one of each, as classifiers have."
        )
    return _source(path.name, digest, model, interpreter, labels)


def _without_archive(content: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Return the model without the archive of TFLite metadata, and its labels."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            texts = [one for one in members if one.filename.endswith(".txt")]
            start = min((one.header_offset for one in members), default=len(content))
            labels: tuple[str, ...] = ()
            if len(texts) == 1 and texts[0].file_size <= _MAX_LABELS_BYTES:
                text = archive.read(texts[0]).decode()
                labels = tuple(line for line in text.splitlines() if line.strip())
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError):
        return content, ()
    except (RuntimeError, EOFError, OSError):
        return content, ()
    return content[:start], labels


def _source(
    name: str, digest: str, model: bytes, interpreter: Any, labels: tuple[str, ...]
) -> Source:
    [taken], [given] = interpreter.get_input_details(), interpreter.get_output_details()
    dtype = np.dtype(taken["dtype"]).name
    # The batch of a TFLite file can be changed, whatever the file states.
    shape: tuple[int | None, ...] = (None, *taken["shape"].tolist()[1:])
    layout, height, width, channels = shape_of(shape, dtype, name)
    if dtype not in DTYPES or (None in (height, width, channels)):
        raise UnusableModel(f"{name} has an input of an open size; convert it again.")
    quantised = "int" in dtype and bool(taken["quantization"][0])

    def raw(batch: Any) -> Any:
        found = [_answer(interpreter, taken, given, one, layout) for one in batch]
        return two_dimensional(np.stack(found), name)

    return Source(
        name=name,
        digest=digest,
        library=f"LiteRT {version('ai-edge-litert')}",
        height=height,
        width=width,
        channels=channels,
        layout=layout,
        dtype=dtype,
        activation=_activation(interpreter, given["index"]),
        raw=raw,
        values=_values(taken, dtype),
        quantisation=taken["quantization"] if quantised else None,
        tflite=model,
        labels=labels,
    )


def _answer(interpreter: Any, taken: Any, given: Any, inputs: Any, layout: str) -> Any:
    ordered = inputs.transpose(2, 0, 1) if layout == "chw" else inputs
    batch = np.ascontiguousarray(ordered[np.newaxis], np.float32)
    dtype = np.dtype(taken["dtype"])
    if "int" in dtype.name:
        scale, zero = taken["quantization"]
        steps = batch / np.float32(scale) + zero if scale else batch
        limits = np.iinfo(dtype)
        batch = np.clip(np.round(steps), limits.min, limits.max).astype(dtype)
    interpreter.set_tensor(taken["index"], batch)
    interpreter.invoke()
    found = interpreter.get_tensor(given["index"])[0]
    if found.dtype == np.float32:
        return found
    scale, zero = given["quantization"]
    return (found.astype(np.float32) - zero) * np.float32(scale)


def _values(taken: Any, dtype: str) -> tuple[str, str] | None:
    scale, zero = taken["quantization"]
    if "int" not in dtype:
        return None
    if not scale:
        return "bytes", "the model takes whole numbers"
    limits = np.iinfo(dtype)
    low, high = (limits.min - zero) * scale, (limits.max - zero) * scale
    return "bytes", (
        f"the model takes {dtype}, one step for each grey level ({low:.3g} to "
        f"{high:.3g} in its own measure)"
    )


def _activation(interpreter: Any, output: int) -> str | None:
    """Return the function behind the output, from the list of operations."""
    made = {
        index: operation
        for operation in interpreter._get_ops_details()
        for index in operation["outputs"]
    }
    while output in made:
        kind = made[output]["op_name"]
        if kind not in _PASSED or kind == "DELEGATE":
            return _ACTIVATIONS.get(kind)
        output = made[output]["inputs"][0]
    return None


def precision(source: Source) -> str:
    """Return the format under which a given TFLite file is published.

    Returns:
        `int8` if it computes with whole numbers, `float16` if its weights have half
        precision, else `float32`.
    """
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    details = Interpreter(model_content=source.tflite).get_tensor_details()
    types = {np.dtype(one["dtype"]).name for one in details if one["shape"].size > 1}
    if types & {"int8", "uint8"}:
        return "int8"
    return "float16" if "float16" in types else "float32"
