# SPDX-License-Identifier: Apache-2.0
"""The batches of a training run: shuffled, augmented and with outliers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from inkling.image.inputs import scaled
from inkling_training.data.outliers import are_digits, as_served, outliers
from inkling_training.data.stored import batch_size
from inkling_training.fit.augment import augmented

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_training.data.datasets import Dataset, Split
    from inkling_training.fit.recipes import Augmentation, Recipe

    Inputs = npt.NDArray[np.float32]

__all__ = ["batches", "num_steps", "plain", "shown", "varied", "varied_inputs"]

_SHOWN = 14
_UNIT = np.float32(1 / 255)
# Outliers of a run that are prepared as served pictures are, at most.
_AS_SERVED = 512


def num_steps(dataset: Dataset, recipe: Recipe) -> int:
    """Return the number of batches in an epoch."""
    return max(1, len(dataset.train) // recipe.batch_size)


def batches(
    dataset: Dataset, recipe: Recipe, seed: int, first_epoch: int
) -> tf.data.Dataset:
    """Return the batches from `first_epoch` to the recipe's last epoch.

    A batch depends only on the seed and its number, so a resumed run gets the same
    batches as an uninterrupted run. Each batch is a pair: inputs, float32, shape
    (n, height, width, channels); and targets, float32, shape (n, classes). Without
    augmentation and outliers, an input is bit for bit that of a served picture.

    Args:
        dataset: The dataset; only its training split is used.
        recipe: The batch size, the augmentation and the share of outliers.
        seed: The random seed of the run.
        first_epoch: The first epoch, from 0.
    """
    contract, train = dataset.contract, dataset.train.prepared(dataset.contract)
    targets = tf.one_hot(train.labels, len(contract.labels))  # (n, classes)
    size, steps = min(recipe.batch_size, len(train)), num_steps(dataset, recipe)
    ranges = _augmentation(contract, recipe)
    others = _Outliers(dataset, round(size * recipe.outlier_share), seed)
    # Augmentation works on [0, 1].
    full = 1.0 if ranges else 255.0

    def places(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(train)), seed=tf.stack([tf.cast(epoch, tf.int32), seed])
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(
            size, drop_remainder=True
        )

    def batch(step: tf.Tensor, chosen: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.cast(_read(train, chosen, contract), tf.float32)
        draw = tf.stack([tf.cast(step, tf.int32), seed])
        pictures, wanted = others.beside(
            pixels * _UNIT if ranges else pixels,
            tf.gather(targets, chosen),
            draw,
            full,
        )
        if ranges:
            done = tf.cast(step, tf.float32) / (steps * recipe.epochs)
            calm = tf.clip_by_value((done - 1 + recipe.calm) / recipe.calm, 0.0, 1.0)
            pictures = augmented(pictures, draw, ranges, 1 - calm / 2)
        shape = (size + others.count, *contract.input_shape)
        inputs = _as_inputs(tf.ensure_shape(pictures, shape), contract, full)
        return inputs, wanted

    epochs = tf.data.Dataset.range(first_epoch, recipe.epochs)
    chosen = epochs.flat_map(places).enumerate(start=first_epoch * steps)
    return chosen.map(batch, num_parallel_calls=2, deterministic=True).prefetch(4)


def _read(split: Split, places: tf.Tensor, contract: Contract) -> tf.Tensor:
    """Return prepared pictures, uint8, shape (n, height, width, channels)."""
    shape = (contract.height, contract.width, contract.channels)

    def read(chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return split.pixels[chosen].reshape(-1, *shape)

    pixels = tf.numpy_function(read, [places], tf.uint8, stateful=False)
    return tf.ensure_shape(pixels, (None, *shape))


def _as_inputs(pictures: tf.Tensor, contract: Contract, full: float) -> tf.Tensor:
    """Return RGB pictures in [0, full] as model inputs; `scaled` does so with 255."""
    if contract.channel_order == "bgr":
        pictures = pictures[..., ::-1]
    factors = [255 / full * scale for scale in contract.scale]
    if factors != [1.0]:
        pictures *= tf.constant(factors, tf.float32)
    if any(contract.offset):
        pictures += tf.constant(contract.offset, tf.float32)
    return pictures


class _Outliers:
    """The outliers of each batch; only datasets of digits have them.

    The target of an outlier is the uniform distribution over all labels. Label
    smoothing does not change that distribution.

    Attributes:
        count: Outliers in each batch; 0 if the labels are not digits.
    """

    def __init__(
        self, dataset: Dataset, count: int, seed: int, served: int = _AS_SERVED
    ) -> None:
        contract = dataset.contract
        self.count = count if are_digits(contract) else 0
        if self.count:
            self._inputs = tf.constant(
                _prepared(outliers(dataset.train, seed), contract, served)
            )
            classes = len(contract.labels)
            self._targets = tf.fill((self.count, classes), 1 / classes)

    def chosen(self, draw: tf.Tensor) -> tf.Tensor:
        """Return `count` outliers; the seed `draw`, int32, shape (2,), selects them."""
        places = tf.random.stateless_uniform(
            (self.count,), draw, 0, len(self._inputs), tf.int32
        )
        return tf.gather(self._inputs, places)

    def beside(
        self, pictures: tf.Tensor, targets: tf.Tensor, draw: tf.Tensor, full: float
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the batch in [0, full], followed by outliers."""
        if not self.count:
            return pictures, targets
        return (
            tf.concat([pictures, full * self.chosen(draw)], axis=0),
            tf.concat([targets, self._targets], axis=0),
        )


def _prepared(
    pixels: npt.NDArray[np.uint8], contract: Contract, served: int
) -> npt.NDArray[np.float32]:
    """Return outliers in [0, 1], shape (n, height, width, 1), float32.

    Up to `served` of them are prepared as served pictures are, so the finder frames
    those that are not framed like samples. That takes milliseconds each; the others
    stay as they are made.
    """
    contract = replace(contract, scale=(1 / 255,), offset=(0.0,))
    inputs = scaled(pixels[..., np.newaxis], contract)
    every = math.ceil(len(pixels) / served)
    inputs[::every] = as_served(pixels[::every], contract)
    return inputs


def plain(split: Split, contract: Contract) -> tf.data.Dataset:
    """Return the pictures of a split in batches, without augmentation."""
    targets = tf.one_hot(split.labels, len(contract.labels))
    split = split.prepared(contract)

    def batch(places: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.cast(_read(split, places, contract), tf.float32)
        return _as_inputs(pixels, contract, 255.0), tf.gather(targets, places)

    places = tf.data.Dataset.range(len(split)).batch(batch_size(contract.input_shape))
    return places.map(batch).prefetch(1)


def varied(
    pictures: Inputs, contract: Contract, recipe: Recipe, strength: float, seed: int = 0
) -> Inputs:
    """Return pictures with the augmentation of training.

    Args:
        pictures: Shape (n, height, width, channels), float32, in [0, 1].
        contract: The contract of the model.
        recipe: The recipe with the ranges of the augmentation.
        strength: Factor on all ranges, in [0, 1].
        seed: The random seed.
    """
    ranges = _augmentation(contract, recipe)
    if ranges is None:
        return pictures
    draw = tf.constant((0, seed))
    return np.asarray(
        augmented(tf.constant(pictures), draw, ranges, tf.constant(strength))
    )


def varied_inputs(
    split: Split, contract: Contract, recipe: Recipe, strength: float, count: int
) -> Iterator[Inputs]:
    """Yield model inputs of a split with the augmentation of training, in parts.

    Args:
        split: The pictures; if there are few, each occurs in several versions.
        contract: The contract of the model.
        recipe: The recipe with the ranges of the augmentation.
        strength: Factor on all ranges, in [0, 1].
        count: The number of inputs, at least.
    """
    split, size = split.prepared(contract), batch_size(contract.input_shape)
    starts = range(0, len(split), size)
    for seed, start in enumerate([*starts] * math.ceil(count / len(split))):
        units = _units(split.pixels[start : start + size], contract)
        changed = varied(units, contract, recipe, strength, seed)
        yield np.asarray(_as_inputs(tf.constant(changed), contract, 1.0))


def shown(dataset: Dataset, recipe: Recipe, seed: int) -> dict[str, Inputs]:
    """Return pictures of a run for the model card, before and after augmentation.

    Each row has a title and pictures, float32, shape (n, height, width, channels), in
    [0, 1], RGB or grey.
    """
    contract = dataset.contract
    pixels = dataset.train.first(_SHOWN).prepared(contract).pixels
    units = _units(np.asarray(pixels), contract)
    rows = {"training pictures": units}
    if _augmentation(contract, recipe):
        rows["augmented"] = varied(units, contract, recipe, 1.0, seed)
        rows["augmented again"] = varied(units, contract, recipe, 1.0, seed + 1)
    # A few digits need only a few outliers, which takes less time.
    few = replace(dataset, train=dataset.train.first(_SHOWN**2))
    count = _SHOWN if recipe.outlier_share else 0
    others = _Outliers(few, count, seed, served=_SHOWN)
    if others.count:
        chosen = others.chosen(tf.constant((0, seed))).numpy()
        rows["outliers, augmented"] = varied(chosen, contract, recipe, 1.0, seed)
    return rows


def _units(pixels: npt.NDArray[np.uint8], contract: Contract) -> Inputs:
    """Return prepared pixels in [0, 1], shape (n, height, width, channels)."""
    shape = (contract.height, contract.width, contract.channels)
    return pixels.reshape(-1, *shape).astype(np.float32) * _UNIT


def _augmentation(contract: Contract, recipe: Recipe) -> Augmentation | None:
    """Return the ranges for these pictures; None without augmentation."""
    ink = contract.kind == "photo_of_one_object"
    return recipe.augmentation.get("digits" if ink else "objects")
