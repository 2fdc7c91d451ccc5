# SPDX-License-Identifier: Apache-2.0
"""Lesson 1, a straight line: gradient descent by hand, then by TensorFlow.

A model is a function with numbers in it: here y = w x + b. Learning means to change w
and b so that the mean squared error falls. The gradient says in which direction the
error rises, so each step goes the other way.

What came of it: every training in Inkling is this loop (training/inkling_training/fit),
and `scale` and `offset` of a contract state how pixels become inputs near 0, because
the last part of this lesson shows that gradient descent needs it.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from examples.shared import Array, Numbers, Setting, start

__all__ = ["descend", "descend_in_tensorflow", "gradient", "loss", "points", "run"]

TRUE_W, TRUE_B = 1.48, 0.09


def points(count: int = 100, seed: int = 0) -> tuple[Array, Array]:
    """Return x, from 25 to 70, and y = 1.48 x + 0.09 with noise, float64."""
    random = np.random.default_rng(seed)
    x = random.uniform(25, 70, count)
    return x, TRUE_W * x + TRUE_B + random.normal(0, 5, count)


def loss(w: Array | float, b: Array | float, x: Array, y: Array) -> Array:
    """Return the mean squared error of the line w x + b; w and b have any shape."""
    w, b = np.asarray(w)[..., None], np.asarray(b)[..., None]
    return np.mean((w * x + b - y) ** 2, axis=-1)


def gradient(w: float, b: float, x: Array, y: Array) -> tuple[float, float]:
    """Return the derivatives of the mean squared error by w and by b."""
    error = w * x + b - y  # d(error**2)/d(error) = 2 error, d(error)/dw = x
    return float(np.mean(2 * error * x)), float(np.mean(2 * error))


def descend(x: Array, y: Array, rate: float, steps: int) -> Array:
    """Return (w, b) before each step and after the last, shape (steps + 1, 2)."""
    w = b = 0.0
    path = [(w, b)]
    for _ in range(steps):
        by_w, by_b = gradient(w, b, x, y)
        w, b = w - rate * by_w, b - rate * by_b
        path.append((w, b))
    return np.array(path)


def descend_in_tensorflow(x: Array, y: Array, rate: float, steps: int) -> Array:
    """Return (w, b) after the last step; TensorFlow finds the gradient itself."""
    w, b = tf.Variable(0.0, dtype=tf.float64), tf.Variable(0.0, dtype=tf.float64)
    for _ in range(steps):
        with tf.GradientTape() as tape:  # it records what follows, to derive it later
            error = tf.reduce_mean(tf.square(w * x + b - y))
        by_w, by_b = tape.gradient(error, [w, b])
        w.assign_sub(rate * by_w)
        b.assign_sub(rate * by_b)
    return np.array([w.numpy(), b.numpy()])


def draw(x: Array, y: Array, path: Array, setting: Setting) -> None:
    """Draw the points with the line, and the path of (w, b) on the loss."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(x, y, ".", alpha=0.5)
    ends = np.array([x.min(), x.max()])
    left.plot(ends, path[-1, 0] * ends + path[-1, 1])
    left.set(xlabel="x", ylabel="y", title="the line after the last step")
    w, b = np.meshgrid(np.linspace(-0.2, 3, 60), np.linspace(-30, 30, 60))
    right.contourf(w, b, np.log(loss(w, b, x, y)), 20, cmap="Blues_r")
    right.plot(path[:, 0], path[:, 1], ".-", color="tab:orange", markersize=4)
    right.set(xlabel="w", ylabel="b", title="its path on the loss, a narrow valley")
    setting.save(figure, "lesson_01")


def run(setting: Setting) -> Numbers:
    """Fit the line three times, print what happened, and return the numbers."""
    x, y = points()
    steps = 100 if setting.short else 1000
    path = descend(x, y, rate=1e-4, steps=steps)
    losses = loss(path[:, 0], path[:, 1], x, y)
    by_tape = descend_in_tensorflow(x, y, rate=1e-4, steps=steps)
    best_w, best_b = np.polyfit(x, y, 1)  # the exact solution, for comparison
    print(f"The loss falls from {losses[0]:.0f} to {losses[-1]:.2f} in {steps} steps.")
    print(f"w = {path[-1, 0]:.3f}, b = {path[-1, 1]:.3f}: w is found within a few")
    print(
        "steps, and b hardly moves, because x is far from 0: the valley is flat in b."
    )
    draw(x, y, path, setting)

    # With inputs near 0 and of size 1, the valley is round, and the steps can be large.
    mean, deviation = x.mean(), x.std()
    w, b = descend((x - mean) / deviation, y, rate=0.1, steps=100)[-1]
    w, b = w / deviation, b - w * mean / deviation
    print(f"With (x - {mean:.0f}) / {deviation:.0f} as input, 100 steps are enough:")
    print(f"w = {w:.3f}, b = {b:.3f}; exactly w = {best_w:.3f}, b = {best_b:.3f}.")
    return {
        "first loss": float(losses[0]),
        "last loss": float(losses[-1]),
        "w": float(path[-1, 0]),
        "difference NumPy, TensorFlow": float(np.abs(path[-1] - by_tape).max()),
        "difference from the exact line, scaled input": float(
            max(abs(w - best_w), abs(b - best_b))
        ),
    }


if __name__ == "__main__":
    start(run)
