# SPDX-License-Identifier: Apache-2.0
"""TFLite files that carry labels and a normalisation, and files of other forms."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from keras import layers
from PIL import Image
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

import inkling
from inkling.cli.main import main
from inkling_training.sources.tflite_metadata import read_metadata

_SIDE = 24


def _model(beginning: Callable[[Any], Any] = lambda x: x) -> keras.Model:
    start = keras.Input((_SIDE, _SIDE, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(beginning(start))
    end = layers.Dense(3, activation="softmax")(layers.Flatten()(x))
    return keras.Model(start, end)


def _converted(model: keras.Model) -> bytes:
    return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())


def _table(builder: flatbuffers.Builder, **slots: tuple[int, Any]) -> int:
    """Write a table: each slot is its place and an offset, a byte, or None."""
    builder.StartObject(8)
    for kind, (place, value) in slots.items():
        if kind.startswith("byte"):
            builder.PrependUint8Slot(place, value, 0)
        elif value is not None:
            builder.PrependUOffsetTRelativeSlot(place, value, 0)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: flatbuffers.Builder, values: list[float]) -> int:
    return int(builder.CreateNumpyVector(np.float32(values)))


def _metadata(mean: list[float], std: list[float], files: dict[str, str]) -> bytes:
    """Return metadata as `metadata_schema.fbs` of tflite-support defines it."""
    builder = flatbuffers.Builder()
    options = _table(
        builder, a=(0, _floats(builder, mean)), b=(1, _floats(builder, std))
    )
    unit = _table(builder, byte=(0, 1), options=(1, options))
    taken = _table(builder, units=(4, _vector(builder, [unit])))
    named = []
    for name, locale in files.items():
        texts = [builder.CreateString(one) for one in (name, locale)]
        named.append(
            _table(builder, name=(0, texts[0]), byte=(2, 2), locale=(3, texts[1]))
        )
    given = _table(builder, files=(6, _vector(builder, named)))
    subgraph = _table(
        builder,
        taken=(2, _vector(builder, [taken])),
        given=(3, _vector(builder, [given])),
    )
    builder.Finish(_table(builder, graphs=(3, _vector(builder, [subgraph]))), b"M001")
    return bytes(builder.Output())


def _described(content: bytes, metadata: bytes, texts: dict[str, str]) -> bytes:
    """Return a model with metadata and with files behind it."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"TFLITE_METADATA", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    file = io.BytesIO(bytes(builder.Output()))
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    return file.getvalue()


def _photo() -> Image.Image:
    coarse = np.random.default_rng(1).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((61, 47), Image.Resampling.BICUBIC)


def _scores(models: Path) -> np.ndarray:
    file = io.BytesIO()
    _photo().save(file, "PNG")
    with inkling.connect(models / "own" / "1") as classifier:
        top = classifier.classify(file.getvalue(), 3).top
    return np.array([s.probability for s in sorted(top, key=lambda one: one.index)])


def _pixels() -> np.ndarray:
    resized = _photo().resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)[np.newaxis]


def _publish(folder: Path, content: bytes, *options: str) -> int:
    (folder / "model.tflite").write_bytes(content)
    where = ["--name", "own", "--models-dir", str(folder / "models")]
    return main(["publish", str(folder / "model.tflite"), *where, *options])


def test_metadata_states_labels_and_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is asked of a file with metadata: it has its labels and its values."""
    model = _model()
    metadata = _metadata(
        *([127.5], [127.5]), {"labels_de.txt": "de", "labels.txt": "", "it.txt": "it"}
    )
    texts = {"labels.txt": "cat\ndog\nowl\n", "labels_de.txt": "Katze\nHund\nEule\n"}

    code = _publish(tmp_path, _described(_converted(model), metadata, texts))

    out, err = capsys.readouterr()
    assert code == 0, err
    assert re.search(r"values +signed +the file's metadata", out)
    assert re.search(r"labels +3: cat, dog, owl +the file's metadata", out)
    expected = model(_pixels() / 127.5 - 1, training=False).numpy()[0]
    assert _scores(tmp_path / "models") == pytest.approx(expected, abs=1e-5)


def test_metadata_has_values_for_each_channel() -> None:
    """Three means and deviations are read; damaged metadata are none."""
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    content = _described(_converted(_model()), _metadata(mean, std, {}), {})

    model, found = read_metadata(content)
    damaged = content.replace(b"M001", b"\xff\xff\xff\xff")
    halves = [read_metadata(damaged[:size])[1] for size in (100, len(damaged) // 2)]

    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(std)
    assert found.labels == ()
    assert tf.lite.Interpreter(model_content=model).get_input_details()
    assert [one.labels for one in halves] == [(), ()]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("metadata.json", '{"names": {"0": "cat", "1": "dog"}}', ("cat", "dog")),
        ("temp_meta.txt", "{'task': 'classify', 'names': {0: 'cat'}}", ("cat",)),
        ("temp_meta.txt", "{'names': {1: 'cat'}}", ("{'names': {1: 'cat'}}",)),
        ("metadata.json", '{"task": "classify"}', ()),
        ("labels.txt", "cat\ndog\n", ("cat", "dog")),
    ],
)
def test_labels_behind_a_file_without_metadata(
    name: str, text: str, expected: tuple[str, ...]
) -> None:
    """Ultralytics packs an object with `names`, in JSON or in Python."""
    file = io.BytesIO(_converted(_model()))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, text)

    assert read_metadata(file.getvalue())[1].labels == expected


def test_a_file_for_one_picture_answers_several(tmp_path: Path) -> None:
    """A file with a batch of one in its operations is asked one picture at a time."""
    model = _model(lambda x: x / 255.0)
    spec = tf.TensorSpec((1, _SIDE, _SIDE, 3), tf.float32)
    function = tf.function(
        lambda x: tf.reshape(model(x, training=False), (1, 1, 1, 3)),
        input_signature=[spec],
    )
    constant = convert_variables_to_constants_v2(function.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([constant])

    options = ("--labels", "a,b,c", "--values", "bytes")

    code = _publish(tmp_path, converter.convert(), *options)

    assert code == 0
    expected = model(_pixels(), training=False).numpy()[0]
    assert _scores(tmp_path / "models") == pytest.approx(expected, abs=1e-5)


def test_an_unusual_range_of_whole_numbers_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps that are no grey levels need --values, which is then quantised."""
    model = _model()
    chance = np.random.default_rng(0)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: iter(
        [[np.float32(chance.uniform(-2.1, 2.6, (1, _SIDE, _SIDE, 3)))]] * 4
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    content = converter.convert()
    capsys.readouterr()

    silent = _publish(tmp_path, content, "--labels", "a,b,c")
    err = capsys.readouterr().err
    done = _publish(tmp_path, content, "--labels", "a,b,c", "--values", "imagenet")

    assert (silent, done) == (1, 0)
    assert re.search(r"--values.*spans -2\.1.* to 2\.6", err), err
    values = keras.applications.densenet.preprocess_input(_pixels())
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    [taken], [given] = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero = taken["quantization"]
    steps = np.clip(np.round(values / scale) + zero, -128, 127).astype(np.int8)
    interpreter.set_tensor(taken["index"], steps)
    interpreter.invoke()
    scale, zero = given["quantization"]
    found = interpreter.get_tensor(given["index"])[0].astype(np.float32)
    assert _scores(tmp_path / "models") == pytest.approx(
        (found - zero) * scale, abs=1e-5
    )


def test_like_a_tflite_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Keras model takes values and labels from the metadata of its TFLite file."""
    model, told = _model(), tmp_path / "told.tflite"
    metadata = _metadata([127.5], [127.5], {"labels.txt": ""})
    content = _described(_converted(model), metadata, {"labels.txt": "cat\ndog\nowl"})
    told.write_bytes(content)
    (tmp_path / "silent.tflite").write_bytes(_converted(model))
    model.save(tmp_path / "model.keras")
    where = ["--name", "own", "--models-dir", str(tmp_path / "models")]
    published = ["publish", str(tmp_path / "model.keras"), *where, "--like"]

    codes = [main([*published, str(tmp_path / "silent.tflite")])]
    codes.append(main([*published, str(told)]))

    out, err = capsys.readouterr()
    assert codes == [1, 0]
    assert "silent.tflite has no metadata with values or labels" in err
    assert re.search(r"values +signed +told.tflite, the metadata of a TFLite file", out)
    expected = model(_pixels() / 127.5 - 1, training=False).numpy()[0]
    assert _scores(tmp_path / "models") == pytest.approx(expected, abs=1e-5)
