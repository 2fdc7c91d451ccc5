# SPDX-License-Identifier: Apache-2.0
"""Reads a Keras model's layers: how it begins, how it ends, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

__all__ = ["activation", "beginning", "computes_in_half"]

_PASSED = ("InputLayer", "Cast", "Resizing", "CenterCrop", "Identity", "ZeroPadding2D")
_AUGMENTATION = "keras.src.layers.preprocessing.image_preprocessing"
_ONLY_IN_TRAINING = ("GaussianNoise", "GaussianDropout", "Dropout", "SpatialDropout2D")
# Layers that leave every score as it is.
_UNCHANGING = ("Dropout", "Flatten", "Reshape", "Identity", "Cast", "Squeeze")
# A first layer that makes values of up to this size from 0..255 is meant for 0..255.
_LARGEST_RESCALED = 8.0


def beginning(model: Any) -> tuple[tuple[str, str] | None, tuple[str, ...]]:
    """Return the range of pixels for which a model is made, and what stands before it.

    Returns:
        The name of the values (`bytes` or `unit`) with the reason, or None if the model
        does not tell; and sentences about layers that work on pictures.
    """
    notes: list[str] = []
    for layer in _operations(model):
        kind = type(layer).__name__
        if _is_augmentation(layer):
            notes.append(f"{kind} is for training only and does nothing here")
        elif kind in _PASSED:
            if kind in ("Resizing", "CenterCrop"):
                notes.append(f"{kind} inside the model changes the picture's size")
        else:
            return _values(layer), tuple(notes)
    return None, tuple(notes)


def _is_augmentation(layer: Any) -> bool:
    kind = type(layer)
    return kind.__name__ in _ONLY_IN_TRAINING or (
        kind.__module__.startswith(_AUGMENTATION)
        and kind.__name__ not in ("Resizing", "CenterCrop", "Rescaling")
    )


def _values(layer: Any) -> tuple[str, str] | None:
    """Return the values that a layer expects that maps them to others."""
    kind = type(layer).__name__
    if kind == "Rescaling":
        scale = float(np.max(np.abs(np.asarray(layer.scale))))
        said = f"the model rescales them (Rescaling by {scale:.6g})"
        if scale * 255 <= _LARGEST_RESCALED:
            return "bytes", said
        return ("unit", said) if scale <= _LARGEST_RESCALED else None
    if kind == "Normalization" and getattr(layer, "mean", None) is not None:
        mean = float(np.max(np.asarray(layer.mean)))
        said = f"the model normalises them (Normalization around {mean:.4g})"
        if mean > 2:
            return "bytes", said
        return ("unit", said) if 0 < mean <= 1 else None
    if kind in ("TrueDivide", "Divide") or getattr(layer, "divides", False):
        return _divided(layer)
    return None


def _divided(operation: Any) -> tuple[str, str] | None:
    for node in operation._inbound_nodes:
        for value in (*node.arguments.args[1:], *node.arguments.kwargs.values()):
            if isinstance(value, int | float) and 100 <= value <= 256:
                return "bytes", f"the model divides them by {value:g}"
    return None


def _operations(model: Any) -> Iterator[Any]:
    """Yield the operations that a picture passes one after the other.

    The line ends where it branches.
    """
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            yield from _inner(layer)
        return
    tensor = model.inputs[0]
    while True:
        found = [
            (operation, node)
            for operation in model.operations
            for node in operation._inbound_nodes
            if any(one is tensor for one in node.input_tensors)
        ]
        if len(found) != 1:
            return
        [(operation, node)] = found
        yield from _inner(operation)
        tensor = node.output_tensors[0]


def _inner(layer: Any) -> Iterator[Any]:
    if isinstance(layer, keras.Sequential) or hasattr(layer, "operations"):
        yield from _operations(layer)
    else:
        yield layer


def activation(tensor: Any) -> str | None:
    """Return the name of the function behind a model's output.

    Args:
        tensor: The symbolic output.

    Returns:
        `softmax`, `sigmoid`, `linear` (also for an operation without activation), or
        another name; None for an operation that tells nothing.
    """
    while True:
        history = tensor._keras_history
        operation = history.operation
        kind = type(operation).__name__
        if hasattr(operation, "operations"):  # a model inside the model
            tensor = operation.outputs[history.tensor_index]
            continue
        if kind in ("Softmax", "Sigmoid"):
            return kind.lower()
        function = getattr(operation, "activation", None)
        name = getattr(function, "__name__", None)
        passes = kind in _UNCHANGING or (kind == "Activation" and name == "linear")
        if not passes:
            return name or ("linear" if _is_linear(operation) else None)
        [tensor, *_] = operation._inbound_nodes[history.node_index].input_tensors


def _is_linear(operation: Any) -> bool:
    kind = type(operation).__name__
    return kind.startswith(("Conv", "GlobalAverage", "GlobalMax", "BatchNorm"))


def computes_in_half(model: Any) -> bool:
    """Return whether any layer computes in half precision."""
    return any(
        getattr(layer, "compute_dtype", None) in ("float16", "bfloat16")
        for layer in model._flatten_layers()
    )
