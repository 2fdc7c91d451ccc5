# SPDX-License-Identifier: Apache-2.0
"""Lesson 3, minima: where gradient descent arrives, and when it leaves for infinity.

Which minimum is found depends on the start; whether one is found, on the learning rate.
From x = 10, one step with the rate 0.01 jumps over the valley to the slope that falls
to minus infinity, where every step is longer than the last.

What came of it: `inkling train` stops at a loss of NaN and advises a --learning-rate
(training/inkling_training/fit/callbacks.py); its own rate falls along a cosine.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensorflow as tf
from keras.optimizers import SGD, Adam
from keras.optimizers.schedules import ExponentialDecay
from matplotlib.figure import Figure

from examples.shared import Array, Numbers, Setting, start

__all__ = ["MINIMA", "descend", "himmelblau", "polynomial", "run"]

STARTS = ((1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0))
MINIMA = ((3, 2), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848127))


def himmelblau(point: Any) -> Any:
    """Return a function with four minima, all of them 0; the first axis is (x, y)."""
    return (point[0] ** 2 + point[1] - 11) ** 2 + (point[0] + point[1] ** 2 - 7) ** 2


def polynomial(x: Any) -> Any:
    """Return 5 x^3 + 3 x^2 - 8 x + 10: its only minimum is at (-6 + 516^0.5) / 30."""
    return 5 * x**3 + 3 * x**2 - 8 * x + 10


def descend(function: Any, first: Any, optimizer: Any, steps: int) -> Array:
    """Return the point before each step and after the last, shape (steps + 1, ...)."""
    point = tf.Variable(first, dtype=tf.float32)
    optimizer.build([point])

    @tf.function  # without it, each step would take several times as long
    def step() -> None:
        with tf.GradientTape() as tape:
            value = function(point)
        optimizer.apply([tape.gradient(value, point)])

    path = [point.numpy()]
    for _ in range(steps):
        step()
        path.append(point.numpy())
    return np.array(path)


def cures() -> dict[str, Any]:
    """Return optimizers for the start x = 10, by what they do."""
    return {
        "rate 0.01": SGD(0.01),
        "rate 0.001": SGD(0.001),
        "rate 0.01, halved in each step": SGD(ExponentialDecay(0.01, 1, 0.5)),
        "rate 0.005, decaying": SGD(ExponentialDecay(0.005, 50, 0.9)),
        "rate 0.01, gradient clipped to 50": SGD(0.01, clipnorm=50),
        "Adam, rate 0.5": Adam(0.5),
    }


def speedup(calls: int) -> float:
    """Return how many times faster a traced function is than the same one, eager."""
    point, took = tf.constant([1.0, 1.0]), []
    for function in (himmelblau, tf.function(himmelblau)):
        function(point)  # the first call of a traced function traces it
        began = time.perf_counter()
        for _ in range(calls):
            function(point)
        took.append(time.perf_counter() - began)
    return took[0] / took[1]


def run(setting: Setting) -> Numbers:
    """Find the minima, lose one and find it again; return the numbers."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    x, y = np.meshgrid(np.linspace(-5, 5, 80), np.linspace(-5, 5, 80))
    left.contourf(x, y, np.log1p(himmelblau((x, y))), 20, cmap="Blues_r")
    ends, gaps = {}, []
    for name, colour in (("SGD", "tab:orange"), ("Adam", "tab:red")):
        for first in STARTS:
            optimizer = SGD(0.01) if name == "SGD" else Adam(0.1)
            path = descend(himmelblau, first, optimizer, 250)
            left.plot(*path.T, color=colour)
            gap = np.linalg.norm(path[:, None] - MINIMA, axis=2)  # (steps + 1, minima)
            gaps.append(gap[-1])
            steps = int(np.argmax(gap.min(axis=1) < 1e-2))
            print(f"{name} from {first}: minimum {gap[-1].argmin() + 1}, {steps} steps")
    for name, optimizer in cures().items():
        path = descend(polynomial, 10.0, optimizer, 400)
        ends[f"from x = 10, {name}"] = float(path[-1])
        print(f"From 10, {name}: {path[1]:.4g}, {path[2]:.4g} ... {path[-1]:.4g}")
        right.plot(np.clip(path[:60], -20, 20), label=name)
    near = float(descend(polynomial, 3.0, SGD(0.01), 200)[-1])
    left.set(title="Himmelblau: SGD orange, Adam red", xlabel="x", ylabel="y")
    right.set(title="5x³ + 3x² - 8x + 10 from x = 10", xlabel="step", ylabel="x")
    right.legend(fontsize=6)
    setting.save(figure, "lesson_03")
    return {
        "Himmelblau, minima found": float(len({int(gap.argmin()) for gap in gaps[:4]})),
        "Himmelblau, worst distance": max(float(gap.min()) for gap in gaps),
        "polynomial from x = 3: x": near,
        "polynomial from x = 3: y": float(polynomial(near)),
        **ends,
        "tf.function, times faster": speedup(100 if setting.short else 2000),
    }


if __name__ == "__main__":
    start(run)
