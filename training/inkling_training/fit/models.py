"""The two classifiers; both end in a softmax, so that scores are probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import keras
from keras import layers

__all__ = ["LOGITS", "MODELS", "cnn", "mlp"]

# The layer that a temperature is folded into.
LOGITS = "logits"

_Shape = tuple[int, int, int]


def mlp(
    input_shape: _Shape, num_classes: int, dropout: float, width: float = 1.0
) -> keras.Model:
    """Return the classic three-layer network: 256, 128, classes.

    235,146 parameters for 28x28 grey pictures and ten classes; `width` is a factor on
    the features of each layer but the last.
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
    """Return a small convolutional network of plain operations.

    80,034 parameters for 28x28 grey pictures and ten classes at width 1, for which the
    shapes are given here. The first layer halves the resolution at once, which is most
    of why it is quick.
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
    # A quick average: the runs are a few thousand steps long.
    features = layers.BatchNormalization(momentum=0.9)(features)
    return layers.ReLU()(features)


def _scores(features: keras.KerasTensor, num_classes: int) -> keras.KerasTensor:
    logits = layers.Dense(num_classes, name=LOGITS)(features)
    return layers.Softmax(name="scores")(logits)
