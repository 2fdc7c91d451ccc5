# SPDX-License-Identifier: Apache-2.0
"""Lesson 9, convolutions: one picture, some filters, and a small network of them.

A convolution looks at each place through the same small window, so that a stroke is the
same stroke wherever it is. Pooling keeps the strongest of four neighbours; up-sampling
goes back to the size, but not to the picture.

What came of it: `inkling train cnn` (training/inkling_training/fit/models.py). How a
picture gets to 28 x 28 is a choice, too: the fields `resize`, `aspect`, `crop`, `pad`,
`filter`, `antialias` and `min_side` of a contract.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from matplotlib.figure import Figure

from examples.shared import Array, Numbers, Setting, digits, start

__all__ = ["by_hand", "network", "run"]

# Each answers where the picture has an edge, and on which side it is lighter.
KERNELS = {
    "left edges": np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32),
    "upper edges": np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]], np.float32),
    "blur": np.full((3, 3), 1 / 9, np.float32),
}


def by_hand(picture: Array, kernel: Array) -> Array:
    """Return a convolution of a picture, (rows, columns), of the same size.

    As in every library of networks, the kernel is not mirrored.
    """
    padded = np.pad(picture, 1)
    rows, columns = picture.shape
    parts = (
        kernel[i, j] * padded[i : i + rows, j : j + columns]
        for i in range(3)
        for j in range(3)
    )
    return np.asarray(sum(parts))


def by_tensorflow(picture: Array, kernel: Array) -> Array:
    """Return the same by TensorFlow, whose pictures have a batch and channels."""
    found = tf.nn.conv2d(picture[None, ..., None], kernel[..., None, None], 1, "SAME")
    return np.asarray(found[0, ..., 0])


def network() -> keras.Model:
    """Return a small CNN: two convolutions, each with a pooling, and a dense layer."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, "softmax"),
        ]
    )


def run(setting: Setting) -> Numbers:
    """Draw what convolutions see, train a network of them, and return the numbers."""
    data = digits(setting)
    picture = np.asarray(data.train.pixels[0], np.float32) / 255
    seen = {"the picture": picture}
    difference = 0.0
    for name, kernel in KERNELS.items():
        seen[name] = by_hand(picture, kernel)
        other = by_tensorflow(picture, kernel)
        difference = max(difference, float(np.abs(seen[name] - other).max()))
    small = tf.nn.max_pool2d(picture[None, ..., None], 2, 2, "SAME")
    seen["pooled twice"] = np.asarray(tf.nn.max_pool2d(small, 2, 2, "SAME"))[0, ..., 0]
    again = layers.UpSampling2D(4, interpolation="bilinear")
    seen["up again"] = np.asarray(again(seen["pooled twice"][None, ..., None]))[
        0, ..., 0
    ]
    figure = Figure(figsize=(9, 1.8), layout="constrained")
    for axes, (name, image) in zip(
        figure.subplots(1, len(seen)), seen.items(), strict=True
    ):
        axes.imshow(image, cmap="gray")
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    setting.save(figure, "lesson_09")

    keras.utils.set_random_seed(0)
    count, epochs = (1000, 8) if setting.short else (10_000, 4)
    model, train, test = network(), data.train.first(count), data.test.first(2000)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    inputs, others = (
        np.asarray(part.pixels)[..., None] / 255 for part in (train, test)
    )
    model.fit(inputs, train.labels, 64, epochs, verbose=2)
    accuracy = float(model.evaluate(others, test.labels, verbose=0)[1])
    print("From here: inkling train cnn, with augmentation, outliers and calibration.")
    return {
        "difference by hand, TensorFlow": difference,
        "weights of the CNN": float(model.count_params()),
        "accuracy": accuracy,
    }


if __name__ == "__main__":
    start(run)
