# SPDX-License-Identifier: Apache-2.0
"""Reads what Keras 2 wrote into `.h5` files and Keras 3 does not know."""

from __future__ import annotations

import json
import operator
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import keras

from inkling_training.sources.guards import objects

__all__ = ["CLASSES", "as_keras_three"]

_ARITHMETIC = {
    "math.add": operator.add,
    "math.divide": operator.truediv,
    "math.multiply": operator.mul,
    "math.subtract": operator.sub,
    "math.truediv": operator.truediv,
    "__operators__.add": operator.add,
}


class _Arithmetic(keras.layers.Layer):  # type: ignore[misc]
    """Arithmetic with a number, as Keras 2 wrote `preprocess_input` inside a model."""

    def __init__(self, function: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._operation = _ARITHMETIC[function]
        # The name by which `keras_layers` knows a division.
        self.divides = self._operation is operator.truediv

    def call(self, x: Any, y: Any, name: str | None = None) -> Any:
        """Return the values after the operation."""
        del name
        return self._operation(x, y)


# The classes of Keras 2 under their names.
CLASSES: Mapping[str, type] = {"TFOpLambda": _Arithmetic}


@contextmanager
def as_keras_three(path: Path, config: dict[str, Any]) -> Iterator[Path]:
    """Yield an `.h5` file whose configuration Keras 3 can read.

    Args:
        path: The file as it was given, which stays as it is.
        config: Its configuration.
    """
    changed = [_renewed(found) for found in objects(config)]
    if not any(changed):
        yield path
        return
    with TemporaryDirectory() as folder:
        copy = Path(shutil.copyfile(path, Path(folder, path.name)))
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
        yield copy


def _renewed(found: dict[str, Any]) -> bool:
    """Change one object of a configuration to what Keras 3 reads, if it must be."""
    before = json.dumps(found)
    module = str(found.get("module", ""))
    if ".engine." in module:
        found["module"] = f"keras.src.models.{module.rpartition('.')[2]}"
    nodes, inner = found.get("inbound_nodes"), found.get("config")
    if found["class_name"] == "TFOpLambda" and isinstance(nodes, list):
        # Operations stated their inputs without the list around them.
        found["inbound_nodes"] = [
            [node] if node and isinstance(node[0], str) else node for node in nodes
        ]
    if found["class_name"] == "BatchNormalization" and isinstance(inner, dict):
        axis = inner.get("axis")
        inner["axis"] = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if found["class_name"] == "DepthwiseConv2D" and isinstance(inner, dict):
        inner.pop("groups", None)  # its only value was 1
    if isinstance(inner, dict) and isinstance(inner.get("layers"), list):
        _count_calls_from_0(inner)
    return json.dumps(found) != before


def _count_calls_from_0(config: dict[str, Any]) -> None:
    """Number the calls of models inside a model from 0.

    Keras 2 counted the making of such a model as its first call.
    """
    models = {
        layer.get("name")
        for layer in config["layers"]
        if layer.get("class_name") in ("Functional", "Model", "Sequential")
    }
    calls = [call for call in _calls(config) if call[0] in models]
    for model in models:
        own = [call for call in calls if call[0] == model]
        first = min((call[1] for call in own), default=0)
        for call in own:
            call[1] -= first


def _calls(config: dict[str, Any]) -> Iterator[list[Any]]:
    """Yield each reference to a call in a model: layer, call, output, arguments."""
    waiting = [layer.get("inbound_nodes") for layer in config["layers"]]
    waiting.append(config.get("output_layers"))
    while waiting:
        found = waiting.pop()
        if not isinstance(found, list):
            continue
        if len(found) >= 3 and isinstance(found[0], str) and type(found[1]) is int:
            yield found
        else:
            waiting += found
