# SPDX-License-Identifier: Apache-2.0
"""Lesson 2, gradients: by hand in NumPy, by PyTorch, and by TensorFlow.

The network is 1000 -> 100 -> 10, with ReLU and the sum of squared errors. Each library
starts with the same weights, and must find the same gradients. PyTorch is optional.

What came of it: Inkling compares the exports of a model in the same way before it
publishes them (training/inkling_training/release/parity.py). The field `tolerances` of
a contract states how much their scores may differ.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from examples.shared import Array, Numbers, Setting, start

__all__ = ["WAYS", "by_hand", "problem", "run", "train"]

RATE = 1e-6
Found: TypeAlias = tuple[float, Array, Array]  # the loss, its gradients by w1 and by w2
Way: TypeAlias = Callable[[Array, Array, Array, Array], Found]
torch: Any = importlib.util.find_spec("torch") and importlib.import_module("torch")


def problem(seed: int = 0) -> tuple[Array, Array, Array, Array]:
    """Return 64 random inputs and targets, and the first weights, float32."""
    random = np.random.default_rng(seed)
    shapes = [(64, 1000), (64, 10), (1000, 100), (100, 10)]
    x, y, w1, w2 = (random.standard_normal(shape, np.float32) for shape in shapes)
    return x, y, w1, w2


def by_hand(x: Array, y: Array, w1: Array, w2: Array) -> Found:
    """Go backwards through the network by the chain rule."""
    before = x @ w1  # (64, 100)
    hidden = np.maximum(before, 0)
    error = hidden @ w2 - y  # (64, 10); the derivative of its square is 2 error
    by_before = (2 * error @ w2.T) * (before > 0)  # 0 where ReLU is closed
    return float(np.square(error).sum()), x.T @ by_before, hidden.T @ (2 * error)


def by_torch_tensors(x: Array, y: Array, w1: Array, w2: Array) -> Found:
    """The same by hand, with PyTorch's tensors."""
    inputs, targets, first, second = map(torch.from_numpy, (x, y, w1, w2))
    before = inputs @ first
    hidden = before.clamp(min=0)
    error = hidden @ second - targets
    by_first = inputs.T @ ((2 * error @ second.T) * (before > 0))
    return float((error**2).sum()), by_first.numpy(), (hidden.T @ (2 * error)).numpy()


def by_autograd(x: Array, y: Array, w1: Array, w2: Array) -> Found:
    """PyTorch remembers the operations of tensors that require a gradient."""
    first = torch.tensor(w1, requires_grad=True)
    second = torch.tensor(w2, requires_grad=True)
    output = (torch.tensor(x) @ first).clamp(min=0) @ second
    loss = (output - torch.tensor(y)).pow(2).sum()
    loss.backward()
    return loss.item(), first.grad.numpy(), second.grad.numpy()


def by_tape(x: Array, y: Array, w1: Array, w2: Array) -> Found:
    """TensorFlow records the operations on variables while the tape runs."""
    first, second = tf.Variable(w1), tf.Variable(w2)
    with tf.GradientTape() as tape:
        output = tf.nn.relu(x @ first) @ second
        loss = tf.reduce_sum(tf.square(output - y))
    by_w1, by_w2 = tape.gradient(loss, [first, second])
    return float(loss), by_w1.numpy(), by_w2.numpy()


WAYS: dict[str, Way] = {"NumPy by hand": by_hand, "TensorFlow's tape": by_tape}
if torch:
    WAYS |= {"PyTorch by hand": by_torch_tensors, "PyTorch's autograd": by_autograd}


def train(way: Way, steps: int) -> Iterator[float]:
    """Yield the loss before each step."""
    x, y, w1, w2 = problem()
    for _ in range(steps):
        loss, by_w1, by_w2 = way(x, y, w1, w2)
        w1, w2 = w1 - RATE * by_w1, w2 - RATE * by_w2
        yield loss


def run(setting: Setting) -> Numbers:
    """Compare first gradients and loss curves of all ways; return the numbers."""
    if not torch:
        print("PyTorch is NOT installed, so two ways are skipped: examples/README.md.")
    first = [way(*problem())[1:] for way in WAYS.values()]  # NumPy's come first
    worst = max(
        float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        for gradients in first
        for found, expected in zip(gradients, first[0], strict=True)
    )
    count = 50 if setting.short else 500
    curves = {name: list(train(way, count)) for name, way in WAYS.items()}
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, losses) in enumerate(curves.items()):
        axes.semilogy(losses, linewidth=7 - 2 * place, label=name)
        print(f"{name}: the loss falls from {losses[0]:.4g} to {losses[-1]:.4g}.")
    axes.set(xlabel="step", ylabel="loss", title=f"{len(curves)} curves, one line")
    axes.legend()
    setting.save(figure, "lesson_02")
    last = [losses[-1] for losses in curves.values()]
    names = ("relative difference of the gradients", "last loss", "its difference")
    return dict(zip(names, (worst, last[0], max(last) - min(last)), strict=True))


if __name__ == "__main__":
    start(run)
