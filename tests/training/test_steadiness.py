# SPDX-License-Identifier: Apache-2.0
"""Models whose exports differ: by rounding, or because one has no probabilities."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image

from inkling.cli.main import main
from inkling.contract import Contract
from inkling.model.bundle import Bundle
from inkling.model.repository import Repository
from inkling_training.release.formats import leave_out
from inkling_training.release.parity import compare
from inkling_training.release.steadiness import sentence

_SIDE = 24
_EVEN = np.full((4, _SIDE, _SIDE, 3), 100, np.float32)


def _amplifying(folder: Path, above: float) -> Path:
    """Save a model whose scores turn with the last bit of a picture's mean.

    Args:
        folder: Where it is saved.
        above: The mean, 0 to 255, above which it is so.
    """
    start = keras.Input((_SIDE, _SIDE, 3))
    mean = layers.GlobalAveragePooling2D()(start)
    turning = keras.ops.sin(keras.ops.relu(mean - above) * 1e6)
    end = layers.Softmax()(layers.Dense(3)(turning) + mean / 255)
    path = folder / "model.keras"
    keras.Model(start, end).save(path)
    return path


def _publish(path: Path, *options: str) -> int:
    where = ["--name", "own", "--models-dir", str(path.parent / "models")]
    labels = ["--labels", "a,b,c", "--values", "bytes"]
    return main(["publish", str(path), *where, *labels, *options])


def test_generated_pictures_where_rounding_decides_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are compared, and become the golden ones."""
    keras.utils.set_random_seed(11)

    assert _publish(_amplifying(tmp_path, 150)) == 0

    out = capsys.readouterr().out
    assert "generated pictures were left out, because the last bits" in out
    compared = Repository(tmp_path / "models").newest("own").metrics()["compared"]
    assert 12 <= compared < 48


def test_a_model_that_is_all_rounding_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says that the given model is it, and asks for its pictures."""
    keras.utils.set_random_seed(11)

    assert _publish(_amplifying(tmp_path, 0)) == 1

    err = capsys.readouterr().err
    assert "on 48 of 48 generated pictures" in err
    assert "Give --pictures" in err
    assert not list(tmp_path.glob("models/own/*"))


def test_given_pictures_are_never_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The refusal shows the table, and says on how many of them rounding decides."""
    keras.utils.set_random_seed(11)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (31, 29, 3), np.uint8)
        Image.fromarray(noise).save(pictures / f"{number}.png")

    assert _publish(_amplifying(tmp_path, 0), "--pictures", str(pictures)) == 1

    err = capsys.readouterr().err
    assert "WORST SCORE" in err
    assert "its scores change by up to" in err
    assert "on 6 of 6 pictures" in err


def test_a_steady_model_has_no_sentence() -> None:
    """A refusal for another reason does not blame the rounding."""
    found = sentence(lambda inputs: inputs.mean(axis=(1, 2)) / 255, _EVEN, 1e-5)

    assert found == ""


def test_an_export_without_probabilities_is_left_out(
    colour_contract: Contract, tmp_path: Path
) -> None:
    """Half precision may overflow to NaN; its file goes, and a sentence says why."""
    start = keras.Input((32, 32, 3))
    end = layers.Dense(2)(layers.GlobalAveragePooling2D()(start) * np.nan)
    model = tf.lite.TFLiteConverter.from_keras_model(keras.Model(start, end)).convert()
    (tmp_path / "tflite").mkdir()
    file = tmp_path / "tflite" / "float16.tflite"
    file.write_bytes(Bundle(model, "own", "float16", colour_contract).to_bytes())
    inputs, expected = np.zeros((4, 32, 32, 3), "f4"), np.full((4, 2), 0.5, "f4")

    rows = compare(expected, tmp_path, colour_contract, inputs, None, ["float16"])
    notes = leave_out(rows, tmp_path)

    assert [(row.labels_differ, row.passed) for row in rows] == [(4, False)]
    assert notes == [
        "It has no float16 file, because its answers are no probabilities."
    ]
    assert not file.exists()
