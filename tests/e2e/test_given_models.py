# SPDX-License-Identifier: Apache-2.0
"""Models that people bring answer alike on every path, and as their own library does.

One table: for each kind of model, HTTP, gRPC, the device and a stand-in for TensorFlow
Serving against the library's own call, with the library's own preparation of a file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers
from PIL import Image, ImageOps

import inkling
from inkling.cli.main import main
from inkling.contract import Contract
from inkling.model.repository import CONTRACT_FILE
from tests.support.gateway_process import GatewayProcess, serving
from tests.support.machine import until
from tests.support.official_server import OfficialServer

_SIDE = 32
# Xception takes no smaller pictures.
_LARGER = 75
Prepare = Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class _Given:
    """A model's file, the options of its publication, and its own answer to a file."""

    path: Path
    options: tuple[str, ...]
    asked: Callable[[Path], np.ndarray]
    tolerance: float = 1e-5
    has_saved_model: bool = True


def _loaded(path: Path, side: int = _SIDE, **options: Any) -> np.ndarray:
    """Return 0..255, float32, as most code for Keras does."""
    found = keras.utils.load_img(path, target_size=(side, side), **options)
    return np.asarray(keras.utils.img_to_array(found))


def _resized(path: Path) -> np.ndarray:
    """Return 0..255, float32, as the tutorials of TensorFlow do."""
    pixels = tf.io.decode_png(path.read_bytes(), channels=3)
    return np.asarray(tf.image.resize(pixels, (_SIDE, _SIDE)))


def _fitted(path: Path) -> np.ndarray:
    """Return -1..1, as Teachable Machine's snippet does."""
    with Image.open(path) as picture:
        size = (_SIDE, _SIDE)
        fitted = ImageOps.fit(picture.convert("RGB"), size, Image.Resampling.LANCZOS)
    return np.asarray(fitted).astype(np.float32) / 127.5 - 1


def _body(x: Any) -> Any:
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(x)
    return layers.Flatten()(x)


def _ending(activation: str | None, outputs: int = 3) -> keras.Model:
    start = keras.Input((_SIDE, _SIDE, 3))
    end = layers.Dense(outputs, activation=activation)(_body(start / 127.5 - 1.0))
    return keras.Model(start, end)


def _saved(
    folder: Path,
    model: Any,
    prepare: Prepare,
    *options: str,
    then: Callable[[np.ndarray], Any] = np.asarray,
    suffix: str = ".keras",
    **facts: Any,
) -> _Given:
    path = folder / f"model{suffix}"
    model.save(path)

    def asked(picture: Path) -> np.ndarray:
        raw = model(prepare(picture)[np.newaxis], training=False)
        raw = raw["species"] if isinstance(raw, dict) else raw
        return np.ravel(then(np.asarray(raw, np.float32)))

    return _Given(path, options, asked, **facts)


_NEAREST = ("--filter", "nearest")
_ABC = ("--labels", "a,b,c")


def _application(name: str, values: str, side: int = _SIDE) -> Any:
    """Return what makes an architecture of Keras with random weights.

    Its normalisation is fitted to pictures, so that its answers differ by picture.

    Args:
        name: The architecture.
        values: The option that says what its `preprocess_input` does; empty if nothing.
        side: The side of its pictures.
    """
    prepare = inspect.getmodule(getattr(keras.applications, name)).preprocess_input

    def made(folder: Path) -> _Given:
        network = getattr(keras.applications, name)(
            input_shape=(side, side, 3), include_top=False, weights=None, pooling="avg"
        )
        for layer in network._flatten_layers():
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = 0.0
        few = np.concatenate([_loaded(path, side)[None] for path in _pictures(folder)])
        network(prepare(few), training=True)
        start = keras.Input((side, side, 3))
        end = layers.Dense(3, activation="softmax")(network(start, training=False))
        options = ("--values", values) if values else ()
        return _saved(
            *(folder, keras.Model(start, end), lambda p: prepare(_loaded(p, side))),
            *(*_ABC, *_NEAREST, *options),
        )

    return made


def _augmented(folder: Path) -> _Given:
    start = [keras.Input((_SIDE, _SIDE, 3)), layers.RandomFlip()]
    start += [layers.RandomRotation(0.2), layers.Rescaling(1 / 255)]
    end = [layers.Conv2D(6, 3, activation="relu"), layers.GlobalAveragePooling2D()]
    end += [layers.Dropout(0.5), layers.Dense(3, activation="softmax")]
    model = keras.Sequential([*start, *end])
    return _saved(folder, model, _resized, *_ABC, "--no-antialias")


def _logits(folder: Path) -> _Given:
    return _saved(
        *(folder, _ending(None), _resized, *_ABC, "--no-antialias"),
        then=tf.nn.softmax,
    )


def _binary(folder: Path) -> _Given:
    return _saved(
        *(folder, _ending("sigmoid", 1), _loaded, "--labels", "cat,dog", *_NEAREST),
        then=lambda raw: np.array([1 - raw[0, 0], raw[0, 0]]),
    )


def _several_labels(folder: Path) -> _Given:
    model = _ending("sigmoid")
    return _saved(folder, model, _loaded, *_ABC, *_NEAREST, suffix=".h5")


def _half(folder: Path) -> _Given:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = _ending("softmax")
    finally:
        keras.config.set_dtype_policy("float32")
    return _saved(folder, model, _loaded, *_ABC, *_NEAREST, tolerance=1e-2)


def _channels_first(folder: Path) -> _Given:
    start = keras.Input((3, _SIDE, _SIDE))
    end = layers.Dense(3, activation="softmax")(_body(layers.Permute((2, 3, 1))(start)))
    preprocess = keras.applications.densenet.preprocess_input

    def prepare(path: Path) -> np.ndarray:
        return preprocess(_loaded(path, interpolation="bilinear")).transpose(2, 0, 1)

    return _saved(
        *(folder, keras.Model(start, end), prepare, *_ABC, "--values", "imagenet")
    )


def _one_of_two(folder: Path) -> _Given:
    start = keras.Input((_SIDE, _SIDE, 3))
    flat = _body(start / 255.0)
    species = layers.Dense(3, activation="softmax")(flat)
    model = keras.Model(start, {"species": species, "age": layers.Dense(1)(flat)})
    return _saved(folder, model, _loaded, *_ABC, *_NEAREST, "--output", "species")


def _keras_two(folder: Path) -> _Given:
    old = tf_keras.layers
    features = [tf_keras.Input((_SIDE, _SIDE, 3)), old.Conv2D(6, 3, activation="relu")]
    features += [old.GlobalAveragePooling2D()]
    head = [old.Dense(8, activation="relu", input_shape=(6,))]
    head += [old.Dense(3, activation="softmax", use_bias=False)]
    model = tf_keras.Sequential([tf_keras.Sequential(features), _old_head(head)])
    model.build((None, _SIDE, _SIDE, 3))
    options = ("--resize", "cover", "--aspect", "exact_box", "--filter", "lanczos")
    return _saved(
        *(folder, model, _fitted, *_ABC, "--values", "signed", *options), suffix=".h5"
    )


def _old_head(head: list[Any]) -> Any:
    """Return the second of Teachable Machine's two models inside the model."""
    return tf_keras.Sequential(head)


def _saved_model(folder: Path) -> _Given:
    """A plain module that takes uint8 and prepares the picture inside."""
    model, module = _ending(None), tf.Module()
    module.model = model
    spec = tf.TensorSpec((None, _SIDE, _SIDE, 3), tf.uint8, name="image")

    def scores(image: Any) -> dict[str, Any]:
        return {"p": tf.nn.softmax(model(tf.cast(image, tf.float32)))}

    function = tf.function(scores, input_signature=[spec])
    tf.saved_model.save(module, str(folder / "saved"), signatures={"score": function})

    def asked(picture: Path) -> np.ndarray:
        pixels = _loaded(picture, interpolation="bilinear").astype(np.uint8)
        return np.ravel(function(pixels[np.newaxis])["p"])

    return _Given(folder / "saved", _ABC, asked)


def _tflite(folder: Path) -> _Given:
    model = _ending("softmax")
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    (folder / "model.tflite").write_bytes(content)

    def asked(picture: Path) -> np.ndarray:
        interpreter = tf.lite.Interpreter(model_content=content)
        interpreter.allocate_tensors()
        [taken], [given] = (
            interpreter.get_input_details(),
            interpreter.get_output_details(),
        )
        interpreter.set_tensor(taken["index"], _loaded(picture)[np.newaxis])
        interpreter.invoke()
        return np.ravel(interpreter.get_tensor(given["index"]))

    options = (*_ABC, *_NEAREST, "--values", "bytes")
    return _Given(folder / "model.tflite", options, asked, has_saved_model=False)


def _one_at_a_time(folder: Path) -> _Given:
    start = keras.Input(batch_shape=(1, _SIDE, _SIDE, 3))
    flat = keras.ops.reshape(_body(start / 255.0), (1, -1))
    model = keras.Model(start, layers.Dense(3, activation="softmax")(flat))
    return _saved(folder, model, _loaded, *_ABC, *_NEAREST)


def _recurrent(folder: Path) -> _Given:
    start = keras.Input((_SIDE, _SIDE))
    end = layers.Dense(3, activation="softmax")(layers.LSTM(8)(start))

    def prepare(path: Path) -> np.ndarray:
        return _loaded(path, color_mode="grayscale")[..., 0] / np.float32(255)

    options = (*_ABC, *_NEAREST, "--values", "unit")
    return _saved(folder, keras.Model(start, end), prepare, *options)


_QUICK: Mapping[str, Callable[[Path], _Given]] = {
    "logits": _logits,
    "binary": _binary,
    "channels first": _channels_first,
    "Keras 2": _keras_two,
}
_LONG: Mapping[str, Callable[[Path], _Given]] = {
    "MobileNetV2": _application("MobileNetV2", "signed"),
    "EfficientNetV2B0": _application("EfficientNetV2B0", ""),
    "MobileNetV3Small": _application("MobileNetV3Small", ""),
    "ResNet50": _application("ResNet50", "caffe"),
    "DenseNet121": _application("DenseNet121", "imagenet"),
    "NASNetMobile": _application("NASNetMobile", "signed"),
    "ConvNeXtTiny": _application("ConvNeXtTiny", ""),
    "Xception": _application("Xception", "signed", _LARGER),
    "augmentation": _augmented,
    "several labels": _several_labels,
    "half precision": _half,
    "one at a time": _one_at_a_time,
    "recurrent": _recurrent,
    "one of two outputs": _one_of_two,
    "SavedModel": _saved_model,
    "TFLite": _tflite,
}


_SOAK = (pytest.mark.soak, pytest.mark.timeout(1200))


@pytest.fixture(
    scope="module", params=["quick", *(pytest.param(k, marks=_SOAK) for k in _LONG)]
)
def table(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[tuple[str, _Given, dict[str, str]]]]:
    """Publish each kind, serve all, and yield where each of them is asked."""
    keras.utils.set_random_seed(5)
    folder = tmp_path_factory.mktemp("given")
    given = {}
    kinds = (
        _QUICK if request.param == "quick" else {request.param: _LONG[request.param]}
    )
    for kind, make in kinds.items():
        name = kind.lower().replace(" ", "-")
        (folder / name).mkdir()
        given[name] = make(folder / name)
        published = [str(given[name].path), "--name", name, *given[name].options]
        assert (
            main(["publish", *published, "--models-dir", str(folder / "models")]) == 0
        )
    with ExitStack() as stack:
        models = folder / "models"
        embedded = stack.enter_context(serving(models, log=folder / "embedded"))
        before = _behind(models, given, stack)
        rows = []
        for name, one in given.items():
            paths = {"HTTP": embedded.url, "gRPC": embedded.grpc_target}
            paths["device"] = str(models / name / "1")
            if before is not None and one.has_saved_model:
                paths["TensorFlow Serving"] = before.grpc_target
            rows.append((name, one, paths))
        _wait(embedded)
        yield rows


def _behind(
    models: Path, given: Mapping[str, _Given], stack: ExitStack
) -> GatewayProcess | None:
    """Return a gateway before TensorFlow Serving; None if it could serve no model."""
    served = ",".join(name for name, one in given.items() if one.has_saved_model)
    if not served:
        return None
    engine = OfficialServer(models)
    stack.callback(engine.stop)
    flags = ("--engine", "tensorflow_serving", "--tensorflow-serving", engine.address)
    flags += ("--served-models", served)
    logged = models.parent / "before"
    found = stack.enter_context(serving(models.parent / "none", *flags, log=logged))
    _wait(found)
    return found


def _wait(gateway: GatewayProcess) -> None:
    until(lambda: gateway.request("GET", "/readyz").status == 200, 240)


def _pictures(folder: Path) -> list[Path]:
    """Write smooth colour pictures of odd sizes."""
    found = []
    for number in range(5):
        chance = np.random.default_rng(number)
        coarse = chance.integers(0, 256, (5, 6, 3), np.uint8)
        size = (61 + 34 * number, 147 - 19 * number)
        path = folder / f"{number}.png"
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
        found.append(path)
    return found


def _stated(version: str) -> float:
    """Return the tolerance in the contract; only a deep model's is above 1e-5."""
    text = (Path(version) / CONTRACT_FILE).read_text()
    return Contract.from_json(text).tolerances["float32"]


def test_every_path_answers_as_the_library_does(
    table: list[tuple[str, _Given, dict[str, str]]], tmp_path: Path
) -> None:
    """Each kind has the library's labels, and its scores within the tolerance."""
    pictures, wrong, lines = _pictures(tmp_path), [], []
    for name, given, paths in table:
        expected = [given.asked(picture) for picture in pictures]
        for path, target in paths.items():
            with inkling.connect(target, model=name) as classifier:
                answers = [
                    classifier.classify(picture, len(expected[0]))
                    for picture in pictures
                ]
            worst = 0.0
            for answer, scores in zip(answers, expected, strict=True):
                found = {one.index: one.probability for one in answer.top}
                worst = max(worst, *(abs(found[i] - s) for i, s in enumerate(scores)))
            lines.append(f"{name:20} {path:20} {worst:.1e}")
            if worst > max(given.tolerance, _stated(paths["device"])):
                wrong.append(lines[-1])
    print("\n".join(lines))
    assert wrong == []
