# SPDX-License-Identifier: Apache-2.0
"""Models that people bring, from file to answer, against their own library's answer.

The networks are tiny and have random weights; what is compared is the way of a picture.
"""

import io
import json
import re
import resource
import signal
import subprocess
import sys
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
from inkling.contract import Contract
from inkling.errors import BrokenVersion
from inkling.model.bundle import read_bundle
from inkling.model.repository import Repository
from inkling_training.release.parity import ParityRow
from inkling_training.release.steadiness import with_tolerance

Publish = Callable[..., "_Ran"]


@dataclass(frozen=True)
class _Ran:
    """The end of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def publish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Publish:
    """Run `inkling publish MODEL --name own ...` in this process."""

    def ran(model: Path, *options: str) -> _Ran:
        where = ["--name", "own", "--models-dir", str(tmp_path / "models")]
        capsys.readouterr()
        try:
            code = main(["publish", str(model), *where, *options])
        except SystemExit as done:  # argparse's way out
            code = int(str(done.code))
        return _Ran(code, *capsys.readouterr())

    return ran


@pytest.fixture(autouse=True)
def seed() -> None:
    """Make random weights the same in every run."""
    keras.utils.set_random_seed(11)


def _photos(count: int = 3) -> list[Image.Image]:
    """Return smooth colour pictures of odd sizes."""
    found = []
    for number in range(count):
        chance = np.random.default_rng(number)
        coarse = chance.integers(0, 256, (5, 6, 3), np.uint8)
        size = (61 + 14 * number, 47 + 9 * number)
        found.append(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    return found


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _stretched(picture: Image.Image, side: int = 24) -> np.ndarray:
    """Return 0..255, float32, as most code for Pillow does."""
    resized = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)


def _answers(models: Path, **options: Any) -> list[np.ndarray]:
    """Return all scores for each of the photos, by the published version."""
    with inkling.connect(models / "own" / "1", **options) as classifier:
        labels = classifier.contract().labels
        found = []
        for photo in _photos():
            scores = classifier.classify(_png(photo), len(labels)).top
            by_index = {score.index: score.probability for score in scores}
            found.append(np.array([by_index[i] for i in range(len(labels))]))
    return found


def _check(models: Path, expected: list[np.ndarray], tolerance: float = 1e-5) -> None:
    for found, wanted in zip(_answers(models), expected, strict=True):
        assert found == pytest.approx(np.ravel(wanted), abs=tolerance)


def _body(x: Any) -> Any:
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(x)
    return layers.Flatten()(x)


def _functional(outputs: int, activation: str | None, **inputs: Any) -> keras.Model:
    start = keras.Input((24, 24, 3), **inputs)
    end = layers.Dense(outputs, activation=activation)(_body(start / 127.5 - 1.0))
    return keras.Model(start, end)


def _sequential() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((24, 24, 3)),
            layers.RandomFlip(),
            layers.RandomRotation(0.2),
            layers.Rescaling(1 / 255),
            layers.Conv2D(6, 3, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3, activation="softmax"),
        ]
    )


def _asked(model: keras.Model, prepare: Callable[..., Any] = _stretched) -> list[Any]:
    """Return Keras's own answers to the photos."""
    return [
        model(prepare(photo)[np.newaxis], training=False).numpy() for photo in _photos()
    ]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_keras_files(suffix: str, tmp_path: Path, publish: Publish) -> None:
    """A model with augmentation layers answers as Keras does, from either file."""
    model = _sequential()
    model.save(tmp_path / f"model{suffix}")

    done = publish(tmp_path / f"model{suffix}", "--labels", "a,b,c")

    assert done.code == 0, done.err
    assert re.search(r"values +0\.\.255 +the model itself makes 0\.\.1 of", done.out)
    assert "RandomFlip is for training only" in done.out
    assert "could not be checked" in done.out
    _check(tmp_path / "models", _asked(model))


@pytest.mark.parametrize("kind", ["keras", "module"])
def test_saved_models(kind: str, tmp_path: Path, publish: Publish) -> None:
    """A SavedModel of Keras's export, and one of a plain module, answer as before."""
    model, folder = _functional(3, "softmax"), tmp_path / "saved"
    if kind == "keras":
        model.export(folder, verbose=False)
    else:
        module = tf.Module()
        module.model = model
        spec = tf.TensorSpec((None, 24, 24, 3), tf.float32)
        function = tf.function(
            lambda x: {"probs": model(x, training=False)}, input_signature=[spec]
        )
        tf.saved_model.save(module, str(folder), signatures={"score": function})

    done = publish(folder, "--labels", "a,b,c")

    assert done.code == 0, done.err
    assert re.search(r"values +0\.\.255 +the model itself makes -1\.\.1 of", done.out)
    assert re.search(r"outputs +3, softmax +the model ends in softmax", done.out)
    _check(tmp_path / "models", _asked(model))


def test_layers_for_training_are_noticed(tmp_path: Path, publish: Publish) -> None:
    """An export in which augmentation is still active is refused, with the reason."""
    _sequential().export(tmp_path / "saved", verbose=False)

    done = publish(tmp_path / "saved", "--labels", "a,b,c", "--values", "bytes")

    assert done.code == 1
    assert "answers the same picture differently each time" in done.err
    assert not (tmp_path / "models").exists()


def test_logits_get_their_softmax(tmp_path: Path, publish: Publish) -> None:
    """A model that ends without activation is published with a softmax."""
    model = _functional(4, None)
    model.save(tmp_path / "model.keras")

    done = publish(tmp_path / "model.keras", "--labels", "a,b,c,d")

    assert done.code == 0, done.err
    assert re.search(r"outputs +4, logits +the model ends without", done.out)
    assert re.search(r"values +0\.\.255 +the model itself makes -1\.\.1 of", done.out)
    _check(tmp_path / "models", [tf.nn.softmax(raw) for raw in _asked(model)])


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_output_is_two_labels(
    activation: str | None, tmp_path: Path, publish: Publish
) -> None:
    """One probability, or one logit, becomes the scores of two labels."""
    model = _functional(1, activation)
    model.save(tmp_path / "model.keras")

    done = publish(tmp_path / "model.keras", "--labels", "cat,dog")

    assert done.code == 0, done.err
    raw = [np.ravel(one) for one in _asked(model)]
    dogs = raw if activation else [1 / (1 + np.exp(-one)) for one in raw]
    _check(tmp_path / "models", [np.array([1 - dog[0], dog[0]]) for dog in dogs])


def test_several_labels_at_once(tmp_path: Path, publish: Publish) -> None:
    """A sigmoid for each label stays; its contract says so."""
    model = _functional(3, "sigmoid")
    model.save(tmp_path / "model.keras")

    done = publish(tmp_path / "model.keras", "--labels", "wet,cold,dark")

    assert done.code == 0, done.err
    contract = Repository(tmp_path / "models").newest("own").contract()
    assert contract.outputs == "sigmoid"
    assert contract.source is not None
    assert contract.source.name == "model.keras"
    _check(tmp_path / "models", _asked(model))


def test_channels_first(tmp_path: Path, publish: Publish) -> None:
    """A model whose channels come first gets them so."""
    start = keras.Input((3, 24, 24))
    end = layers.Dense(3, activation="softmax")(_body(layers.Permute((2, 3, 1))(start)))
    model = keras.Model(start, end)
    model.save(tmp_path / "model.keras")

    done = publish(
        tmp_path / "model.keras", "--labels", "a,b,c", "--values", "imagenet"
    )

    assert done.code == 0, done.err

    def prepare(photo: Image.Image) -> np.ndarray:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return ((_stretched(photo) / 255 - mean) / std).transpose(2, 0, 1)

    _check(tmp_path / "models", _asked(model, prepare))


def test_half_precision_states_its_tolerance(tmp_path: Path, publish: Publish) -> None:
    """A model in mixed precision is exported in float32, and says how far it may be."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = _functional(3, "softmax")
    finally:
        keras.config.set_dtype_policy("float32")
    model.save(tmp_path / "model.keras")

    done = publish(tmp_path / "model.keras", "--labels", "a,b,c")

    assert done.code == 0, done.err
    assert "half precision" in done.out
    contract = Repository(tmp_path / "models").newest("own").contract()
    assert contract.tolerances["float32"] == 0.01
    _check(tmp_path / "models", _asked(model), tolerance=0.01)


def test_an_open_size_is_asked_for(tmp_path: Path, publish: Publish) -> None:
    """A model of any size needs --size; Keras's caffe preparation is then exact."""
    start = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, strides=2, activation="relu")(start)
    end = layers.Dense(3, activation="softmax")(layers.GlobalMaxPooling2D()(x / 99))
    model = keras.Model(start, end)
    model.save(tmp_path / "model.keras")
    options = ("--labels", "a,b,c", "--values", "caffe")

    silent = publish(tmp_path / "model.keras", *options)
    done = publish(tmp_path / "model.keras", *options, "--size", "32x40")

    assert (silent.code, "--size" in silent.err) == (1, True)
    assert done.code == 0, done.err

    def prepare(photo: Image.Image) -> np.ndarray:
        pixels = np.asarray(photo.resize((40, 32), Image.Resampling.BILINEAR))
        return keras.applications.resnet50.preprocess_input(pixels.astype(np.float32))

    _check(tmp_path / "models", _asked(model, prepare))


def test_one_of_several_outputs_is_chosen(tmp_path: Path, publish: Publish) -> None:
    """Of a dict of outputs, one is asked for by name."""
    start = keras.Input((24, 24, 3))
    flat = _body(start / 255.0)
    ends = {
        "species": layers.Dense(3, activation="softmax")(flat),
        "age": layers.Dense(1)(flat),
    }
    model = keras.Model(start, ends)
    model.save(tmp_path / "model.keras")

    silent = publish(tmp_path / "model.keras", "--labels", "a,b,c")
    wrong = publish(tmp_path / "model.keras", "--labels", "a,b,c", "--output", "size")
    done = publish(tmp_path / "model.keras", "--labels", "a,b,c", "--output", "species")

    assert silent.code == wrong.code == 1
    assert "age, species. Choose one with --output" in silent.err
    assert done.code == 0, done.err
    expected = [
        model(_stretched(photo)[np.newaxis], training=False)["species"].numpy()
        for photo in _photos()
    ]
    _check(tmp_path / "models", expected)


@pytest.fixture
def tflite() -> tuple[bytes, keras.Model]:
    """A TFLite file of a model whose values are 0..255, and the model."""
    model = _functional(3, "softmax")
    return tf.lite.TFLiteConverter.from_keras_model(model).convert(), model


def test_a_bare_tflite_file(
    tflite: tuple[bytes, keras.Model], tmp_path: Path, publish: Publish
) -> None:
    """A TFLite file is published as it is, for the embedded engine and devices."""
    content, model = tflite
    (tmp_path / "model.tflite").write_bytes(content)

    silent = publish(tmp_path / "model.tflite", "--labels", "a,b,c")
    done = publish(tmp_path / "model.tflite", "--labels", "a,b,c", "--values", "bytes")

    # The converter put the division into the first weights.
    assert (silent.code, "--values" in silent.err) == (1, True)
    assert done.code == 0, done.err
    assert "TensorFlow Serving cannot serve it" in done.out
    files = Repository(tmp_path / "models").newest("own")
    assert "saved_model.pb" not in files.listed()
    _check(tmp_path / "models", _asked(model))


def test_a_tflite_file_of_whole_numbers(tmp_path: Path, publish: Publish) -> None:
    """A TFLite file that takes uint8 gets the grey levels as they are."""
    model = _functional(3, "softmax")
    chance = np.random.default_rng(0)

    def pictures() -> Iterator[list[np.ndarray]]:
        for _ in range(20):
            yield [chance.integers(0, 256, (1, 24, 24, 3)).astype(np.float32)]

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = pictures
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    content = converter.convert()
    (tmp_path / "model.tflite").write_bytes(content)

    done = publish(tmp_path / "model.tflite", "--labels", "a,b,c")

    assert done.code == 0, done.err
    assert "one step for each grey level" in done.out
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    [taken], [given] = interpreter.get_input_details(), interpreter.get_output_details()
    expected = []
    for photo in _photos():
        batch = _stretched(photo).astype(np.uint8)[np.newaxis]
        interpreter.set_tensor(taken["index"], batch)
        interpreter.invoke()
        scale, zero = given["quantization"]
        found = interpreter.get_tensor(given["index"]).astype(np.float32)
        expected.append((found - zero) * scale)
    _check(tmp_path / "models", expected)


def test_what_litert_lacks_is_for_tensorflow_serving(
    tmp_path: Path, publish: Publish
) -> None:
    """A model with an operation that LiteRT lacks has a SavedModel alone."""
    model, folder = _functional(3, "softmax"), tmp_path / "saved"
    spec = tf.TensorSpec((None, 24, 24, 3), tf.float32)

    def scores(x: Any) -> dict[str, Any]:
        return {"scores": model(tf.image.adjust_hue(x / 255.0, 0.1) * 255.0)}

    module = tf.Module()
    module.model = model
    function = tf.function(scores, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures=function)

    done = publish(folder, "--labels", "a,b,c", "--values", "bytes")

    assert done.code == 0, done.err
    assert re.search(r"no TFLite file, because LiteRT lacks \w*Hue", done.out)
    version = tmp_path / "models" / "own" / "1"
    with pytest.raises(BrokenVersion, match="--engine tensorflow_serving"):
        inkling.connect(version)


def _folder(tmp_path: Path, names: tuple[str, ...] = ("blue", "red")) -> Path:
    """Write pictures of two colours, each in the folder of its name."""
    folder = tmp_path / "pictures"
    colours = {"red": (220, 30, 20), "blue": (30, 40, 210)}
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(12):
            chance = np.random.default_rng([number, len(name)])
            pixels = np.int16(colours[name]) + chance.integers(-20, 20, (40, 52, 3))
            picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            picture.save(folder / name / f"{number}.png")
    return folder


def _colours() -> keras.Model:
    """Return a model that tells blue from red by values of -1..1."""
    start = keras.Input((24, 24, 3))
    mean = layers.GlobalAveragePooling2D()(start)
    end = layers.Dense(2, activation="softmax")(mean)
    model = keras.Model(start, end)
    # It doubts every picture whose channels are all above 0.
    kernel = np.float32([[-6, 6], [0, 0], [6, -6]])
    model.set_weights([kernel, np.float32([0, 0])])
    return model


def test_labelled_pictures_show_a_wrong_preparation(
    tmp_path: Path, publish: Publish
) -> None:
    """With labelled pictures a neighbour that is right more often is named."""
    _colours().save(tmp_path / "model.keras")
    folder = _folder(tmp_path)
    options = ("--pictures", str(folder), "--values", "signed")

    right = publish(tmp_path / "model.keras", *options)
    wrong = publish(
        tmp_path / "model.keras", *options, "--channels", "bgr", "--allow-regression"
    )

    assert right.code == 0, right.err
    assert "labels" in right.out
    assert "2: blue, red" in right.out
    assert "Accuracy on 24 labelled pictures: 100.00%" in right.out
    assert "Warning" not in right.out
    assert wrong.code == 0, wrong.err
    assert "With --channels rgb accuracy would be 100% instead of 0%" in wrong.out, (
        wrong.out
    )
    metrics = Repository(tmp_path / "models").files("own", 1).metrics()
    assert metrics["accuracy"]["float32"] == 1.0  # type: ignore[index]


def test_labels_in_another_order_are_noticed(tmp_path: Path, publish: Publish) -> None:
    """Labels in the wrong order are warned about; the next version may not be worse."""
    _colours().save(tmp_path / "model.keras")
    folder = _folder(tmp_path)
    options = ("--pictures", str(folder), "--values", "signed")

    swapped = publish(tmp_path / "model.keras", *options, "--labels", "red,blue")

    assert swapped.code == 0, swapped.err
    assert "are the labels in the model's order?" in swapped.out


def test_a_worse_version_is_refused(tmp_path: Path, publish: Publish) -> None:
    """On the same pictures a less accurate version is refused, unless one insists."""
    _colours().save(tmp_path / "model.keras")
    folder = _folder(tmp_path)
    options = ("--pictures", str(folder), "--values", "signed")

    first = publish(tmp_path / "model.keras", *options)
    second = publish(tmp_path / "model.keras", *options, "--channels", "bgr")

    assert first.code == 0
    assert second.code == 1
    assert "--allow-regression" in second.err
    assert Repository(tmp_path / "models").versions("own") == [1]


def test_the_card_shows_what_the_model_sees(tmp_path: Path, publish: Publish) -> None:
    """The card has the picture, the facts and the comparison; loose pictures do."""
    _colours().save(tmp_path / "model.keras")
    folder = _folder(tmp_path) / "red"

    done = publish(
        *(tmp_path / "model.keras", "--pictures", str(folder), "--values", "unit"),
        *("--labels", "blue,red"),
    )

    assert done.code == 0, done.err
    card = tmp_path / "models" / "own" / "1" / "card"
    with Image.open(card / "seen.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    text = (card / "card.md").read_text()
    assert "| values | unit | --values |" in text
    assert "| float32 |" in text
    assert json.loads((card / "metrics.json").read_text())["pictures"] == "given"


def test_a_preparation_of_another_ecosystem(tmp_path: Path, publish: Publish) -> None:
    """`--like` takes Teachable Machine's metadata, with its labels."""
    start = keras.Input((24, 24, 3))
    end = layers.Dense(2, activation="softmax")(_body(start))
    model = keras.Model(start, end)
    model.save(tmp_path / "keras_model.h5")
    metadata = {"tmVersion": "2.4.7", "labels": ["yes", "no"], "imageSize": 24}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))

    done = publish(
        tmp_path / "keras_model.h5", "--like", str(tmp_path / "metadata.json")
    )

    assert done.code == 0, done.err

    def prepare(photo: Image.Image) -> np.ndarray:
        from PIL import ImageOps

        fitted = ImageOps.fit(photo, (24, 24), Image.Resampling.LANCZOS)
        return np.asarray(fitted).astype(np.float32) / 127.5 - 1

    _check(tmp_path / "models", _asked(model, prepare))
    contract = Repository(tmp_path / "models").newest("own").contract()
    assert isinstance(contract, Contract)
    assert contract.labels == ("yes", "no")


# Teachable Machine's takes minutes on a machine that others use as well.
_OLD, _SOAK = tf_keras.layers, [pytest.mark.soak, pytest.mark.timeout(1200)]


def _old_body(x: Any) -> Any:
    x = _OLD.Conv2D(6, 3, strides=2, activation="relu")(x)
    return _OLD.GlobalAveragePooling2D()(x)


def _old_functional(prepare: Callable[[Any], Any]) -> tf_keras.Model:
    start = tf_keras.Input((24, 24, 3))
    end = _OLD.Dense(3, activation="softmax")(_old_body(prepare(start)))
    return tf_keras.Model(start, end)


def _teachable() -> tf_keras.Model:
    """Return a model of the form of Teachable Machine's `keras_model.h5`."""
    base = tf_keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, include_top=False, weights=None
    )
    features = tf_keras.Sequential([base, _OLD.GlobalAveragePooling2D()])
    head = [_OLD.Dense(10, activation="relu", input_shape=(1280,))]
    head += [_OLD.Dense(3, activation="softmax", use_bias=False)]
    return tf_keras.Sequential([features, tf_keras.Sequential(head)])


def _old_nested() -> tf_keras.Model:
    """Return a small model of models, as Teachable Machine's is."""
    start = tf_keras.Input((24, 24, 3))
    body = _OLD.BatchNormalization()(_OLD.Conv2D(6, 3, strides=2)(start))
    base = tf_keras.Model(start, _OLD.DepthwiseConv2D(3)(_OLD.ReLU(6.0)(body)))
    features = tf_keras.Sequential([base, _OLD.GlobalAveragePooling2D()])
    head = [_OLD.Dense(3, activation="softmax", use_bias=False, input_shape=(6,))]
    return tf_keras.Sequential([features, tf_keras.Sequential(head)])


def _old_augmented() -> tf_keras.Model:
    start = [tf_keras.Input((24, 24, 3)), _OLD.RandomFlip(), _OLD.RandomRotation(0.2)]
    end = [_OLD.Flatten(), _OLD.Dropout(0.5), _OLD.Dense(3, activation="softmax")]
    return tf_keras.Sequential([*start, _OLD.Rescaling(1 / 255), *end])


_KERAS_TWO: dict[str, tuple[Callable[[], tf_keras.Model], str]] = {
    "arithmetic": (lambda: _old_functional(lambda x: x / 127.5 - 1.0), "-1..1"),
    "caffe": (
        lambda: _old_functional(tf_keras.applications.resnet50.preprocess_input),
        "-124..151",
    ),
    "torch": (
        lambda: _old_functional(tf_keras.applications.densenet.preprocess_input),
        "-2.12..2.64",
    ),
    "augmented": (_old_augmented, "0..1"),
    "nested": (_old_nested, ""),
    "Teachable Machine": (_teachable, ""),
}


_IN_SHORT = ("caffe.h5", "augmented.keras", "nested.h5")
_FILES = [
    pytest.param(kind, suffix, marks=[] if kind + suffix in _IN_SHORT else _SOAK)
    for kind in _KERAS_TWO
    for suffix in (".h5", ".keras")
]


@pytest.mark.parametrize(("kind", "suffix"), _FILES)
def test_files_of_keras_two(
    kind: str, suffix: str, tmp_path: Path, publish: Publish
) -> None:
    """A file of Keras 2 is opened by Keras 2, and its beginning is understood."""
    if (kind, suffix) == ("caffe", ".keras"):
        pytest.skip("Keras 2 cannot write the slice of its own preprocess_input there.")
    make, made = _KERAS_TWO[kind]
    model, path = make(), tmp_path / f"model{suffix}"
    model.save(path)
    options = () if made else ("--values", "signed")

    done = publish(path, "--labels", "a,b,c", *options)

    assert done.code == 0, done.err
    assert f"the model itself makes {made} of them" in done.out or not made
    side = model.input_shape[1]

    def prepare(photo: Image.Image) -> np.ndarray:
        pixels = _stretched(photo, side)
        return pixels if made else pixels / 127.5 - 1

    _check(tmp_path / "models", _asked(model, prepare))


@pytest.mark.parametrize("largest", [10_000, 30_000])
def test_a_full_disk_leaves_nothing(
    largest: int, tmp_path: Path, publish: Publish
) -> None:
    """Where a file cannot be written, a sentence says so, and nothing is left."""
    model = keras.Sequential([keras.Input((24, 24, 3)), layers.Flatten()])
    model.add(layers.Dense(3, activation="softmax"))
    model.save(tmp_path / "model.keras")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        done = publish(
            tmp_path / "model.keras", "--labels", "a,b,c", "--values", "unit"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert done.code == 1
    assert re.search("cannot be written: File too large.$", done.err.rstrip())
    assert not list((tmp_path / "models").rglob("*"))


def test_an_interrupted_publication_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C during the export ends with code 130; no version and no file stays."""
    _functional(3, "softmax").save(tmp_path / "model.keras")
    command = [
        sys.executable,
        "-m",
        "inkling",
        "publish",
        str(tmp_path / "model.keras"),
    ]
    options = ["--name", "own", "--labels", "a,b,c", "--models-dir", "models"]

    with subprocess.Popen(
        [*command, *options], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Converting"):
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()

    assert process.returncode == 130
    assert not (tmp_path / "models" / "own").exists()


@pytest.mark.parametrize(
    ("worst", "differ", "stated"),
    [(9e-6, 0, 1e-5), (3e-5, 0, 1e-4), (3e-5, 1, 1e-5), (2e-4, 0, 1e-5)],
)
def test_a_deep_model_states_its_tolerance(
    worst: float, differ: int, stated: float, models_dir: Path
) -> None:
    """Rounding beyond 1e-5 is stated in the contract, if no label differs."""
    contract = Repository(models_dir).newest("mlp").contract()
    row = ParityRow("float32", None, None, differ, worst, passed=worst <= 1e-5)

    found = with_tolerance([row], contract)

    assert found.tolerances["float32"] == stated


def test_every_copy_of_the_contract_is_the_same(
    tmp_path: Path, publish: Publish
) -> None:
    """SavedModel, TFLite files and the file beside them have the same contract.

    It is known only after the conversion, because the exports set its threshold.
    """
    _functional(2, "softmax").save(tmp_path / "model.keras")

    done = publish(tmp_path / "model.keras", "--pictures", str(_folder(tmp_path)))

    assert done.code == 0, done.err
    files = Repository(tmp_path / "models").newest("own")
    contract = files.contract()
    assert 0 < contract.abstain_below < 1
    signature = tf.saved_model.load(str(files.path)).signatures["contract"]
    answered = signature(asked=tf.zeros(2, tf.int32))["contract"].numpy()
    bundles = [
        read_bundle(file.read_bytes()).contract.json
        for file in files.path.glob("tflite/*")
    ]
    copies = [answered[0].decode(), answered[1].decode(), *bundles]
    assert copies == [contract.json] * 5
    assert not (files.path / "assets").exists()
