# SPDX-License-Identifier: Apache-2.0
"""Each mistake in preprocessing that costs accuracy is impossible here, or refused.

The figures in the names of the mistakes are the accuracy that each cost on MNIST.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inkling.contract import Contract
from inkling.errors import BrokenVersion, InvalidContract, InvalidRequest
from inkling.image.preprocess import pixels_to_input, to_input
from inkling.model.loading import load_version
from inkling.model.repository import Repository
from inkling.model.runner import TFLiteRunner

Encode = Callable[..., bytes]
_EXIF_ORIENTATION = 0x0112


def test_a_sample_is_not_changed(
    digit_contract: Contract, sample: np.ndarray, encode: Encode
) -> None:
    """A picture of the model's own size arrives to the bit, encoded or not."""
    expected = sample[..., np.newaxis].astype(np.float32) * np.float32(1 / 255)

    assert np.array_equal(expected, to_input(encode(sample), digit_contract))
    assert np.array_equal(expected, pixels_to_input(sample, digit_contract))


def test_polarity_not_inverted(
    digit_contract: Contract, sample: np.ndarray, encode: Encode
) -> None:
    """Dark on light and light on dark become the same input."""
    light = to_input(encode(sample), digit_contract)
    dark = to_input(encode(255 - sample), digit_contract)

    assert np.array_equal(light, dark)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_ignored(
    orientation: int, digit_contract: Contract, sample: np.ndarray, encode: Encode
) -> None:
    """A picture that the camera stored turned or mirrored arrives upright."""
    upright = Image.fromarray(sample)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = orientation

    found = to_input(encode(stored, exif=exif), digit_contract)

    assert np.array_equal(to_input(encode(sample), digit_contract), found)


@pytest.mark.parametrize("ink", [0, 255])
def test_alpha_dropped(
    ink: int, digit_contract: Contract, sample: np.ndarray, encode: Encode
) -> None:
    """Ink on a transparent ground is seen, black or white, whatever colour the ground has."""
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[..., :3] = ink
    pixels[..., 3] = sample

    found = to_input(encode(pixels), digit_contract)

    expected = to_input(encode(sample), digit_contract)
    # Alpha compositing of 8-bit values rounds by one at most.
    assert np.abs(expected - found).max() <= 1.01 / 255


def test_wrong_mean_and_deviation(published: Path, digit_contract: Contract) -> None:
    """Scale and offset are the contract's; an input made with others is refused."""
    files = Repository(published).newest("mlp")
    runner = load_version(files, "float32")
    standardised = np.full((1, 28, 28, 1), -0.42, np.float32)

    with pytest.raises(InvalidRequest, match="outside"):
        runner.run(standardised)


@pytest.mark.parametrize(
    "inputs",
    [
        np.full((1, 28, 28, 1), 255, np.float32),
        np.zeros((1, 28, 28, 1), np.uint8),
        np.zeros((1, 28, 28, 1), np.int8),
        np.zeros((1, 28, 28, 1), np.float64),
        np.zeros((1, 28, 28), np.float32),
        np.full((1, 28, 28, 1), np.nan, np.float32),
        np.full((1, 28, 28, 1), np.inf, np.float32),
    ],
    ids=["not scaled", "uint8", "int8", "float64", "rank 3", "NaN", "infinite"],
)
@pytest.mark.parametrize("tflite_format", ["float32", "int8"])
def test_other_bytes_into_a_model(
    inputs: np.ndarray, tflite_format: str, published: Path
) -> None:
    """Only prepared float32 inputs go into a model; an int8 model quantises them."""
    runner = load_version(Repository(published).newest("cnn"), tflite_format)

    with pytest.raises(InvalidRequest, match=r"inkling\.image\.preprocess"):
        runner.run(inputs)


def test_an_integer_input_tensor_is_fed_by_its_own_scale(
    published: Path, tmp_path: Path
) -> None:
    """A fully integer model gets pixels quantised as its input tensor says."""
    files = Repository(published).newest("mlp")
    with np.load(files.path / "golden.npz", allow_pickle=False) as golden:
        inputs, expected = golden["inputs"], golden["scores"]
    model = _fully_integer(files.path, inputs)

    scores = TFLiteRunner(model, files.contract()).run(inputs)

    assert np.array_equal(expected.argmax(axis=1), scores.argmax(axis=1))


def _fully_integer(saved_model: Path, inputs: np.ndarray) -> bytes:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    loaded = tf.saved_model.load(str(saved_model))
    frozen = convert_variables_to_constants_v2(loaded.signatures["serving_default"])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in inputs)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    model: bytes = converter.convert()
    return model


def test_another_resize_filter(
    digit_contract: Contract, sample: np.ndarray, encode: Encode
) -> None:
    """The resize filter is part of the contract: another filter gives another hash."""
    same = replace(digit_contract, kind="sample", finder="none", centring="none")
    other = replace(same, filter="box")
    image = encode(np.kron(sample, np.ones((5, 5), np.uint8))[3:-4, 2:-1])

    assert other.hash != same.hash
    assert not np.array_equal(to_input(image, other), to_input(image, same))


def test_a_contract_that_was_changed_after_publishing(repository: Repository) -> None:
    """A model whose contract was edited is refused, and says why."""
    files = repository.newest("mlp")
    path = files.path / "assets.extra" / "contract.json"
    text = path.read_text().replace('"pad":0', '"pad":9')
    path.write_text(text)

    with pytest.raises(BrokenVersion, match="contract.json"):
        load_version(files, "float32")


def test_a_contract_of_a_later_format(digit_contract: Contract) -> None:
    """A contract that this Inkling might misread is refused."""
    text = digit_contract.json.replace('"format":2', '"format":3')

    with pytest.raises(InvalidContract, match="format 3"):
        Contract.from_json(text)
