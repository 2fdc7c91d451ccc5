# SPDX-License-Identifier: Apache-2.0
"""Makes a network that Inkling can train from a Keras model of somebody else."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from inkling_training.errors import UnusableArchitecture
from inkling_training.fit.models import Network
from inkling_training.sources.graphs import FlatGraph
from inkling_training.sources.keras_layers import computes_in_half

__all__ = ["network_of", "values_in"]

_SUM_TOLERANCE = 1e-3
_LEAST_SCORE = 1e-7


def network_of(
    model: Any, shape: tuple[int, int, int], num_classes: int, name: str
) -> Network:
    """Return a network that ends in a softmax over all labels.

    Args:
        model: What the function returned; a Keras model that is compiled keeps its
            optimizer.
        shape: The shape of an input, (height, width, channels).
        num_classes: The number of labels.
        name: The function, for messages.

    Raises:
        UnusableArchitecture: It is no Keras model, or none for these inputs and labels.
    """
    if not isinstance(model, keras.Model):
        hint = " Does it end with return model?" if model is None else ""
        raise UnusableArchitecture(
            f"{name} returned {type(model).__name__}; expected a Keras model.{hint}"
        )
    inputs, outputs = _ends(model, shape, name)
    if tuple(outputs.shape) != (None, num_classes):
        raise UnusableArchitecture(
            f"{name} returned a model with the output shape {_shown(outputs.shape)}; "
            f"expected (?, {num_classes}), one score for each label. Use the second "
            "argument of the function for the units of its last layer."
        )
    if not model.trainable_weights:
        raise UnusableArchitecture(
            f"{name} returned a model without trainable weights; set trainable = True "
            "for the layers that are to learn."
        )
    if computes_in_half(model):
        raise UnusableArchitecture(
            f"{name} returned a model in half precision, which LiteRT cannot run; take "
            "the mixed-precision policy away."
        )
    logits, note = _logits(model, inputs, outputs, name)
    scores = keras.layers.Softmax(name="scores")(logits)
    notes, optimizer = [note] if note else [], None
    if model.compiled:
        optimizer = model.optimizer
        notes.append(
            f"The optimizer {type(optimizer).__name__} is that of the compiled model; "
            "its loss is not used: the loss is the cross-entropy of the scores."
        )
    return Network(
        keras.Model(inputs, scores, name=model.name),
        optimizer=optimizer,
        notes=tuple(notes),
    )


def _ends(
    model: keras.Model, shape: tuple[int, int, int], name: str
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the symbolic input and output of a model."""
    wanted = (None, *shape)
    if not getattr(model, "inputs", None):
        # A model without a declared input, such as a subclass, gets one.
        inputs = keras.Input(shape)
        try:
            outputs = keras.tree.flatten(model(inputs))
        except Exception as error:  # noqa: BLE001 - a model raises whatever it likes
            raise UnusableArchitecture(
                f"{name} returned a model that takes no inputs of shape "
                f"{_shown(wanted)} ({type(error).__name__}); expected a model for the "
                "first argument of the function, the shape of an input."
            ) from None
        _check_one(outputs, "output", name)
        return inputs, outputs[0]
    _check_one(model.inputs, "input", name)
    _check_one(model.outputs, "output", name)
    found = tuple(model.inputs[0].shape)
    fits = len(found) == 4 and all(
        a is None or a == b for a, b in zip(found[1:], shape, strict=True)
    )
    if not fits:
        raise UnusableArchitecture(
            f"{name} returned a model for inputs of shape {_shown(found)}; the "
            f"pictures have {_shown(wanted)}. Use the first argument of the function "
            "as the shape of the input, or give another --size."
        )
    if None in found[1:]:
        inputs = keras.Input(shape)
        return inputs, model(inputs)
    return model.inputs[0], model.outputs[0]


def _check_one(tensors: list[Any], kind: str, name: str) -> None:
    if len(tensors) != 1:
        raise UnusableArchitecture(
            f"{name} returned a model with {len(tensors)} {kind}s; expected one."
        )


def _shown(shape: Any) -> str:
    return "(" + ", ".join("?" if side is None else str(side) for side in shape) + ")"


def _logits(
    model: keras.Model,
    inputs: keras.KerasTensor,
    outputs: keras.KerasTensor,
    name: str,
) -> tuple[keras.KerasTensor, str]:
    """Return the tensor that gets the softmax, and a sentence if that is new."""
    history = outputs._keras_history
    last = history.operation
    kind = type(last).__name__
    function = getattr(getattr(last, "activation", None), "__name__", None)
    if kind == "Softmax" or (kind == "Activation" and function == "softmax"):
        [logits] = last._inbound_nodes[history.node_index].input_tensors
        return logits, ""
    if function == "softmax":
        # The layer keeps its weights and computes logits from now on.
        last.activation = keras.activations.linear
        return outputs, ""
    if function not in (None, "linear"):
        raise UnusableArchitecture(
            f"{name} returned a model that ends in {function}; expected softmax, or no "
            "activation, because exactly one label is right."
        )
    if function is None and _are_probabilities(keras.Model(inputs, outputs)):
        least = keras.ops.maximum(outputs, _LEAST_SCORE)
        return keras.ops.log(least), ""
    return outputs, (
        "The model ends without an activation, so its outputs are logits: a softmax "
        "was added to it."
    )


def _are_probabilities(model: keras.Model) -> bool:
    """Return whether the outputs for some inputs without meaning sum to 1."""
    shape = model.inputs[0].shape[1:]
    inputs = np.random.default_rng(2026).random((4, *shape), np.float32)
    found = np.asarray(model(inputs, training=False))
    sums = np.abs(found.sum(axis=1) - 1).max() <= _SUM_TOLERANCE
    return bool(sums and found.min() >= 0)


def values_in(model: keras.Model) -> str:
    """Return which values a model is made for: `bytes` (0..255) or `unit` (0..1).

    Pictures are 0..255 for a model that itself makes small values of them before its
    first weights, and 0..1 for any other.
    """
    shape = tuple(model.inputs[0].shape[1:])
    graph = FlatGraph.of(lambda batch: model(batch, training=False), shape, model.name)
    found = graph.values("float32")
    return "unit" if found is None else found[0]
