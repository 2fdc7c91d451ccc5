# SPDX-License-Identifier: Apache-2.0
"""The two classifiers, an MLP and a CNN, which both end in a softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import layers

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["LOGITS", "MODELS", "cnn", "mlp", "scores_of"]

# The name of the layer into which calibration folds the softmax temperature.
LOGITS = "logits"

_Shape = tuple[int, int, int]
_BATCH = 500


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


MODELS: Mapping[str, Callable[[_Shape, int, float, float], keras.Model]] = (
    MappingProxyType({"mlp": mlp, "cnn": cnn})
)


def scores_of(
    model: keras.Model, inputs: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the scores of a model, float32, shape (n, classes).

    `keras.Model.predict` would trace the model again for each other number of inputs,
    which takes longer than it saves, and TensorFlow warns about it on the terminal.

    Args:
        model: The Keras model.
        inputs: At least one input, shape (n, height, width, channels).
    """
    starts = range(0, len(inputs), _BATCH)
    return np.concatenate(
        [np.asarray(model(inputs[at : at + _BATCH], training=False)) for at in starts]
    )


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
    features = layers.BatchNormalization(momentum=0.9)(features)
    return layers.ReLU()(features)


def _scores(features: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    logits = layers.Dense(num_classes, name=LOGITS)(features)
    return layers.Softmax(name="scores")(logits)
