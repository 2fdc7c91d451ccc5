"""The batches of a run: shuffled, with outliers among them, and augmented."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from inkling_training.data.datasets import Split
from inkling_training.data.outliers import are_digits, outliers
from inkling_training.fit.augment import augmented

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_training.data.datasets import Dataset
    from inkling_training.fit.recipes import Augmentation, Recipe

    Inputs = npt.NDArray[np.float32]

__all__ = ["batches", "num_steps", "plain", "shown", "varied"]

_VALIDATION_BATCH = 500
_SHOWN = 14


def num_steps(dataset: Dataset, recipe: Recipe) -> int:
    """Return how many batches an epoch has."""
    return max(1, len(dataset.train) // recipe.batch_size)


def batches(
    dataset: Dataset, recipe: Recipe, seed: int, first_epoch: int
) -> tf.data.Dataset:
    """Return augmented batches from `first_epoch` on; each depends on its place alone.

    So a resumed run sees the very batches that it would have seen.
    """
    contract, count = dataset.contract, len(dataset.train)
    inputs = tf.constant(dataset.train.inputs(contract))  # (n, h, w, c)
    targets = tf.one_hot(dataset.train.labels, len(contract.labels))  # (n, classes)
    size, steps = min(recipe.batch_size, count), num_steps(dataset, recipe)
    ranges = _augmentation(contract, recipe)
    others = _Outliers(dataset, round(size * recipe.outlier_share), seed)

    def places(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([tf.cast(epoch, tf.int32), seed])
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(
            size, drop_remainder=True
        )

    def batch(step: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        done = tf.cast(step, tf.float32) / (steps * recipe.epochs)
        calm = tf.clip_by_value((done - 1 + recipe.calm) / recipe.calm, 0.0, 1.0)
        draw = tf.stack([tf.cast(step, tf.int32), seed])
        pictures, wanted = others.beside(
            tf.gather(inputs, chosen), tf.gather(targets, chosen), draw
        )
        pictures = augmented(pictures, draw, ranges, 1 - calm / 2)
        shape = (size + others.count, *contract.input_shape)
        return tf.ensure_shape(pictures, shape), wanted

    epochs = tf.data.Dataset.range(first_epoch, recipe.epochs)
    chosen = epochs.flat_map(places).enumerate(start=first_epoch * steps)
    return chosen.map(batch, num_parallel_calls=2, deterministic=True).prefetch(4)


class _Outliers:
    """Things that are no digit, `count` beside each batch; none beside other things.

    Every label is as right as another for them, which label smoothing leaves so.
    """

    def __init__(self, dataset: Dataset, count: int, seed: int) -> None:
        contract = dataset.contract
        self.count = count if are_digits(contract) else 0
        if self.count:
            pixels = outliers(dataset.train, seed)
            unlabelled = Split(pixels, np.zeros(len(pixels), np.int64))
            self._inputs = tf.constant(unlabelled.inputs(contract))
            classes = len(contract.labels)
            self._targets = tf.fill((self.count, classes), 1 / classes)

    def chosen(self, draw: tf.Tensor) -> tf.Tensor:
        """Return `count` of them; `draw`, shape (2,), says which."""
        places = tf.random.stateless_uniform(
            (self.count,), draw, 0, len(self._inputs), tf.int32
        )
        return tf.gather(self._inputs, places)

    def beside(
        self, inputs: tf.Tensor, targets: tf.Tensor, draw: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a batch with outliers behind it."""
        if not self.count:
            return inputs, targets
        return (
            tf.concat([inputs, self.chosen(draw)], axis=0),
            tf.concat([targets, self._targets], axis=0),
        )


def plain(split: Split, contract: Contract) -> tf.data.Dataset:
    """Return the pictures of a split as they are, in batches."""
    targets = tf.one_hot(split.labels, len(contract.labels))
    pairs = tf.data.Dataset.from_tensor_slices((split.inputs(contract), targets))
    return pairs.batch(_VALIDATION_BATCH)


def varied(
    inputs: Inputs, contract: Contract, recipe: Recipe, strength: float, seed: int = 0
) -> Inputs:
    """Return inputs, shape (n, height, width, channels), changed as in training."""
    ranges = _augmentation(contract, recipe)
    draw = tf.constant((0, seed))
    changed = augmented(tf.constant(inputs), draw, ranges, tf.constant(strength))
    return np.asarray(changed)


def shown(dataset: Dataset, recipe: Recipe, seed: int) -> dict[str, Inputs]:
    """Return some pictures of a run, as they are and as training sees them at first.

    What a row shows -> inputs, shape (n, height, width, channels), in [0, 1].
    """
    contract = dataset.contract
    inputs = dataset.train.first(_SHOWN).inputs(contract)
    rows = {
        "training pictures": inputs,
        "what training makes of them": varied(inputs, contract, recipe, 1.0, seed),
        "and another time": varied(inputs, contract, recipe, 1.0, seed + 1),
    }
    # Few digits have few outliers, which are quickly made.
    few = replace(dataset, train=dataset.train.first(_SHOWN**2))
    others = _Outliers(few, _SHOWN if recipe.outlier_share else 0, seed)
    if others.count:
        chosen = others.chosen(tf.constant((0, seed))).numpy()
        rows["what is no digit"] = varied(chosen, contract, recipe, 1.0, seed)
    return rows


def _augmentation(contract: Contract, recipe: Recipe) -> Augmentation:
    ink = contract.kind == "photo_of_one_object"
    return recipe.augmentation["digits" if ink else "objects"]
