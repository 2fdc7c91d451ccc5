# SPDX-License-Identifier: Apache-2.0
"""Opens `.keras` and `.h5` files with Keras."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state

from inkling_training.sources import keras_layers
from inkling_training.sources.guards import (
    check_code,
    digest_of,
    is_unknown,
    keras_archive,
    objects,
)
from inkling_training.sources.keras_two import CLASSES, as_keras_three
from inkling_training.sources.source import (
    Choice,
    Source,
    UnusableModel,
    chosen,
    in_batches,
    native,
    shape_of,
)
from inkling_training.stderr import quiet_stderr

__all__ = ["open_h5", "open_keras"]

_HALF_POLICIES = {
    "mixed_float16": "float32",
    "mixed_bfloat16": "float32",
    "float16": "float32",
    "bfloat16": "float32",
}
# Keras stores a weight in half a byte at least, and zip archives shrink zeros.
_LEAST_WEIGHTS, _WEIGHTS_PER_BYTE = 1_000_000, 16


def open_keras(path: Path, choice: Choice) -> Source:
    """Open a `.keras` file.

    Raises:
        UnusableModel: The file is damaged, carries code, or is no image classifier.
    """
    digest, config = digest_of(path), keras_archive(path)
    if path.suffix != ".keras":
        raise UnusableModel(
            f"{path.name} is a .keras file by its content; rename it to "
            f"{path.stem}.keras, because Keras opens it by its name."
        )
    check_code(path.name, config, trust=choice.trust)
    _check_weights(path, config, trust=choice.trust)
    return _opened(path, digest, config, choice)


def open_h5(path: Path, choice: Choice) -> Source:
    """Open an `.h5` file of Keras 2 or 3.

    Raises:
        UnusableModel: The file is damaged, carries code, or is no image classifier.
    """
    digest = digest_of(path)
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
        config = None if text is None else json.loads(text)
    except (OSError, ValueError, RuntimeError, KeyError, RecursionError):
        raise UnusableModel(
            f"{path.name} is damaged: HDF5 cannot read it. Copy or save the model "
            "again."
        ) from None
    if config is None:
        raise UnusableModel(
            f"{path.name} holds weights without a model. Save the whole model with "
            "model.save('model.keras')."
        )
    check_code(path.name, config, trust=choice.trust)
    with as_keras_three(path, config) as readable:
        return _opened(readable, digest, config, choice)


def _opened(path: Path, digest: str, config: Any, choice: Choice) -> Source:
    try:
        with quiet_stderr():
            model = keras.models.load_model(
                path,
                custom_objects=dict(CLASSES),
                compile=False,
                safe_mode=not choice.trust,
            )
    except Exception as error:  # noqa: BLE001 - a file raises whatever it likes
        raise UnusableModel(_why(path.name, config, error)) from None
    return _source(path.name, digest, model, choice)


def _check_weights(path: Path, config: Any, *, trust: bool) -> None:
    """Check that a file holds the weights that its configuration declares.

    Keras would allocate them first. In a stateless scope nothing is allocated.
    """
    # Keras changes the configuration that it reads.
    copy = {**deepcopy(config), "compile_config": None}
    try:
        with quiet_stderr(), keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object(copy, safe_mode=not trust)
            declared = sum(math.prod(weight.shape) for weight in model.weights)
    except Exception:  # noqa: BLE001 - opening the file tells what is wrong with it
        return
    finally:
        # Else the next scope would allocate them.
        global_state.set_global_attribute("uninitialized_variables", [])
    if declared > _LEAST_WEIGHTS + _WEIGHTS_PER_BYTE * path.stat().st_size:
        raise UnusableModel(
            f"{path.name} declares {declared:,} weights, which a file of "
            f"{path.stat().st_size:,} bytes cannot hold; it was refused unopened."
        )


def _why(name: str, config: Any, error: Exception) -> str:
    known = frozenset(dir(keras.layers)) | frozenset(dir(keras))
    unknown = {
        one["class_name"] for one in objects(config) if is_unknown(one, known)
    } - {"__keras_tensor__", "Functional", "Model"}
    if unknown:
        return (
            f"{name} has classes that Keras does not have ({', '.join(sorted(unknown))}"
            "). Export the model as a SavedModel with model.export('folder') where "
            "the classes are known, and publish that folder."
        )
    return (
        f"Keras {keras.__version__} cannot open {name} ({type(error).__name__}): it is "
        "damaged, or another version of Keras wrote it. Save the model again, or "
        "export it with model.export('folder') and publish that folder."
    )


def _source(name: str, digest: str, model: Any, choice: Choice) -> Source:
    inputs = list(getattr(model, "inputs", None) or [])
    if len(inputs) != 1:
        has = f"{len(inputs)} inputs" if inputs else "no input of a fixed form"
        raise UnusableModel(f"{name} has {has}; expected one input, for one picture.")
    dtype = keras.backend.standardize_dtype(inputs[0].dtype)
    layout, height, width, channels = shape_of(tuple(inputs[0].shape), dtype, name)
    place = _place(name, model, choice.output)
    half = keras_layers.computes_in_half(model)
    exported = _in_float32(model) if half else model
    values, notes = keras_layers.beginning(model)

    def raw(batch: Any) -> Any:
        def ask(part: Any) -> Any:
            answer = _called(model, native(part, layout, dtype))[place]
            return keras.ops.cast(answer, "float32").numpy()

        return in_batches(ask, batch, name)

    def traced(batch: Any) -> Any:
        return _called(exported, _native(batch, layout, dtype))[place]

    return Source(
        name=name,
        digest=digest,
        library=f"Keras {keras.__version__}",
        height=height,
        width=width,
        channels=channels,
        layout=layout,
        dtype=dtype,
        activation=keras_layers.activation(model.outputs[place]),
        raw=raw,
        values=("bytes", "the model takes whole numbers") if "int" in dtype else values,
        notes=notes,
        half=half,
        traced=traced,
        # These have the states of random layers, which the model does not track; its
        # layers beside them would triple the time of saving.
        tracked=[variable.value for variable in exported.variables],
    )


def _called(model: Any, batch: Any) -> list[Any]:
    """Return a model's outputs, whatever structure its one input has."""
    structure = getattr(model, "_inputs_struct", None)
    if structure is not None:
        batch = keras.tree.pack_sequence_as(structure, [batch])
    return list(keras.tree.flatten(model(batch, training=False)))


def _native(batch: Any, layout: str, dtype: str) -> Any:
    """Do as `native` does, on TensorFlow's tensors."""
    if layout == "chw":
        batch = tf.transpose(batch, (0, 3, 1, 2))
    if "int" in dtype:
        return tf.saturate_cast(tf.round(batch), dtype)
    return batch


def _place(name: str, model: Any, output: str | None) -> int:
    """Return the place of the chosen output among the flat outputs."""
    names = [tensor.name for tensor in model.outputs]
    if isinstance(getattr(model, "output", None), Mapping):
        names = sorted(model.output)  # as Keras flattens it
    elif len(names) > 1:
        names = list(model.output_names)
    return names.index(chosen(name, "output", names, output))


def _in_float32(model: Any) -> Any:
    """Return a copy of a model in half precision that computes in float32.

    LiteRT lacks most operations in half precision.
    """
    copy = type(model).from_config(_without_half(model.get_config()))
    copy.set_weights([np.asarray(w, np.float32) for w in model.get_weights()])
    return copy


def _without_half(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _without_half(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_without_half(value) for value in config)
    return _HALF_POLICIES.get(config, config) if isinstance(config, str) else config
