# SPDX-License-Identifier: Apache-2.0
"""Lesson 7, Keras: three ways to build a network, and four ways to keep it.

Saved weights need the code, `.keras` its classes, a SavedModel nothing but TensorFlow.

What came of it: `inkling publish` reads what this lesson saves; the fields `format` and
`source` of a contract state how it is written, and which file was given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from examples import shared
from examples.shared import Array, Numbers, Setting

__all__ = ["Dense", "Perceptron", "functional", "run", "sequential", "top_k_accuracy"]


def sequential() -> keras.Model:
    """Return 512-256-10 as a list of layers."""
    hidden = [layers.Dense(512, "relu"), layers.Dense(256, "relu")]
    return keras.Sequential([keras.Input((784,)), *hidden, layers.Dense(10, "softmax")])


def functional() -> keras.Model:
    """Return the same as a graph; a graph may branch, and a list may not."""
    inputs = keras.Input((784,))
    hidden = layers.Dense(256, "relu")(layers.Dense(512, "relu")(inputs))
    return keras.Model(inputs, layers.Dense(10, "softmax")(hidden))


@keras.saving.register_keras_serializable("examples")
class Dense(layers.Layer):  # type: ignore[misc]
    """A dense layer of our own; its weights are made when the input is known."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the weights for inputs of the shape (n, features)."""
        self.kernel = self.add_weight((shape[-1], self.units))
        self.bias = self.add_weight((self.units,), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Return the outputs, shape (n, units)."""
        return inputs @ self.kernel + self.bias


@keras.saving.register_keras_serializable("examples")
class Perceptron(keras.Model):  # type: ignore[misc]
    """A model of our own: 784-256-128-64-32-10, of our own layers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.parts = [Dense(units) for units in (256, 128, 64, 32, 10)]

    def call(self, inputs: Any) -> Any:
        """Return the scores, shape (n, 10)."""
        for part in self.parts[:-1]:
            inputs = tf.nn.relu(part(inputs))
        return tf.nn.softmax(self.parts[-1](inputs))


def top_k_accuracy(scores: Array, labels: Array, k: int) -> float:
    """Return the share of pictures whose label has one of the k highest scores."""
    best = np.argsort(-scores, axis=1)[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def kept(model: keras.Model, folder: Path, inputs: Array) -> list[Array]:
    """Save weights, the model and its graph; return what each answers when loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_weights(folder / "model.weights.h5")
    model.save(folder / "model.keras")
    model.export(folder / "saved_model", verbose=False)
    again = type(model).from_config(model.get_config())
    again(inputs[:1])  # its weights are made by the first call
    again.load_weights(folder / "model.weights.h5")
    program = tf.saved_model.load(str(folder / "saved_model"))
    loaded = (again, keras.models.load_model(folder / "model.keras"), program.serve)
    return [np.asarray(one(inputs)) for one in loaded]


def run(setting: Setting) -> Numbers:
    """Train, measure, save and load each of the three; return the numbers."""
    numbers: Numbers = {}
    curves, log = {}, setting.work / "tensorboard"
    data, epochs, count = shared.digits(setting), 5, 1000 if setting.short else 20_000
    x, labels = shared.inputs_and_labels(data.train.first(count))
    test_x, test_labels = shared.inputs_and_labels(data.test)
    for build in (sequential, functional, Perceptron):
        keras.utils.set_random_seed(0)
        name, model = build.__name__, build()
        metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(5)]
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=metrics)
        board = [keras.callbacks.TensorBoard(log / name)]
        curves[name] = model.fit(x, labels, 200, epochs, 0, board).history["loss"]
        _, accuracy, top = model.evaluate(test_x, test_labels, verbose=0)
        scores = model.predict(test_x, verbose=0)
        loaded = kept(model, setting.work / "kept" / name, test_x[:100])
        numbers[f"{name}: accuracy"] = accuracy
        worst = np.ptp([*loaded, scores[:100]], axis=0).max()
        numbers[f"{name}: loaded differ by"] = float(worst)
        by_hand = top_k_accuracy(scores, test_labels, 5)
        numbers[f"{name}: top 5, Keras - by hand"] = top - by_hand
    setting.save(shared.loss_curves(curves, "epoch"), "lesson_07")
    print(f"`tensorboard --logdir {log}` shows the same curves.")
    return {**numbers, "TensorBoard files": len(list(log.rglob("events.*")))}


if __name__ == "__main__":
    shared.start(run)
