# SPDX-License-Identifier: Apache-2.0
"""Augmentation: changes a batch of training pictures at random, from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import tensorflow as tf

if TYPE_CHECKING:
    from inkling_training.fit.recipes import Augmentation

__all__ = ["augmented"]

_NUM_DRAWS = 11
# A full 3x3 erosion deletes thin strokes; this share of one does not.
_EROSION_SHARE = 0.6


def augmented(
    inputs: tf.Tensor, seed: tf.Tensor, ranges: Augmentation, strength: tf.Tensor
) -> tf.Tensor:
    """Return the batch with random changes, in the same shape, dtype and range.

    Args:
        inputs: Shape (n, height, width, channels), float32, in [0, 1].
        seed: Shape (2,), int32; the same seed gives the same changes.
        ranges: The largest extent of each change.
        strength: Scalar factor on all ranges, in [0, 1].
    """
    draws = strength * tf.random.stateless_uniform(
        (tf.shape(inputs)[0], _NUM_DRAWS), seed, -1.0, 1.0
    )
    inputs = _moved(inputs, draws, ranges)

    def draw(column: int) -> tf.Tensor:
        return tf.reshape(draws[:, column], (-1, 1, 1, 1))

    if ranges.stroke:
        inputs = _stroked(inputs, draw(6) * ranges.stroke)
    if ranges.blur:
        inputs += tf.nn.relu(draw(7)) * ranges.blur * (_blurred(inputs) - inputs)
    if ranges.contrast:
        inputs *= 1.0 + draw(8) * ranges.contrast
    if ranges.noise:
        noise = tf.random.stateless_normal(tf.shape(inputs), seed + 1)
        inputs += tf.nn.relu(draw(9)) * ranges.noise * noise
    return tf.clip_by_value(inputs, 0.0, 1.0)


def _moved(inputs: tf.Tensor, draws: tf.Tensor, ranges: Augmentation) -> tf.Tensor:
    """Rotate, scale, shear, mirror and shift the pictures in one resampling."""
    height, width = inputs.shape[1], inputs.shape[2]
    angle = draws[:, 0] * math.radians(ranges.rotation_deg)
    scale = tf.exp(draws[:, 1] * ranges.scale)
    aspect = tf.exp(draws[:, 2] * ranges.aspect)
    scale_x, scale_y = scale * aspect, scale / aspect
    if ranges.flip:
        scale_x *= tf.where(draws[:, 10] > 0.0, 1.0, -1.0)
    slant = draws[:, 3] * ranges.shear
    cos, sin = tf.cos(angle), tf.sin(angle)
    # The matrix maps output coordinates to input coordinates: rotation, then shear,
    # then scaling. Each coefficient has shape (n,).
    x_by_x, x_by_y = scale_x * (cos + slant * sin), scale_x * (slant * cos - sin)
    y_by_x, y_by_y = scale_y * sin, scale_y * cos
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    shift = ranges.shift_px * draws[:, 4:6]
    x_offset = centre_x - x_by_x * centre_x - x_by_y * centre_y + shift[:, 0]
    y_offset = centre_y - y_by_x * centre_x - y_by_y * centre_y + shift[:, 1]
    zero = tf.zeros_like(angle)
    rows = [x_by_x, x_by_y, x_offset, y_by_x, y_by_y, y_offset, zero, zero]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=inputs,
        transforms=tf.stack(rows, axis=1),  # (n, 8)
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def _stroked(inputs: tf.Tensor, amount: tf.Tensor) -> tf.Tensor:
    """Widen the strokes if `amount` is positive; thin them if it is negative."""
    thicker = _over_3x3(inputs, tf.maximum) - inputs
    thinner = inputs - _over_3x3(inputs, tf.minimum)
    return (
        inputs
        + tf.nn.relu(amount) * thicker
        - _EROSION_SHARE * tf.nn.relu(-amount) * thinner
    )


def _over_3x3(
    inputs: tf.Tensor, pick: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    rows = tf.pad(inputs, ((0, 0), (1, 1), (0, 0), (0, 0)))
    inputs = pick(pick(rows[:, :-2], rows[:, 2:]), inputs)
    columns = tf.pad(inputs, ((0, 0), (0, 0), (1, 1), (0, 0)))
    return pick(pick(columns[:, :, :-2], columns[:, :, 2:]), inputs)


def _blurred(inputs: tf.Tensor) -> tf.Tensor:
    """Blur with the binomial filter 1 2 1 along rows and columns."""
    rows = tf.pad(inputs, ((0, 0), (1, 1), (0, 0), (0, 0)))
    inputs = 0.25 * (rows[:, :-2] + rows[:, 2:]) + 0.5 * inputs
    columns = tf.pad(inputs, ((0, 0), (0, 0), (1, 1), (0, 0)))
    return 0.25 * (columns[:, :, :-2] + columns[:, :, 2:]) + 0.5 * inputs
