# SPDX-License-Identifier: Apache-2.0
"""What LiteRT computes becomes probabilities, as the contract says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from inkling.contract import Contract
from inkling.errors import BrokenVersion
from inkling.model.runner import TFLiteRunner

_INPUTS = np.linspace(0, 1, 2 * 32 * 32 * 3, dtype=np.float32).reshape(2, 32, 32, 3)


def _model(
    compute: Callable[[tf.Tensor], tf.Tensor],
    shape: tuple[int, ...] = (32, 32, 3),
    dtype: tf.DType = tf.float32,
) -> bytes:
    """Return a TFLite model that computes a function of its input."""
    spec = tf.TensorSpec((1, *shape), dtype)
    function = tf.function(compute, input_signature=[spec])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()]
    )
    return bytes(converter.convert())


def _two(inputs: tf.Tensor) -> tf.Tensor:
    """Return two sums over the picture, as a model with two outputs may."""
    flat = tf.reshape(tf.cast(inputs, tf.float32), (-1, 3072))
    sums = tf.reduce_mean(flat, axis=1, keepdims=True)
    return tf.concat([sums, 3 * sums], axis=1)


def test_logits_get_their_softmax(colour_contract: Contract) -> None:
    """Logits become the softmax of TensorFlow, to the last digits of float32."""
    contract = replace(colour_contract, outputs="logits")
    found = TFLiteRunner(_model(lambda x: 100 * _two(x)), contract).run(_INPUTS)
    wanted = tf.nn.softmax(100 * _two(_INPUTS)).numpy()

    assert np.allclose(found, wanted, rtol=0, atol=1e-6)


def test_one_probability_means_the_second_label(colour_contract: Contract) -> None:
    """A binary model's only output is the probability of its second label."""
    contract = replace(colour_contract, outputs="binary")
    found = TFLiteRunner(_model(lambda x: _two(x)[:, :1]), contract).run(_INPUTS)
    second = _two(_INPUTS).numpy()[:, 0]

    assert np.allclose(found, np.stack([1 - second, second], axis=1), atol=1e-6)


def test_labels_on_their_own(colour_contract: Contract) -> None:
    """Sigmoid outputs need not sum to 1, but each is in [0, 1]."""
    contract = replace(colour_contract, outputs="sigmoid")
    found = TFLiteRunner(_model(lambda x: _two(x) / 4), contract).run(_INPUTS)
    assert (found.sum(axis=1) < 1).all()

    with pytest.raises(BrokenVersion, match=r"shape \(2, 2\)\. Export"):
        TFLiteRunner(_model(_two), contract).run(_INPUTS)


def test_outputs_that_are_not_as_stated(colour_contract: Contract) -> None:
    """Scores that do not sum to 1, and another number of scores, are a broken version."""
    with pytest.raises(BrokenVersion, match="sum to 1"):
        TFLiteRunner(_model(_two), colour_contract).run(_INPUTS)
    with pytest.raises(BrokenVersion, match="1 scores"):
        TFLiteRunner(_model(lambda x: _two(x)[:, :1]), colour_contract)
    with pytest.raises(BrokenVersion, match="2 scores"):
        TFLiteRunner(_model(_two), replace(colour_contract, outputs="binary"))


def test_pictures_in_whole_numbers(colour_contract: Contract) -> None:
    """A model whose input is uint8 without a scale gets the pixels themselves."""
    contract = replace(colour_contract, outputs="binary", scale=(1.0,))
    model = _model(lambda x: _two(x)[:, :1] / 255, dtype=tf.uint8)
    found = TFLiteRunner(model, contract).run(np.round(_INPUTS * 255))

    assert found[1, 1] == pytest.approx(_two(_INPUTS).numpy()[1, 0], abs=2e-3)


def test_channels_first(colour_contract: Contract) -> None:
    """A contract of layout `chw` belongs to a model whose channels come first."""
    contract = replace(colour_contract, outputs="binary", layout="chw")
    model = _model(lambda x: _two(x)[:, :1], shape=(3, 32, 32))
    inputs = np.ascontiguousarray(_INPUTS.transpose(0, 3, 1, 2))
    found = TFLiteRunner(model, contract).run(inputs)

    assert found[0, 1] == pytest.approx(_INPUTS[0].mean(), abs=1e-6)
    with pytest.raises(BrokenVersion, match=r"\(3, 32, 32\)"):
        TFLiteRunner(model, replace(contract, layout="hwc"))
