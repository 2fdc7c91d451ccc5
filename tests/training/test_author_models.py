# SPDX-License-Identifier: Apache-2.0
"""Models in the form in which well-known tools export them, asked as their authors ask.

The networks are tiny and have random weights. Input, outputs, files of labels and the
code that asks are those of the tool.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image, ImageOps

import inkling
from inkling.cli.main import main

_SIDE = 40
_SOAK = pytest.mark.soak
_Asked = Callable[[Path], np.ndarray]
_Made = tuple[Path, tuple[str, ...], _Asked]


def _network(channels: int = 3, begin: Callable[[Any], Any] = lambda x: x) -> Any:
    start = keras.Input((_SIDE, _SIDE, channels))
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(begin(start))
    end = layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(start, end)


def _module(folder: Path, name: str, begin: Callable[[Any], Any]) -> Any:
    """Save a SavedModel of one signature with the input `name`; return it."""
    model, module = _network(), tf.Module()
    module.model = model
    spec = tf.TensorSpec((None, _SIDE, _SIDE, 3), tf.float32, name=name)
    given = tf.function(lambda x: {"p": model(begin(x))}, input_signature=[spec])
    tf.saved_model.save(module, str(folder / "saved"), signatures=given)
    return lambda batch: np.ravel(given(tf.constant(batch))["p"])


def _litert(content: bytes, batch: np.ndarray) -> np.ndarray:
    """Ask a TFLite file; whole numbers are what the file's own scale makes of them."""
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    [taken], [given] = (
        *(interpreter.get_input_details(),),
        *(interpreter.get_output_details(),),
    )
    interpreter.set_tensor(taken["index"], batch.astype(taken["dtype"]))
    interpreter.invoke()
    found = np.ravel(interpreter.get_tensor(given["index"]))
    scale, zero = given["quantization"]
    return (found.astype(np.float32) - zero) * scale if scale else found


def _quantised(model: Any, low: float, high: float, kind: tf.DType) -> bytes:
    chance = np.random.default_rng(0)
    shape = (1, *model.input_shape[1:])

    def pictures() -> Iterator[list[np.ndarray]]:
        yield from ([np.float32(chance.uniform(low, high, shape))] for _ in range(9))

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = pictures
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = kind
    return bytes(converter.convert())


def _pillow(path: Path, **options: Any) -> np.ndarray:
    return np.asarray(Image.open(path).resize((_SIDE, _SIDE), **options))[np.newaxis]


def _tensorflow_hub(folder: Path) -> _Made:
    """A module of TensorFlow Hub: 0..1, rescaled inside, a background, a label map."""
    ask = _module(folder, "inputs", lambda x: x * 2.0 - 1.0)
    (folder / "map.csv").write_text("id,name\n1,crow\n0,background\n2,owl\n3,tit\n")

    def asked(path: Path) -> np.ndarray:
        pixels = tf.io.decode_png(path.read_bytes(), channels=3)
        pixels = tf.image.convert_image_dtype(pixels, tf.float32)
        return ask(tf.image.resize(pixels, (_SIDE, _SIDE))[tf.newaxis])

    options = ("--labels", str(folder / "map.csv"), "--no-antialias")
    return folder / "saved", options, asked


def _custom_vision(folder: Path) -> _Made:
    """A SavedModel of Azure's Custom Vision, which turns to BGR inside."""
    mean = tf.constant([104.0, 117.0, 123.0])
    ask = _module(folder, "data", lambda x: (x[..., ::-1] - mean) / 60.0)
    (folder / "labels.txt").write_text("a\nb\nc\nd")
    options = ("--labels", str(folder / "labels.txt"), "--filter", "bicubic")
    return folder / "saved", options, lambda p: ask(np.float32(_pillow(p)))


def _label_image(folder: Path) -> _Made:
    """A quantised file as TensorFlow's `label_image.py` asks it: uint8 in and out."""
    content = _quantised(_network(), -1, 1, tf.uint8)
    (folder / "model.tflite").write_bytes(content)
    options = ("--labels", "a,b,c,d", "--filter", "bicubic")
    return folder / "model.tflite", options, lambda p: _litert(content, _pillow(p))


def _edge_impulse(folder: Path) -> _Made:
    """A grey int8 file of Edge Impulse, whose values are 0..1."""
    content = _quantised(_network(1), 0, 1, tf.int8)
    (folder / "model.tflite").write_bytes(content)

    def asked(path: Path) -> np.ndarray:
        grey = Image.open(path).convert("L").resize((_SIDE, _SIDE), Image.BILINEAR)
        return _litert(content, np.int32(grey)[np.newaxis, ..., np.newaxis] - 128)

    return folder / "model.tflite", ("--labels", "a,b,c,d"), asked


def _ultralytics(folder: Path) -> _Made:
    """A file of Ultralytics, with the names of its labels behind it."""
    path = folder / "model.tflite"
    content = tf.lite.TFLiteConverter.from_keras_model(_network()).convert()
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        names = {number: f"label {number}" for number in range(4)}
        stated = {"task": "classify", "imgsz": [_SIDE, _SIDE], "names": names}
        archive.writestr("metadata.json", json.dumps(stated))

    def asked(picture: Path) -> np.ndarray:
        found = Image.open(picture)
        width, height = found.size
        scale = _SIDE / min(found.size)
        sides = [_SIDE if s == min(found.size) else int(s * scale) for s in found.size]
        found = found.resize(sides, Image.BILINEAR)
        left, top = (round((side - _SIDE) / 2) for side in sides)
        assert width != height
        part = found.crop((left, top, left + _SIDE, top + _SIDE))
        return _litert(content, np.float32(part)[np.newaxis] / 255)

    return path, ("--values", "unit", "--resize", "cover"), asked


def _teachable_machine(folder: Path) -> _Made:
    """Teachable Machine's `model_unquant.tflite`, with its `labels.txt`."""
    content = tf.lite.TFLiteConverter.from_keras_model(_network()).convert()
    (folder / "model_unquant.tflite").write_bytes(content)
    (folder / "labels.txt").write_text("0 a\n1 b\n2 c\n3 d\n")

    def asked(path: Path) -> np.ndarray:
        size = (_SIDE, _SIDE)
        fitted = ImageOps.fit(Image.open(path), size, Image.Resampling.LANCZOS)
        return _litert(content, (np.float32(fitted) / 127.5 - 1)[np.newaxis])

    options = ("--resize", "cover", "--aspect", "exact_box", "--filter", "lanczos")
    labels = ("--labels", str(folder / "labels.txt"), "--values", "signed")
    return folder / "model_unquant.tflite", (*labels, *options), asked


_TOOLS: dict[str, tuple[Callable[[Path], _Made], bool]] = {
    "TensorFlow Hub": (_tensorflow_hub, True),
    "Custom Vision": (_custom_vision, False),
    "label_image.py": (_label_image, False),
    "Edge Impulse": (_edge_impulse, True),
    "Ultralytics": (_ultralytics, True),
    "Teachable Machine": (_teachable_machine, False),
}


@pytest.mark.parametrize(
    "tool", [pytest.param(k, marks=[] if v[1] else _SOAK) for k, v in _TOOLS.items()]
)
def test_a_tools_model_answers_as_its_author_asks(tool: str, tmp_path: Path) -> None:
    """Each export is published by its files, and answers to 1e-5 with the same label."""
    keras.utils.set_random_seed(11)
    path, options, asked = _TOOLS[tool][0](tmp_path)
    where = ["--name", "own", "--models-dir", str(tmp_path / "models")]

    assert main(["publish", str(path), *where, *options]) == 0

    with inkling.connect(tmp_path / "models" / "own" / "1") as classifier:
        for number in range(3):
            coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), np.uint8)
            picture = Image.fromarray(coarse)
            file = tmp_path / f"{number}.png"
            picture.resize((61 + 14 * number, 97), Image.BICUBIC).save(file)
            top = classifier.classify(file, 4).top
            scores = [one.probability for one in sorted(top, key=lambda s: s.index)]
            assert scores == pytest.approx(asked(file), abs=1e-5)
