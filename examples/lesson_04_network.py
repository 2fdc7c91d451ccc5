# SPDX-License-Identifier: Apache-2.0
"""Lesson 4, a network from raw tensors: 784 -> 256 -> 128 -> 10, published and served.

With first weights of the standard deviation 1, each layer makes its values ten times
larger, and the loss ends in NaN; with 0.1, it falls. `inkling publish` then publishes
the network, and a gateway answers with it.

What came of it: `inkling train classic` is this network in the house. A contract states
what a gateway must know to ask it: `height`, `width`, `channels`, `layout`, `labels`,
`scale`, and by `outputs` that its outputs are logits, which get a softmax.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from examples import shared
from examples.shared import Array, Numbers, Setting

__all__ = ["export", "first_weights", "forward", "run", "step", "train"]

SIZES, RATE, BATCH = (784, 256, 128, 10), 1e-3, 128
Trained: TypeAlias = tuple[list[Any], Array]  # the weights, the loss of each step
EPOCH = 60_000 // BATCH  # its steps; as with MNIST, also where there are fewer pictures


def first_weights(stddev: float) -> list[Any]:
    """Return three kernels from a truncated normal distribution, each with its bias."""
    weights = []
    for units, outputs in pairwise(SIZES):
        kernel = tf.random.truncated_normal((units, outputs), stddev=stddev)
        weights += [tf.Variable(kernel), tf.Variable(tf.zeros(outputs))]
    return weights


def forward(x: Array, weights: list[Any]) -> Array:
    """Return the outputs by NumPy, shape (n, 10): the oracle of the served network."""
    w1, b1, w2, b2, w3, b3 = map(np.asarray, weights)
    return np.maximum(np.maximum(x @ w1 + b1, 0) @ w2 + b2, 0) @ w3 + b3


def outputs_of(x: Any, weights: list[Any]) -> Any:
    """Return the same by TensorFlow."""
    w1, b1, w2, b2, w3, b3 = weights
    return tf.nn.relu(tf.nn.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3


@tf.function
def step(weights: list[Any], x: Any, labels: Any) -> Any:
    """Change the weights in place, by one step; return the loss before it."""
    with tf.GradientTape() as tape:
        error = outputs_of(x, weights) - tf.one_hot(labels, SIZES[-1])
        loss = tf.reduce_mean(tf.reduce_sum(tf.square(error), axis=1))
    # `w = w - rate * g` would make w a tensor, which the next tape would not watch.
    for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
        weight.assign_sub(RATE * gradient)
    return loss


def train(x: Array, labels: Array, stddev: float, steps: int) -> Trained:
    """Train a new network on batches that NumPy chooses by its seed."""
    tf.random.set_seed(0)
    weights, losses, random = first_weights(stddev), [], np.random.default_rng(0)
    for _ in range(steps):
        chosen = random.integers(0, len(x), BATCH)
        losses.append(float(step(weights, x[chosen], labels[chosen])))
    return weights, np.array(losses)


def export(weights: list[Any], folder: Path) -> None:
    """Save the network as a SavedModel, which `inkling publish` takes."""
    network = tf.Module()
    network.weights = weights

    @tf.function(input_signature=[tf.TensorSpec((None, 28, 28, 1), tf.float32)])
    def serve(inputs: Any) -> Any:
        return {"logits": outputs_of(tf.reshape(inputs, (-1, SIZES[0])), weights)}

    tf.saved_model.save(network, str(folder), signatures=serve)


def run(setting: Setting) -> Numbers:
    """Train with both deviations, publish, serve and ask; return the numbers."""
    both = (tf.constant(3.0), tf.Variable(3.0))
    with tf.GradientTape() as tape:
        product = both[0] * both[1]
    print("A tape watches variables, not tensors:", tape.gradient(product, both))
    data = shared.digits(setting)
    x, labels = shared.inputs_and_labels(data.train)
    exploding = train(x, labels, 1.0, 100)[1]
    nan = int(np.isnan(exploding).argmax())
    print(f"Standard deviation 1: loss {exploding[0]:.3g}, and NaN from step {nan} on.")
    weights, losses = train(x, labels, 0.1, 300 if setting.short else 10 * EPOCH)
    for at in range(0, len(losses), 100):
        print(f"Standard deviation 0.1: step {at:4}, loss {losses[at]:.4f}")
    curves = {"deviation 1, until NaN": exploding, "deviation 0.1": losses}
    setting.save(shared.loss_curves(curves), "lesson_04")
    export(weights, setting.work / "raw_tensors")
    shared.publish(setting.work / "raw_tensors", "raw-tensors", setting)
    shared.train_mlp(setting)
    answers = shared.asked(setting, ("raw-tensors", "mlp"), data.test.pixels[:50])
    powers = np.exp(forward(shared.inputs_and_labels(data.test)[0][:50], weights))
    scores = powers.max(axis=1) / powers.sum(axis=1)  # softmax
    found = [answer.probability for answer in answers["raw-tensors"]]
    return {
        "deviation 1: first step with NaN": float(nan),
        "deviation 0.1: first loss": float(losses[0]),
        "deviation 0.1: last loss": float(np.mean(losses[-100:])),
        "difference NumPy, served": float(np.abs(scores - found).max()),
        **shared.shares_right(answers, data.test.labels[:50]),
    }


if __name__ == "__main__":
    shared.start(run)
