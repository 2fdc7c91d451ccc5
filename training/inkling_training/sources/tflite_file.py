# SPDX-License-Identifier: Apache-2.0
"""Opens bare `.tflite` files with LiteRT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inkling_training.sources.beginning import values_of
from inkling_training.sources.guards import digest_of
from inkling_training.sources.source import (
    Choice,
    Source,
    UnusableModel,
    native,
    shape_of,
    two_dimensional,
)
from inkling_training.sources.tflite_metadata import Metadata, read_metadata

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["has_loops", "open_tflite", "operations_in_float", "precision"]

_DTYPES = ("float32", "uint8", "int8")
_ACTIVATIONS = {
    "SOFTMAX": "softmax",
    "LOGISTIC": "sigmoid",
    "FULLY_CONNECTED": "linear",
}
_WITH_WEIGHTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
# The range that the steps of a whole-numbered input span, in the model's own measure.
_USUAL_RANGES = {"bytes": (0.0, 255.0), "unit": (0.0, 1.0), "signed": (-1.0, 1.0)}
_RANGE_SLACK = 0.02
_PASSED = ("DEQUANTIZE", "QUANTIZE", "RESHAPE", "SQUEEZE", "CAST")


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
    model, metadata = read_metadata(content)
    try:
        interpreter = Interpreter(model_content=model)
        _check_form(path.name, interpreter)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError, TypeError):
        raise UnusableModel(
            f"LiteRT cannot open {path.name}: it is damaged, or needs operations that "
            "LiteRT lacks. Copy or convert the model again."
        ) from None
    return _source(path.name, digest, model, interpreter, metadata)


def _check_form(name: str, interpreter: Any) -> None:
    inputs, outputs = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    if len(inputs) != 1 or len(outputs) != 1:
        raise UnusableModel(
            f"{name} has {len(inputs)} inputs and {len(outputs)} outputs; expected one "
            "of each, as classifiers have."
        )
    sides, dtype = inputs[0]["shape_signature"][1:], np.dtype(inputs[0]["dtype"]).name
    if dtype not in _DTYPES or (sides < 0).any():
        shown = " x ".join("any" if side < 0 else str(side) for side in sides)
        raise UnusableModel(
            f"{name} takes {dtype} of {shown}; expected one of {', '.join(_DTYPES)} "
            "and a fixed size. Convert it again."
        )


def _source(
    name: str, digest: str, model: bytes, interpreter: Any, metadata: Metadata
) -> Source:
    [taken], [given] = interpreter.get_input_details(), interpreter.get_output_details()
    dtype = np.dtype(taken["dtype"]).name
    # The batch of a TFLite file can be changed, whatever the file states.
    shape = (None, *taken["shape_signature"].tolist()[1:])
    layout, height, width, channels = shape_of(shape, dtype, name)
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
        activation=_activation(_undelegated(model), given["index"]),
        raw=raw,
        values=_values(model, taken, dtype),
        stated=metadata.normalisation if dtype == "float32" else {},
        layers=_names(interpreter),
        quantisation=taken["quantization"] if quantised else None,
        tflite=model,
        labels=metadata.labels,
    )


def _names(interpreter: Any) -> frozenset[str]:
    return frozenset(
        part
        for tensor in interpreter.get_tensor_details()
        for part in tensor["name"].replace(";", "/").split("/")
    )


def _answer(interpreter: Any, taken: Any, given: Any, inputs: Any, layout: str) -> Any:
    batch = np.float32(native(inputs[np.newaxis], layout, "float32"))
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


def _values(model: bytes, taken: Any, dtype: str) -> tuple[str, str] | None:
    if "int" not in dtype:
        try:
            return _values_of_floats(model)
        except Exception:  # noqa: BLE001 - the first real question tells why
            return None
    if not taken["quantization"][0]:
        return "bytes", "the model takes whole numbers"
    low, high = _span(taken)
    if _usual(low, high) is None:
        return None
    return "bytes", (
        f"the model takes {dtype}, one step for each grey level ({low:.3g} to "
        f"{high:.3g} in its own measure)"
    )


def _span(tensor: Any) -> tuple[float, float]:
    """Return the values of the lowest and the highest step of a quantised tensor."""
    scale, zero = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    return (limits.min - zero) * scale, (limits.max - zero) * scale


def _usual(low: float, high: float) -> str | None:
    """Return the name of the values that span a range; None for an unusual one."""
    slack = _RANGE_SLACK * (high - low)
    for name, (least, most) in _USUAL_RANGES.items():
        if abs(low - least) <= slack and abs(high - most) <= slack:
            return name
    return None


def _values_of_floats(model: bytes) -> tuple[str, str] | None:
    interpreter = _undelegated(model)
    [taken] = interpreter.get_input_details()
    first = next(
        (o for o in interpreter._get_ops_details() if taken["index"] in o["inputs"]),
        None,
    )
    if first is None or first["op_name"] != "QUANTIZE":
        return values_of(_front(interpreter, taken))
    # What is outside of the steps is cut off, so that a white picture tells nothing.
    steps = next(
        one
        for one in interpreter.get_tensor_details()
        if one["index"] == first["outputs"][0]
    )
    low, high = _span(steps)
    name = _usual(low, high)
    if name is None:
        return None
    return name, f"the model quantises {low:.3g} to {high:.3g}"


def _undelegated(model: bytes) -> Any:
    """Return an interpreter that shows the tensors between the operations."""
    from ai_edge_litert.interpreter import (  # noqa: PLC0415
        Interpreter,
        OpResolverType,
    )

    # A delegate would hide them.
    interpreter = Interpreter(
        model_content=model,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return interpreter


def _front(interpreter: Any, taken: Any) -> Callable[[float], npt.NDArray[np.float32]]:
    """Return a function from a level to the values that reach the first weights."""
    place = _first_weighed(interpreter, taken["index"])
    reached = next(
        one for one in interpreter.get_tensor_details() if one["index"] == place
    )

    def front(level: float) -> npt.NDArray[np.float32]:
        interpreter.set_tensor(taken["index"], np.full(taken["shape"], level, "f4"))
        interpreter.invoke()
        found = np.asarray(interpreter.get_tensor(place), np.float32)
        scale, zero = reached["quantization"]
        return (found - zero) * np.float32(scale) if scale else found

    return front


def _first_weighed(interpreter: Any, start: int) -> int:
    """Return the tensor that the first operation with weights gets."""
    reached = {start}
    for operation in interpreter._get_ops_details():
        inputs = reached.intersection(operation["inputs"])
        if inputs and operation["op_name"] in _WITH_WEIGHTS:
            return int(operation["inputs"][0])
        if inputs:
            reached.update(operation["outputs"])
    return start


def _activation(interpreter: Any, output: int) -> str | None:
    """Return the function behind the output, from the list of operations."""
    made = {
        index: operation
        for operation in interpreter._get_ops_details()
        for index in operation["outputs"]
    }
    while output in made:
        kind = made[output]["op_name"]
        if kind not in _PASSED:
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


def has_loops(model: bytes) -> bool:
    """Return whether a TFLite file has loops or branches.

    Args:
        model: The bytes of a TFLite file.
    """
    operations = _undelegated(model)._get_ops_details()
    return any(one["op_name"] in ("WHILE", "IF") for one in operations)


def operations_in_float(model: bytes) -> tuple[dict[str, int], int]:
    """Return how many operations of an int8 model compute in float32.

    Args:
        model: The bytes of a TFLite file.

    Returns:
        Their number by name; and the number of all operations, without those that only
        change between the two.
    """
    interpreter = _undelegated(model)
    details = interpreter.get_tensor_details()
    types = {one["index"]: np.dtype(one["dtype"]).name for one in details}
    operations = [
        one
        for one in interpreter._get_ops_details()
        if one["op_name"] not in ("QUANTIZE", "DEQUANTIZE")
    ]
    in_float = Counter(
        one["op_name"]
        for one in operations
        if any(types.get(index) == "float32" for index in one["outputs"])
    )
    return dict(in_float), len(operations)
