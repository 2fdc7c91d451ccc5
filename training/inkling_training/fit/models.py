# SPDX-License-Identifier: Apache-2.0
"""Architectures: two MLPs and a CNN, which end in a softmax, as all others do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from inkling_training.data.stored import batch_size

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Source
    from inkling_training.data.stored import Inputs
    from inkling_training.fit.recipes import Recipe

__all__ = [
    "MODELS",
    "Architecture",
    "Network",
    "classic",
    "cnn",
    "logits_of",
    "mlp",
    "scorer",
    "scores_of",
]

# The names of the layer whose outputs the softmax gets, and of the softmax.
_LOGITS, _SCORES = "logits", "scores"

_SMALL_SIDE = 64
_CLASSIC_STDDEV = 0.1

_Shape: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class Network:
    """A model that can be trained.

    Attributes:
        model: Takes inputs in the contract's shape; its last layer is a softmax.
        base: The part of the model that has pretrained weights; None without.
        optimizer: The optimizer that the model's author chose; None for the recipe's.
        notes: What a user should know about the model, as sentences.
    """

    model: keras.Model
    base: keras.Model | None = None
    optimizer: keras.optimizers.Optimizer | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """A way to build a network.

    Attributes:
        name: The name on the command line.
        recipe: The key of its recipes.
        build: Returns a new network for an input shape (height, width, channels), a
            number of labels and a recipe.
        source: Where the architecture or its first weights are from; None for Inkling's
            own.
        values: The name of the values that its inputs have; None if the network tells.
    """

    name: str
    recipe: str
    build: Callable[[_Shape, int, Recipe], Network]
    source: Source | None = None
    values: str | None = None


def mlp(
    input_shape: _Shape, num_classes: int, dropout: float, width: float = 1.0
) -> keras.Model:
    """Return a multi-layer perceptron with 256, 128 and `num_classes` units.

    It has 235,146 parameters for grey pictures of 28 x 28 pixels and ten classes.

    Args:
        input_shape: (height, width, channels).
        num_classes: The number of labels.
        dropout: Share of features that training drops, 0 to 1.
        width: Factor on the units of each layer except the last.
    """
    inputs = keras.Input(input_shape)
    features = layers.Flatten()(inputs)  # (n, h, w, c) -> (n, h * w * c)
    for units in (256, 128):
        features = layers.Dense(round(units * width), activation="relu")(features)
        features = layers.Dropout(dropout)(features)
    return keras.Model(inputs, _scores(features, num_classes), name="mlp")


def classic(
    input_shape: _Shape, num_classes: int, dropout: float, width: float = 1.0
) -> keras.Model:
    """Return the network that lesson 4 of the examples builds from tensors.

    It has the layers of `mlp`. Its first weights are from a truncated normal
    distribution with the standard deviation 0.1.

    Args:
        input_shape: (height, width, channels).
        num_classes: The number of labels.
        dropout: Share of features that training drops, 0 to 1.
        width: Factor on the units of each layer except the last.
    """
    normal = keras.initializers.TruncatedNormal
    network = mlp(input_shape, num_classes, dropout, width)
    for weights in network.trainable_weights:
        if len(weights.shape) > 1:
            weights.assign(normal(stddev=_CLASSIC_STDDEV)(weights.shape))
    return keras.Model(network.inputs[0], network.outputs[0], name="classic")


def cnn(
    input_shape: _Shape, num_classes: int, dropout: float, width: float = 1.0
) -> keras.Model:
    """Return a small convolutional network.

    It has 80,034 parameters for grey pictures of 28 x 28 pixels, ten classes and width
    1; the shapes in the comments are for this case. The first layer halves the
    resolution, which saves most of the computing time.

    Args:
        input_shape: (height, width, channels).
        num_classes: The number of labels.
        dropout: Share of features that training drops, 0 to 1.
        width: Factor on the channels of each layer.
    """

    def wide(features: int) -> int:
        return round(features * width)

    inputs = keras.Input(input_shape)  # (n, 28, 28, 1)
    features = _convolved(inputs, wide(24), kernel=5, stride=2)  # (n, 14, 14, 24)
    features = _convolved(features, wide(32))  # (n, 14, 14, 32)
    features = layers.MaxPooling2D()(features)  # (n, 7, 7, 32)
    features = _convolved(features, wide(64))  # (n, 7, 7, 64)
    features = _convolved(features, wide(80))  # (n, 7, 7, 80)
    features = layers.MaxPooling2D()(features)  # (n, 3, 3, 80)
    features = layers.Dropout(dropout)(layers.Flatten()(features))  # (n, 720)
    return keras.Model(inputs, _scores(features, num_classes), name="cnn")


def _built(
    function: Callable[[_Shape, int, float, float], keras.Model],
    shape: _Shape,
    num_classes: int,
    recipe: Recipe,
) -> Network:
    return Network(function(shape, num_classes, recipe.dropout, recipe.width))


MODELS: Mapping[str, Architecture] = MappingProxyType(
    {
        "mlp": Architecture("mlp", "mlp", partial(_built, mlp)),
        "cnn": Architecture("cnn", "cnn", partial(_built, cnn)),
        "classic": Architecture("classic", "classic", partial(_built, classic)),
    }
)


def logits_of(model: keras.Model) -> keras.KerasTensor:
    """Return the symbolic tensor of which a model's last operation is the softmax."""
    history = model.outputs[0]._keras_history
    [logits] = history.operation._inbound_nodes[history.node_index].input_tensors
    return logits


def scorer(
    model: keras.Model,
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """Return a function from inputs to a model's scores, for some inputs at once.

    `keras.Model.predict` would trace the model again for each other number of inputs,
    which takes longer than it saves, and TensorFlow warns about it on the terminal. A
    model of large pictures is traced once: an untraced one keeps every tensor until the
    call ends, which took 1.8 GB for 27 pictures in a MobileNetV2 of 224 px.
    """
    shape = model.inputs[0].shape
    if max(shape[1:3]) <= _SMALL_SIDE:
        return lambda inputs: np.asarray(model(inputs, training=False))
    traced = tf.function(
        lambda inputs: model(inputs, training=False),
        input_signature=[tf.TensorSpec(shape, tf.float32)],
    )
    return lambda inputs: np.asarray(traced(inputs))


def scores_of(model: keras.Model, inputs: Inputs) -> npt.NDArray[np.float32]:
    """Return the scores of a model, float32, shape (n, classes).

    Args:
        model: The Keras model.
        inputs: At least one input, shape (n, height, width, channels).
    """
    ask, size = scorer(model), batch_size(inputs.shape[1:])
    starts = range(0, len(inputs), size)
    return np.concatenate([ask(inputs[at : at + size]) for at in starts])


def _convolved(
    features: keras.KerasTensor, width: int, kernel: int = 3, stride: int = 1
) -> keras.KerasTensor:
    features = layers.Conv2D(
        width,
        kernel,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
    )(features)
    # The moving average adapts fast, because a run has only a few thousand steps.
    # Several workers normalise over the whole batch, as one does.
    features = layers.BatchNormalization(
        momentum=0.9, synchronized=tf.distribute.has_strategy()
    )(features)
    return layers.ReLU()(features)


def _scores(features: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    logits = layers.Dense(num_classes, name=_LOGITS)(features)
    return layers.Softmax(name=_SCORES)(logits)
