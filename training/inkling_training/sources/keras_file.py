# SPDX-License-Identifier: Apache-2.0
"""Opens `.keras` and `.h5` files with the Keras that wrote them: Keras 3 or Keras 2."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.legacy.saving import saving_utils

from inkling_training.sources import keras_layers
from inkling_training.sources.graphs import FlatGraph, one_by_one, traced_native
from inkling_training.sources.guards import (
    check_code,
    digest_of,
    is_unknown,
    keras_archive,
    objects,
)
from inkling_training.sources.keras_operations import operations
from inkling_training.sources.lambda_names import give_names
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
# A picture of an open size is tried at this one.
_SIDE = 64


# How Keras names what a file refers to and does not hold.
_MISSING = re.compile(r"Could not locate \w+ '(\w+)'")


def open_keras(path: Path, choice: Choice) -> Source:
    """Open a `.keras` file.

    Raises:
        UnusableModel: The file is damaged, carries code, or is no image classifier.
    """
    digest, (config, version) = digest_of(path), keras_archive(path)
    if path.suffix != ".keras":
        raise UnusableModel(
            f"{path.name} is a .keras file by its content; rename it to "
            f"{path.stem}.keras, because Keras opens it by its name."
        )
    return _opened(path, digest, config, version, choice)


def open_h5(path: Path, choice: Choice) -> Source:
    """Open an `.h5` file of Keras 2 or 3.

    Raises:
        UnusableModel: The file is damaged, carries code, or is no image classifier.
    """
    digest = digest_of(path)
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
            version = file.attrs.get("keras_version", "2")
        config = None if text is None else json.loads(text)
        version = version if isinstance(version, str) else version.decode()
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
    return _opened(path, digest, config, version, choice)


def _library(version: str) -> ModuleType:
    """Return the Keras that reads what a version of it wrote.

    Keras 3 reads a part only of what Keras 2 wrote. tfjs-layers, with which Teachable
    Machine exports, writes the form of Keras 2.
    """
    if version.startswith("3."):
        return keras  # type: ignore[no-any-return]
    import tf_keras  # noqa: PLC0415 - it takes a second to import

    return tf_keras  # type: ignore[no-any-return]


def _opened(
    path: Path, digest: str, config: Any, version: str, choice: Choice
) -> Source:
    check_code(path.name, config, trust=choice.trust)
    library = _library(version)
    notes = give_names(path.name, config) if library is keras else ()
    _check_weights(path, config, library, trust=choice.trust)
    try:
        with quiet_stderr():
            model = library.models.load_model(
                path,
                custom_objects=_custom_objects(path, library),
                compile=False,
                safe_mode=not choice.trust,
            )
    except Exception as error:  # noqa: BLE001 - a file raises whatever it likes
        raise UnusableModel(_why(path.name, config, library, error)) from None
    found = _source(path.name, digest, library, model, choice)
    return replace(found, notes=notes + found.notes)


def _custom_objects(path: Path, library: ModuleType) -> dict[str, type]:
    return operations() if library is keras and path.suffix != ".keras" else {}


def _check_weights(
    path: Path, config: Any, library: ModuleType, *, trust: bool
) -> None:
    """Check that a file holds the weights that its configuration declares.

    Keras would allocate them first.
    """
    try:
        with quiet_stderr():
            declared = _declared(path, deepcopy(config), library, trust=trust)
    except Exception:  # noqa: BLE001 - opening the file tells what is wrong with it
        return
    if declared > _LEAST_WEIGHTS + _WEIGHTS_PER_BYTE * path.stat().st_size:
        raise UnusableModel(
            f"{path.name} declares {declared:,} weights, which a file of "
            f"{path.stat().st_size:,} bytes cannot hold; it was refused unopened."
        )


def _declared(
    path: Path, config: dict[str, Any], library: ModuleType, *, trust: bool
) -> int:
    """Return the number of weights of a configuration, without allocating them."""
    if library is not keras:
        with tf.Graph().as_default():
            model = library.models.model_from_config(config)
            return sum(math.prod(weight.shape) for weight in model.weights)
    try:
        with (
            keras.StatelessScope(initialize_variables=False),
            keras.src.saving.serialization_lib.SafeModeScope(not trust),
        ):
            if path.suffix == ".keras":
                config["compile_config"] = None
                model = keras.saving.deserialize_keras_object(config)
            else:
                model = saving_utils.model_from_config(
                    config, custom_objects=operations()
                )
            return sum(math.prod(weight.shape) for weight in model.weights)
    finally:
        # Else the next scope would allocate them.
        global_state.set_global_attribute("uninitialized_variables", [])


def _why(name: str, config: Any, library: ModuleType, error: Exception) -> str:
    known = frozenset(dir(library.layers)) | frozenset(dir(library))
    unknown = {
        one["class_name"] for one in objects(config) if is_unknown(one, known)
    } - {"__keras_tensor__", "Functional", "Model"}
    missing = _MISSING.search(str(error))
    if missing is not None:
        unknown.add(missing[1])
    save = "model.export('folder')"
    if library is not keras:
        save = "tf.saved_model.save(model, 'folder')"
    if unknown:
        return (
            f"{name} has classes or functions that Keras does not have "
            f"({', '.join(sorted(unknown))}). Export the model as a SavedModel with "
            f"{save} where they are known, and publish that folder."
        )
    return (
        f"Keras {library.__version__} cannot open {name} ({type(error).__name__}): it "
        "is damaged, or another version of Keras wrote it. Save the model again, or "
        f"export it with {save} and publish that folder."
    )


def _source(
    name: str, digest: str, library: ModuleType, model: Any, choice: Choice
) -> Source:
    inputs = _inputs(name, model)
    dtype = tf.as_dtype(inputs[0].dtype).name
    shape = _shape(model, inputs[0])
    layout, height, width, channels = shape_of(shape, dtype, name)
    single = shape[0] == 1
    place = _place(name, model, choice.output)
    half = keras_layers.computes_in_half(model)
    exported = _in_float32(model) if half else model
    traced = _traced(exported, place, layout, dtype)

    def ask(part: Any) -> Any:
        answer = _called(model, native(part, layout, dtype))[place]
        return tf.cast(answer, "float32").numpy()

    graph = FlatGraph.of(traced, (height, width, channels), name, single=single)
    return Source(
        name=name,
        digest=digest,
        library=f"Keras {library.__version__}",
        height=height,
        width=width,
        channels=channels,
        layout=layout,
        dtype=dtype,
        activation=graph.activation(),
        raw=lambda batch: in_batches(ask, batch, name, single=single),
        values=graph.values(dtype),
        stated=graph.resizing() or _resizing(model, height, width),
        layers=keras_layers.layer_names(model),
        notes=_notes(model),
        half=half,
        single=single,
        traced=one_by_one(traced) if single else traced,
        # These have the states of random layers, which the model does not track; its
        # layers beside them would triple the time of saving.
        tracked=[getattr(one, "_value", one) for one in exported.variables],
    )


def _inputs(name: str, model: Any) -> list[Any]:
    inputs = list(getattr(model, "inputs", None) or [])
    if len(inputs) != 1:
        if not inputs:
            raise UnusableModel(
                f"{name} does not state its input, as models of an own class do not. "
                "Export it with model.export('folder') where it has answered a "
                "picture, and publish that folder."
            )
        raise UnusableModel(
            f"{name} has {len(inputs)} inputs; expected one input, for one picture."
        )
    return inputs


def _traced(model: Any, place: int, layout: str, dtype: str) -> Callable[[Any], Any]:
    # A copy in another precision casts what it gets.
    taken = "float32" if "float" in dtype else dtype

    def scores(batch: Any) -> Any:
        return _called(model, traced_native(batch, layout, taken))[place]

    return scores


def _resizing(model: Any, height: int | None, width: int | None) -> Mapping[str, Any]:
    return keras_layers.resizing(model) if None in (height, width) else {}


def _shape(model: Any, taken: Any) -> tuple[int | None, ...]:
    """Return the shape of a model's input, with None where it is open.

    A `Sequential` without an input states the batch of its first call, and takes any.
    """
    first, *sides = taken.shape
    if first is None:
        return tuple(taken.shape)
    grey = np.zeros((first + 1, *(side or _SIDE for side in sides)), np.float32)
    try:
        answers = _called(model, tf.cast(grey, taken.dtype))
    except Exception:  # noqa: BLE001 - a model raises whatever it likes
        return tuple(taken.shape)
    takes_any = all(len(answer) == first + 1 for answer in answers)
    return (None if takes_any else first, *sides)


def _notes(model: Any) -> tuple[str, ...]:
    return tuple(
        f"{kind} is for training only and does nothing here"
        for kind in keras_layers.training_layers(model)
    )


def _called(model: Any, batch: Any) -> list[Any]:
    """Return a model's outputs, whatever structure its one input has."""
    structure = getattr(model, "_inputs_struct", None)
    if structure is not None:
        batch = keras.tree.pack_sequence_as(structure, [batch])
    return list(keras.tree.flatten(model(batch, training=False)))


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
