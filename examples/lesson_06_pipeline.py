# SPDX-License-Identifier: Apache-2.0
"""Lesson 6, the input pipeline: what map, shuffle, batch, repeat and prefetch cost.

A training that waits for its pictures learns nothing meanwhile. The largest difference
is the order of two words: a map after `batch` is called once for 128 pictures, before
it for each of them.

What came of it: training/inkling_training/fit/batches.py prepares whole batches and
prefetches four. The field `training_data` of a contract names the pictures and their
digest, so that two models can be compared on the same ones.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from examples.shared import Array, Numbers, Setting, dataset_or_none, digits, start

__all__ = ["pipelines", "prepared", "run", "seconds"]

BATCH, PAUSE_S = 128, 0.03


def prepared(pixels: Any, label: Any) -> tuple[Any, Any]:
    """Return pixels in [0, 1] and the one-hot label, for one picture or for many."""
    return tf.cast(pixels, tf.float32) / 255, tf.one_hot(label, 10)


def pipelines(pixels: Array, labels: Array) -> dict[str, Any]:
    """Return pipelines that give each picture once, by what they do."""
    pictures = tf.data.Dataset.from_tensor_slices((pixels, labels))
    together = pictures.batch(BATCH).map(prepared)
    return {
        "batch": pictures.batch(BATCH),
        "map, batch": pictures.map(prepared).batch(BATCH),
        "batch, map": together,
        "shuffle, batch, map": pictures.shuffle(len(pixels), seed=0)
        .batch(BATCH)
        .map(prepared),
        "batch, map, cache": together.cache(),
        "batch, map, prefetch": together.prefetch(tf.data.AUTOTUNE),
    }


def seconds(pipeline: Any, work_s: float = 0.0) -> float:
    """Return the seconds of an epoch, with `work_s` of training on each batch."""
    began = time.perf_counter()
    for _ in pipeline:
        time.sleep(work_s)
    return time.perf_counter() - began


def check_the_words(pixels: Array, labels: Array) -> None:
    """Assert what each word means."""
    pictures = tf.data.Dataset.from_tensor_slices((pixels, labels))
    count = -(-len(labels) // BATCH)  # rounded up: the last batch has the rest
    assert len(pictures.batch(BATCH)) == count
    assert len(pictures.batch(BATCH, drop_remainder=True)) == len(labels) // BATCH
    assert len(pictures.repeat(2).batch(BATCH)) == -(-2 * len(labels) // BATCH)
    shuffled = [int(label) for _, label in pictures.shuffle(len(labels), seed=0)]
    assert shuffled != list(labels)
    assert sorted(shuffled) == sorted(labels)  # each picture once, in another order
    near = [int(n) for n in tf.data.Dataset.range(100).shuffle(5, seed=0).take(1)]
    assert near[0] < 5  # a small buffer shuffles only near places


def run(setting: Setting) -> Numbers:
    """Measure an epoch of each pipeline, print a table, and return the numbers."""
    for name in ("mnist", "fashion_mnist", "cifar10"):
        found = None if setting.short else dataset_or_none(name)
        if found is None:
            print(
                f"keras.datasets.{name}: not looked for, or neither here nor to be had"
            )
        else:
            shape = np.asarray(found.train.pixels[:1]).shape[1:]
            print(f"keras.datasets.{name}: {shape}, {found.contract.labels}")
    train = digits(setting).train.first(1000 if setting.short else 20_000)
    pixels, labels = np.asarray(train.pixels), train.labels
    check_the_words(pixels[:1000], labels[:1000])
    costs = {}
    for name, pipeline in pipelines(pixels, labels).items():
        seconds(pipeline.take(2))  # the first elements wait for threads to start
        seconds(pipeline)  # fills the cache of the one that has one
        costs[name] = min(seconds(pipeline) for _ in range(3))
        print(f"{name:22} {1e6 * costs[name] / len(pixels):8.2f} us for each picture")
    # Prefetch prepares the next batch meanwhile; tf.data would put one in by itself.
    slow = tf.data.Dataset.range(12).map(lambda n: tf.py_function(pause, [n], tf.int64))
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    slow = slow.with_options(options)
    waiting, ahead = seconds(slow, PAUSE_S), seconds(slow.prefetch(2), PAUSE_S)
    print(f"12 slow batches: {waiting:.2f} s, with prefetch {ahead:.2f} s.")
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(costs), [1e6 * cost / len(pixels) for cost in costs.values()])
    axes.set(xlabel="microseconds for each picture", title="an epoch of each pipeline")
    axes.invert_yaxis()
    setting.save(figure, "lesson_06")
    return {
        "map, batch: times slower than batch, map": costs["map, batch"]
        / costs["batch, map"],
        "slow batches, without prefetch: s": waiting,
        "slow batches, with prefetch: s": ahead,
    }


def pause(number: Any) -> Any:
    """Take 30 ms, as the decoding of large pictures does."""
    time.sleep(PAUSE_S)
    return number


if __name__ == "__main__":
    start(run)
