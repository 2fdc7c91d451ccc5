# SPDX-License-Identifier: Apache-2.0
"""Lesson 5, tensors: what can be done with an array of numbers, with an assertion each.

If TensorFlow did something else, the lesson would end with an error.

What came of it: a picture is a tensor, and a contract says which: `height`, `width` and
`channels` are its shape, `layout` and `channel_order` the meaning of its axes, and
`scale` and `offset` turn its bytes into float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from examples.shared import Numbers, Setting, start

__all__ = ["PARTS", "run"]


def equal(found: Any, expected: Any) -> bool:
    """Return whether a tensor has the shape and, to 1e-6, the values that are given."""
    found, expected = np.asarray(found), np.asarray(expected)
    return found.shape == expected.shape and np.allclose(found, expected, atol=1e-6)


def data_types() -> None:
    """A tensor has one type; a cast makes another tensor, and may round or overflow."""
    assert tf.constant(1).dtype == tf.int32
    assert tf.constant(1.0).dtype == tf.float32
    assert equal(tf.cast([1.9, -1.9], tf.int32), [1, -1])  # towards 0
    assert equal(tf.cast(tf.constant([255], tf.uint8) + 1, tf.int32), [0])  # it wraps


def indexing() -> None:
    """A picture of a batch, its rows, every second column, the channels reversed."""
    batch = tf.reshape(tf.range(2 * 4 * 4 * 3), (2, 4, 4, 3))
    assert batch[0].shape == (4, 4, 3)
    assert int(batch[1, 2, 3, 0]) == 1 * 48 + 2 * 12 + 3 * 3
    assert batch[:, 1:3, ::2].shape == (2, 2, 2, 3)
    assert equal(batch[..., ::-1][0, 0, 0], [2, 1, 0])  # rgb to bgr
    assert equal(tf.transpose(batch, (0, 3, 1, 2))[0, 2], batch[0, :, :, 2])  # to chw
    assert tf.squeeze(batch[None, :1]).shape == (4, 4, 3)  # None adds an axis of 1
    assert [part.shape[0] for part in tf.split(tf.range(6), [2, 4])] == [2, 4]


def broadcasting() -> None:
    """Axes are compared from the last; an axis of 1, or a missing one, is repeated."""
    column, row = tf.constant([[0], [10]]), tf.constant([1, 2, 3])
    assert equal(column + row, [[1, 2, 3], [11, 12, 13]])


def choosing() -> None:
    """Gather reads from places, scatter writes there, where chooses by a condition."""
    table = tf.constant([[1, 2], [3, 4], [5, 6]])
    assert equal(tf.gather(table, [2, 0]), [[5, 6], [1, 2]])
    assert equal(tf.gather_nd(table, [[0, 1], [2, 0]]), [2, 5])
    assert equal(tf.boolean_mask(table, [True, False, True]), [[1, 2], [5, 6]])
    assert equal(tf.scatter_nd([[1], [3]], [7, 8], (5,)), [0, 7, 0, 8, 0])
    assert equal(tf.where(table > 2, table, 0), [[0, 0], [3, 4], [5, 6]])
    assert equal(tf.one_hot([2, 0], 3), [[0, 0, 1], [1, 0, 0]])


def ordering() -> None:
    """Sort, the places that would sort, and the best k, as an answer's top labels."""
    scores = tf.constant([0.2, 0.5, 0.3])
    assert equal(tf.sort(scores, direction="DESCENDING"), [0.5, 0.3, 0.2])
    assert equal(tf.argsort(scores, direction="DESCENDING"), [1, 2, 0])
    assert equal(tf.math.top_k(scores, k=2).indices, [1, 2])
    hit = tf.math.in_top_k([2, 0], tf.stack([scores, scores]), k=2)
    assert equal(tf.reduce_mean(tf.cast(hit, tf.float32)), 0.5)  # top-2 accuracy


def clipping() -> None:
    """By value each number is cut; by norm the whole keeps its direction."""
    gradient = tf.constant([3.0, -4.0])
    assert equal(tf.clip_by_value(gradient, -1, 1), [1, -1])
    assert equal(tf.norm(gradient), 5)  # Euclidean
    assert equal(tf.clip_by_norm(gradient, 1), [0.6, -0.8])
    clipped, _ = tf.clip_by_global_norm([gradient, [12.0]], 6.5)  # 13 together
    assert equal(clipped[1], [6])


def statistics() -> None:
    """Over all numbers, or along an axis, which then is gone."""
    table = tf.constant([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]])
    assert equal(tf.reduce_mean(table), 3)
    assert equal(tf.reduce_mean(table, axis=0), [2, 2.5, 4.5])
    assert equal(tf.reduce_max(table, axis=1), [6, 3])
    assert equal(tf.reduce_min(table, axis=1, keepdims=True), [[1], [3]])
    assert equal(tf.reduce_sum(table, axis=1), [9, 9])
    assert equal(tf.reduce_prod(table, axis=1), [12, 27])
    assert equal(tf.math.reduce_std(table, axis=1), [(14 / 3) ** 0.5, 0])
    assert equal(tf.argmax(table, axis=1), [2, 0])
    values, places = tf.unique([5, 7, 5])
    assert equal(tf.gather(values, places), [5, 7, 5])


PARTS = (data_types, indexing, broadcasting, choosing, ordering, clipping, statistics)


def run(setting: Setting) -> Numbers:
    """Check every part, and draw what broadcasting makes of a row and a column."""
    for part in PARTS:
        part()
        print(f"{part.__name__}: {part.__doc__}")
    line = np.linspace(-np.pi, np.pi, 100)
    figure = Figure(figsize=(4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.contourf(tf.sin(line)[None] + tf.sin(line)[:, None], 20, cmap="Blues_r")
    axes.set(title="a row plus a column", xlabel="row: sin", ylabel="column: sin")
    setting.save(figure, "lesson_05")
    return {"parts checked": float(len(PARTS))}


if __name__ == "__main__":
    start(run)
