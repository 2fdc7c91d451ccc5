# SPDX-License-Identifier: Apache-2.0
"""The workers of a training over several machines, which TF_CONFIG names."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import keras
import tensorflow as tf

from inkling.errors import InvalidRequest

__all__ = ["Reduced", "Workers", "is_chief", "part_of", "workers"]


class Reduced(keras.Model):  # type: ignore[misc]
    """A model whose `fit` runs over several workers.

    Keras 3 averages two things over the workers in a way that TensorFlow refuses
    (keras-team/keras#20585): the pictures of the first batch, of which it needs only
    the shape, and the figures of each step, along an axis that they do not have.
    """

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        """Build the metrics from the part of a batch that this worker has."""
        local = self.distribute_strategy.experimental_local_results
        for _, _, batches in iterator:
            data_batch = tuple(local(part)[0] for part in next(batches))
            break
        super()._maybe_symbolic_build(data_batch=data_batch)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return the figures of a step, each of shape (1,)."""
        return _with_axis(super().train_step(data))

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return the figures of a step, each of shape (1,)."""
        return _with_axis(super().test_step(data))


def _with_axis(figures: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: tf.reshape(value, (1,)) for name, value in figures.items()}


class Workers:
    """The workers, of which this process is one.

    Attributes:
        strategy: TensorFlow's strategy; its default one if there is one worker.
        several: True if there are several workers.
        chief: True if this process keeps the run and publishes.
    """

    def __init__(self) -> None:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        tasks = resolver.cluster_spec().as_dict()
        machines = [*tasks.get("chief", []), *tasks.get("worker", [])]
        self.several = len(machines) > 1
        self.chief = is_chief(tasks, resolver.task_type, resolver.task_id)
        self.strategy = tf.distribute.get_strategy()
        if self.several:
            print(f"Waiting for the workers {', '.join(machines)}.", flush=True)
            self.strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)

    def check_same(self, state: str) -> None:
        """Check that all workers begin a run in the same state.

        Raises:
            InvalidRequest: They do not.
        """
        mine = tf.constant([zlib.crc32(state.encode())], tf.int64)

        @tf.function  # type: ignore[untyped-decorator]
        def gathered() -> tf.Tensor:
            return tf.distribute.get_replica_context().all_gather(mine, axis=0)

        found = self.strategy.experimental_local_results(self.strategy.run(gathered))
        if len({*found[0].numpy()}) > 1:
            raise InvalidRequest(
                f"The workers begin in different states, this one with {state}. Give "
                "all workers the same command and the same pictures, and a --runs-dir "
                "that all of them read."
            )

    def shares(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Return the parts of each batch that this worker trains on."""
        if not self.several:
            return batches
        return self.strategy.distribute_datasets_from_function(
            partial(part_of, batches)
        )

    def copies(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Return each batch whole for each replica, over and over.

        So all workers find the same figures, which are those of one worker.
        """
        if not self.several:
            return batches

        def whole(context: tf.distribute.InputContext) -> tf.data.Dataset:
            replicas = context.num_replicas_in_sync // context.num_input_pipelines
            copied = batches.flat_map(
                lambda *batch: tf.data.Dataset.from_tensors(batch).repeat(replicas)
            )
            return copied.repeat()

        return self.strategy.distribute_datasets_from_function(whole)


def is_chief(tasks: Mapping[str, Any], kind: str | None, index: int | None) -> bool:
    """Return whether a task is the chief: TensorFlow's `chief`, or the first worker."""
    return kind in (None, "chief") or ("chief" not in tasks and not index)


def part_of(
    batches: tf.data.Dataset, context: tf.distribute.InputContext
) -> tf.data.Dataset:
    """Return the parts of each batch for the replicas of one worker.

    The part of a replica has every n-th row, so that all parts have outliers.
    """
    count = context.num_replicas_in_sync
    local = count // context.num_input_pipelines
    first = context.input_pipeline_id * local

    def parts(inputs: tf.Tensor, targets: tf.Tensor) -> tf.data.Dataset:
        replicas = tf.data.Dataset.range(first, first + local)
        return replicas.map(lambda place: (inputs[place::count], targets[place::count]))

    return batches.flat_map(parts)


@cache
def workers() -> Workers:
    """Return the workers; in a cluster, call it before all else of TensorFlow."""
    return Workers()
