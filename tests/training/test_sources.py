# SPDX-License-Identifier: Apache-2.0
"""Broken, hostile and foreign model files: one sentence each, and nothing published."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from inkling.cli.main import main
from inkling_training.sources.guards import is_unknown

Make = Callable[[Path], Path]


def _model(side: int = 12) -> keras.Model:
    start = keras.Input((side, side, 3))
    end = layers.Dense(3, activation="softmax")(layers.Flatten()(start / 255.0))
    return keras.Model(start, end)


def _saved(folder: Path, suffix: str) -> Path:
    path = folder / f"model{suffix}"
    _model().save(path)
    return path


def _halved(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def _written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _truncated_keras(folder: Path) -> Path:
    return _halved(_saved(folder, ".keras"))


def _truncated_h5(folder: Path) -> Path:
    return _halved(_saved(folder, ".h5"))


def _truncated_tflite(folder: Path) -> Path:
    content = tf.lite.TFLiteConverter.from_keras_model(_model()).convert()
    return _halved(_written(folder, "model.tflite", content))


def _saved_model(folder: Path) -> Path:
    _model().export(folder / "saved", verbose=False)
    return folder / "saved"


def _truncated_graph(folder: Path) -> Path:
    _halved(_saved_model(folder) / "saved_model.pb")
    return folder / "saved"


def _missing_variables(folder: Path) -> Path:
    [data] = (_saved_model(folder) / "variables").glob("variables.data*")
    data.unlink()
    return folder / "saved"


def _changed_weights(folder: Path) -> Path:
    path = _saved(folder, ".keras")
    content = bytearray(path.read_bytes())
    start = content.find(b"\x89HDF")
    content[start + 2000 : start + 2100] = bytes(100)
    path.write_bytes(content)
    return path


def _lambda(folder: Path, suffix: str = ".keras") -> Path:
    start = keras.Input((12, 12, 3))
    code = layers.Lambda(lambda x: x / 255.0, output_shape=(12, 12, 3))(start)
    end = layers.Dense(3, activation="softmax")(layers.Flatten()(code))
    keras.Model(start, end).save(folder / f"model{suffix}")
    return folder / f"model{suffix}"


def _lambda_h5(folder: Path) -> Path:
    return _lambda(folder, ".h5")


def _python_in_a_graph(folder: Path) -> Path:
    spec = tf.TensorSpec((None, 12, 12, 3), tf.float32)

    def scores(x: tf.Tensor) -> tf.Tensor:
        found = tf.py_function(lambda a: a[:, 0, 0, :], [x], tf.float32)
        return tf.nn.softmax(tf.ensure_shape(found, (None, 3)))

    function = tf.function(scores, input_signature=[spec])
    module = tf.Module()
    tf.saved_model.save(module, str(folder / "saved"), signatures=function)
    return folder / "saved"


def _reading_files(folder: Path) -> Path:
    spec = tf.TensorSpec((None, 12, 12, 3), tf.float32)

    def scores(x: tf.Tensor) -> tf.Tensor:
        length = tf.strings.length(tf.io.read_file("/etc/hostname"))
        return tf.nn.softmax(x[:, 0, 0, :] + tf.cast(length, tf.float32))

    function = tf.function(scores, input_signature=[spec])
    module = tf.Module()
    tf.saved_model.save(module, str(folder / "saved"), signatures=function)
    return folder / "saved"


def _bomb(folder: Path) -> Path:
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (80 * 1024**2))
    return path


def _without_configuration(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        archive.writestr("weights.txt", "1")
    return folder / "model.keras"


def _enormous(folder: Path) -> Path:
    """Return a small file that declares weights of many gigabytes."""
    path = _saved(folder, ".keras")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = members["config.json"].replace(b'"units": 3', b'"units": 900000000')
    assert config != members["config.json"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "config.json": config}.items():
            archive.writestr(name, content)
    return path


def _weights_alone(folder: Path) -> Path:
    _model().save_weights(folder / "model.weights.h5")
    return folder / "model.weights.h5"


def _other_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "model.h5", "w") as file:
        file.attrs["model_config"] = "{not json"
    return folder / "model.h5"


@keras.saving.register_keras_serializable("people")
class _Scaled(layers.Layer):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs / 255.0


def _own_class(folder: Path) -> Path:
    start = keras.Input((12, 12, 3))
    end = layers.Dense(3, activation="softmax")(layers.Flatten()(_Scaled()(start)))
    path = folder / "model.keras"
    keras.Model(start, end).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = members["config.json"].replace(b"people>", b"others>")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _two_inputs(folder: Path) -> Path:
    starts = [keras.Input((12, 12, 3)), keras.Input((4,))]
    flat = layers.Concatenate()([layers.Flatten()(starts[0]), starts[1]])
    keras.Model(starts, layers.Dense(3)(flat)).save(folder / "model.keras")
    return folder / "model.keras"


def _of_text(folder: Path) -> Path:
    start = keras.Input((40,))
    keras.Model(start, layers.Dense(3)(start)).save(folder / "model.keras")
    return folder / "model.keras"


def _segmentation(folder: Path) -> Path:
    start = keras.Input((12, 12, 3))
    keras.Model(start, layers.Conv2D(5, 1)(start / 255.0)).save(folder / "model.keras")
    return folder / "model.keras"


def _archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "converted_keras.zip", "w") as archive:
        archive.write(_saved(folder, ".h5"), "keras_model.h5")
        archive.writestr("labels.txt", "0 a")
    return folder / "converted_keras.zip"


def _four_at_a_time(folder: Path) -> Path:
    start = keras.Input(batch_shape=(4, 12, 12, 3))
    end = layers.Dense(3)(keras.ops.reshape(start / 255.0, (4, 432)))
    keras.Model(start, end).save(folder / "model.keras")
    return folder / "model.keras"


def _lambda_of_elsewhere(folder: Path) -> Path:
    start = keras.Input((12, 12, 3))
    scaled = layers.Lambda(lambda x: _divided(x) + 0)(start)
    keras.Model(start, layers.Dense(3)(layers.Flatten()(scaled))).save(
        folder / "model.keras"
    )
    return folder / "model.keras"


def _divided(x: Any) -> Any:
    return x / 255.0


def _open_tflite(folder: Path) -> Path:
    start = keras.Input((None, None, 3))
    end = layers.Dense(3)(layers.GlobalAveragePooling2D()(start))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(start, end))
    (folder / "model.tflite").write_bytes(converter.convert())
    return folder / "model.tflite"


def _nan(folder: Path) -> Path:
    model = _model()
    model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    model.save(folder / "model.keras")
    return folder / "model.keras"


def _not_there(folder: Path) -> Path:
    return folder / "model.keras"


def _empty(folder: Path) -> Path:
    return _written(folder, "model.keras", b"")


def _noise(folder: Path) -> Path:
    return _written(folder, "model.h5", np.random.default_rng(0).bytes(5000))


def _torch(folder: Path) -> Path:
    return _written(folder, "model.pt", b"\x80\x02" + bytes(100))


def _folder(folder: Path) -> Path:
    (folder / "saved").mkdir()
    return folder / "saved"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_truncated_keras, "model.keras is damaged"),
        (_truncated_h5, "model.h5"),
        (_truncated_tflite, "LiteRT cannot open model.tflite"),
        (_truncated_graph, "saved is damaged"),
        (_missing_variables, "cannot open saved"),
        (_changed_weights, "model.keras"),
        (_lambda, "--trust"),
        (_lambda_h5, "--trust"),
        (_python_in_a_graph, "EagerPyFunc"),
        (_reading_files, "ReadFile"),
        (_bomb, "The config.json in model.keras unpacks to"),
        (_without_configuration, "without config.json"),
        (_archive, "holds keras_model.h5; unpack it"),
        (_enormous, "refused unopened"),
        (_weights_alone, "weights without a model"),
        (_other_hdf5, "damaged"),
        (_own_class, "_Scaled"),
        (_two_inputs, "has 2 inputs"),
        (_of_text, "expected pictures"),
        (_segmentation, "one score for each label"),
        (_four_at_a_time, "batches of 4 only"),
        (_open_tflite, "float32 of any x any x 3; expected"),
        (_nan, "NaN"),
        (_not_there, "cannot be read"),
        (_empty, "is empty"),
        (_noise, "no model that Inkling knows"),
        (_torch, "PyTorch"),
        (_folder, "no saved_model.pb"),
    ],
)
def test_unusable_files(
    make: Make, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each gets one sentence on its own line, exit code 1, and nothing is published."""
    path = make(tmp_path)
    capsys.readouterr()
    where = ["--models-dir", str(tmp_path / "models"), "--values", "bytes"]

    code = main(["publish", str(path), "--name", "own", "--labels", "a,b,c", *where])

    error = capsys.readouterr().err
    assert code == 1
    assert words in error, error
    assert error.startswith("inkling: ")
    assert len(error.strip().splitlines()) == 1, error
    assert not (tmp_path / "models" / "own").exists()


@pytest.mark.parametrize("make", [_lambda, _lambda_h5])
def test_code_runs_if_it_is_trusted(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --trust a Lambda layer runs, and the model is published."""
    options = ["--name", "own", "--labels", "a,b,c", "--values", "bytes", "--trust"]

    code = main(
        ["publish", str(make(tmp_path)), *options, "--models-dir", str(tmp_path / "m")]
    )

    assert code == 0, capsys.readouterr().err


def test_code_of_elsewhere_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Lambda layer that calls a function of the author's notebook names it."""
    options = ["--name", "own", "--labels", "a,b,c", "--values", "bytes", "--trust"]

    path = _lambda_of_elsewhere(tmp_path)
    code = main(["publish", str(path), *options, "--models-dir", str(tmp_path / "m")])

    assert (code, "uses _divided" in capsys.readouterr().err) == (1, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--labels", "a,b"], "There are 2 labels"),
        (["--labels", "a,b,c,d"], "There are 4 labels"),
        (["--labels", "a,b, a "], "spell the same label"),
        (["--labels", "nowhere.txt"], "which is no file"),
        ([], "give --labels"),
        (["--labels", "a,b,c", "--outputs", "binary"], "has 3 outputs"),
        (["--labels", "a,b,c", "--channels", "grey"], "is colour"),
        (["--labels", "a,b,c", "--size", "13"], "--size is 13 x 13"),
        (["--labels", "a,b,c", "--crop", "0.9"], "expected --resize cover"),
        (["--labels", "a,b,c", "--output", "scores"], "no output 'scores'"),
        (["--labels", "a,b,c", "--pictures", "nowhere"], "--pictures is nowhere"),
        (["--labels", "a,b,c", "--like", "nowhere.json"], "--like expects a JSON"),
    ],
)
def test_options_that_do_not_fit(
    options: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An option that contradicts the model is named, with what was expected."""
    path = _saved(tmp_path, ".keras")
    capsys.readouterr()
    where = ["--name", "own", "--models-dir", str(tmp_path / "models")]

    code = main(["publish", str(path), *where, *options])

    error = capsys.readouterr().err
    assert code == 1
    assert words in error
    assert not (tmp_path / "models").exists()


def test_signatures_are_chosen_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several signatures without a usual one, one is asked for."""
    model, module = _model(), tf.Module()
    module.model = model
    spec = tf.TensorSpec((None, 12, 12, 3), tf.float32)
    function = tf.function(lambda x: {"p": model(x)}, input_signature=[spec])
    both = {"first": function, "second": function}
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=both)
    given = ["publish", str(tmp_path / "saved"), "--name", "own", "--labels", "a,b,c"]
    where = ["--values", "bytes", "--models-dir", str(tmp_path / "models")]
    capsys.readouterr()

    silent = main([*given, *where])
    error = capsys.readouterr().err
    chosen = main([*given, *where, "--signature", "second"])

    assert silent == 1
    assert "first, second. Choose one with --signature" in error
    assert chosen == 0, capsys.readouterr().err
    contract = json.loads(
        (tmp_path / "models/own/1/assets.extra/contract.json").read_text()
    )
    assert contract["source"]["recipe"] == "--values bytes --signature second"


def test_classes_of_other_packages_are_named() -> None:
    """A class of KerasHub is none of Keras's own, although its module begins alike."""
    other = {"module": "keras_hub.src.models", "class_name": "ResNetBackbone"}
    own = {"module": "keras.src.models", "class_name": "Sequential"}

    assert is_unknown(other, frozenset())
    assert not is_unknown(own, frozenset())
