# SPDX-License-Identifier: Apache-2.0
"""Models in the forms in which people find them, against their own library's answer.

The networks are tiny and have random weights; what is compared is the way of a picture.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers
from PIL import Image

import inkling
from inkling.cli.main import main

_SIDE = 28
_SOAK = pytest.mark.soak
_ABC = ("--labels", "a,b,c")
_FEW = np.random.default_rng(5).uniform(0, 255, (20, _SIDE, _SIDE, 3)).astype("f4")


@dataclass(frozen=True)
class _Found:
    """A model's file, the options of its publication, and its answer to a picture."""

    path: Path
    options: tuple[str, ...]
    asked: Callable[[Image.Image], np.ndarray]
    says: str = ""


def _colours(photo: Image.Image) -> np.ndarray:
    """Return 0..255, float32, one picture."""
    small = photo.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32)[np.newaxis]


def _greys(photo: Image.Image) -> np.ndarray:
    """Return 0..1, float32, one picture without an axis of channels."""
    return _colours(photo.convert("L")) / 255


def _end(start: Any, x: Any, activation: str | None = "softmax") -> keras.Model:
    flat = layers.Flatten()(layers.Conv2D(4, 3, strides=2, activation="relu")(x))
    return keras.Model(start, layers.Dense(3, activation=activation)(flat))


def _plain() -> keras.Model:
    start = keras.Input((_SIDE, _SIDE, 3))
    return _end(start, start)


def _quickstart(folder: Path) -> _Found:
    """As in TensorFlow's and Keras's tutorials on MNIST and Fashion-MNIST."""
    old = tf_keras.layers
    model = tf_keras.Sequential([old.Flatten(input_shape=(_SIDE, _SIDE)), old.Dense(3)])
    model.save(folder / "model.h5")
    return _Found(
        *(folder / "model.h5", (*_ABC, "--values", "unit")),
        lambda photo: tf.nn.softmax(model(_greys(photo))).numpy(),
    )


def _row(folder: Path) -> _Found:
    """As in Keras's `mnist_mlp.py`."""
    start = keras.Input((_SIDE * _SIDE,))
    model = keras.Model(start, layers.Dense(3, activation="softmax")(start))
    model.save(folder / "model.keras")
    return _Found(
        *(folder / "model.keras", (*_ABC, "--values", "unit")),
        lambda photo: model(_greys(photo).reshape(1, -1)).numpy(),
        "takes its values in a row",
    )


def _grey_tflite(folder: Path) -> _Found:
    """As in the codelab on digits for TensorFlow Lite."""
    start = keras.Input((_SIDE, _SIDE))
    end = layers.Dense(3, activation="softmax")(layers.Flatten()(start))
    model = keras.Model(start, end)
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    (folder / "model.tflite").write_bytes(content)
    return _Found(
        *(folder / "model.tflite", (*_ABC, "--values", "unit")),
        lambda photo: model(_greys(photo)).numpy(),
    )


def _arithmetic(folder: Path) -> _Found:
    """An .h5 file of Keras 3 that Keras 3 itself refuses."""
    start = keras.Input((_SIDE, _SIDE, 3))
    x = keras.applications.mobilenet_v2.preprocess_input(start)
    x = layers.Add()([layers.Conv2D(4, 3, padding="same")(x) for _ in range(2)]) + 0.5
    model = _end(start, x)
    model.save(folder / "model.h5")
    return _Found(
        *(folder / "model.h5", _ABC),
        lambda photo: model(_colours(photo)).numpy(),
        "the model itself makes -1..1 of them",
    )


def _whole_numbers(folder: Path) -> _Found:
    start = keras.Input((_SIDE, _SIDE, 3), dtype="uint8")
    model = _end(start, layers.Rescaling(1 / 255)(start))
    model.save(folder / "model.keras")
    return _Found(
        *(folder / "model.keras", _ABC),
        lambda photo: model(np.round(_colours(photo)).astype(np.uint8)).numpy(),
    )


def _quantised(folder: Path, scale: float, offset: float, says: str) -> _Found:
    """An int8 file whose input and output stay float32, as the converter's default is."""

    def pictures() -> Iterator[list[np.ndarray]]:
        yield from ([few[np.newaxis] * np.float32(scale) + offset] for few in _FEW)

    converter = tf.lite.TFLiteConverter.from_keras_model(_plain())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = pictures
    content = converter.convert()
    (folder / "model.tflite").write_bytes(content)

    def asked(photo: Image.Image) -> np.ndarray:
        interpreter = tf.lite.Interpreter(model_content=content)
        interpreter.allocate_tensors()
        [taken], [given] = (
            *(interpreter.get_input_details(),),
            *(interpreter.get_output_details(),),
        )
        inputs = _colours(photo) * np.float32(scale) + np.float32(offset)
        interpreter.set_tensor(taken["index"], inputs)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(given["index"]))

    return _Found(folder / "model.tflite", _ABC, asked, says)


def _quantised_unit(folder: Path) -> _Found:
    return _quantised(folder, 1 / 255, 0, "0..1 * the model quantises")


def _quantised_signed(folder: Path) -> _Found:
    return _quantised(folder, 1 / 127.5, -1, "-1..1 * the model quantises")


def _module(folder: Path, signatures: Callable[[keras.Model], Any]) -> keras.Model:
    model, module = _plain(), tf.Module()
    module.model = model
    tf.saved_model.save(module, str(folder / "model"), signatures=signatures(model))
    return model


def _traced(function: Any) -> Any:
    spec = tf.TensorSpec((None, _SIDE, _SIDE, 3), tf.float32, name="image")
    return tf.function(function, input_signature=[spec])


def _with_classes(folder: Path) -> _Found:
    """Scores beside places and texts, as estimators and AutoML write them."""

    def signature(model: keras.Model) -> Any:
        def answer(image: Any) -> dict[str, Any]:
            scores = model(image)
            place = tf.argmax(scores, 1)
            return {"scores": scores, "place": place, "class": tf.as_string(place)}

        return _traced(answer)

    model = _module(folder, signature)
    return _Found(
        *(folder / "model", (*_ABC, "--values", "bytes")),
        lambda photo: model(_colours(photo)).numpy(),
    )


def _old_hub(folder: Path) -> _Found:
    """A module of TensorFlow Hub for TensorFlow 1: a graph for training beside it."""
    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(str(folder / "model"))
    weights = np.random.default_rng(3).normal(0, 0.1, (_SIDE * _SIDE * 3, 3))
    for tags in ([], ["train"]):
        with v1.Graph().as_default(), v1.Session() as session:
            taken = v1.placeholder(tf.float32, (None, _SIDE, _SIDE, 3))
            matrix = v1.get_variable("w", initializer=weights.astype(np.float32))
            given = v1.matmul(v1.reshape(taken, (-1, len(weights))), matrix)
            session.run(v1.global_variables_initializer())
            predict = v1.saved_model.signature_def_utils.predict_signature_def
            signature = {"default": predict({"images": taken}, {"default": given})}
            if tags:
                builder.add_meta_graph(tags, signature)
            else:
                builder.add_meta_graph_and_variables(session, tags, signature)
    builder.save()

    def asked(photo: Image.Image) -> np.ndarray:
        raw = (_colours(photo) / 255).reshape(1, -1) @ weights
        return np.asarray(tf.nn.softmax(raw))

    return _Found(folder / "model", (*_ABC, "--values", "unit"), asked)


def _one_at_a_time(folder: Path) -> _Found:
    """A signature for one picture, as ONNX converters and OpenVINO write it."""

    def signature(model: keras.Model) -> Any:
        spec = tf.TensorSpec((1, _SIDE, _SIDE, 3), tf.float32, name="image")

        def answer(image: Any) -> dict[str, Any]:
            scores = model(tf.reshape(image, (1, _SIDE, _SIDE, 3)))
            return {"scores": tf.reshape(scores, (1, 3))}

        return tf.function(answer, input_signature=[spec])

    model = _module(folder, signature)
    return _Found(
        *(folder / "model", (*_ABC, "--values", "bytes")),
        lambda photo: model(_colours(photo)).numpy(),
    )


def _first_batch(folder: Path) -> _Found:
    """A `Sequential` without an input, which Keras saves with its first batch."""
    model = keras.Sequential([layers.Rescaling(1 / 255), layers.Conv2D(4, 3)])
    model.add(layers.Flatten())
    model.add(layers.Dense(3, activation="softmax"))
    model(_FEW)
    model.save(folder / "model.keras")
    return _Found(
        *(folder / "model.keras", _ABC),
        lambda photo: model(_colours(photo)).numpy(),
    )


def _lambda(folder: Path) -> _Found:
    """A Lambda layer whose code names `tf`, which Keras 3 does not know."""
    start = keras.Input((_SIDE, _SIDE, 3))
    model = _end(
        start, layers.Lambda(lambda x: tf.image.flip_up_down(x) / 255.0)(start)
    )
    model.save(folder / "model.keras")
    return _Found(
        *(folder / "model.keras", (*_ABC, "--trust", "--values", "bytes")),
        lambda photo: model(_colours(photo)).numpy(),
        "use tf, which was taken as tensorflow",
    )


def _recurrent(folder: Path) -> _Found:
    """As in the tutorials that read the rows of a digit one after the other."""
    start = keras.Input((_SIDE, _SIDE))
    end = layers.Dense(3, activation="softmax")(layers.LSTM(4)(start))
    model = keras.Model(start, end)
    model.save(folder / "model.keras")
    return _Found(
        *(folder / "model.keras", (*_ABC, "--values", "unit")),
        lambda photo: model(_greys(photo)).numpy(),
        "loops cannot be calibrated",
    )


def _cropping(folder: Path) -> _Found:
    """A model of any size that crops to its own."""
    start = keras.Input((None, None, 3))
    own = layers.Resizing(_SIDE, _SIDE, crop_to_aspect_ratio=True)(start)
    model = _end(start, layers.Rescaling(1 / 255)(own))
    model.save(folder / "model.keras")
    return _Found(
        *(folder / "model.keras", _ABC),
        lambda photo: model(np.asarray(photo, np.float32)[np.newaxis]).numpy(),
        "cover (whole_pixels)",
    )


_KINDS: dict[str, tuple[Callable[[Path], _Found], bool]] = {
    "grey without channels": (_quickstart, True),
    "values in a row": (_row, False),
    "grey TFLite": (_grey_tflite, False),
    "h5 with arithmetic": (_arithmetic, True),
    "uint8 input": (_whole_numbers, False),
    "int8 of 0..1": (_quantised_unit, True),
    "int8 of -1..1": (_quantised_signed, False),
    "classes beside scores": (_with_classes, False),
    "old hub module": (_old_hub, False),
    "batch of one": (_one_at_a_time, True),
    "batch of the first call": (_first_batch, False),
    "Lambda that names tf": (_lambda, True),
    "recurrent": (_recurrent, False),
    "cropping inside": (_cropping, True),
}


def _photos() -> list[Image.Image]:
    """Return smooth colour pictures of odd sizes."""
    found = []
    for number in range(3):
        chance = np.random.default_rng(number)
        coarse = chance.integers(0, 256, (5, 6, 3), np.uint8)
        size = (61 + 14 * number, 47 + 9 * number)
        found.append(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    return found


def _publish(folder: Path, path: Path, *options: str) -> int:
    where = ["--name", "own", "--models-dir", str(folder / "models")]
    return main(["publish", str(path), *where, *options])


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if v[1] else _SOAK) for k, v in _KINDS.items()]
)
def test_found_models_answer_as_their_library_does(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind is published by its file and its labels, and answers to 1e-5."""
    keras.utils.set_random_seed(11)
    found = _KINDS[kind][0](tmp_path)

    assert _publish(tmp_path, found.path, *found.options) == 0

    out = " ".join(capsys.readouterr().out.split())
    assert all(part in out for part in found.says.split(" * "))
    formats = {file.name for file in tmp_path.glob("models/own/1/tflite/*")}
    assert formats & {"float32.tflite", "int8.tflite"}
    with inkling.connect(tmp_path / "models" / "own" / "1") as classifier:
        for photo in _photos():
            file = io.BytesIO()
            photo.save(file, "PNG")
            top = classifier.classify(file.getvalue(), 3).top
            scores = [s.probability for s in sorted(top, key=lambda one: one.index)]
            assert scores == pytest.approx(np.ravel(found.asked(photo)), abs=1e-5)
