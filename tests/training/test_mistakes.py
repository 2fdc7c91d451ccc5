# SPDX-License-Identifier: Apache-2.0
"""The eight commonest mistakes: each is caught, or named by the option that mends it.

The models are made by hand, so that each looks at one property of a picture, as a
trained model does; the pictures are coloured shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image, ImageDraw

from inkling.cli.main import main

_SIDE = 24
Publish = Callable[..., "_Ran"]


@dataclass(frozen=True)
class _Ran:
    """The end of a command, and the card that it left."""

    code: int
    out: str
    err: str
    card: str

    @property
    def warnings(self) -> str:
        return "\n".join(one for one in self.out.splitlines() if "Warning:" in one)


@pytest.fixture
def publish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Publish:
    """Run `inkling publish MODEL --name own ...` in this process."""

    def ran(model: keras.Model, *options: str) -> _Ran:
        model.save(tmp_path / "model.keras")
        where = ["--name", "own", "--models-dir", str(tmp_path / "models")]
        capsys.readouterr()
        code = main(["publish", str(tmp_path / "model.keras"), *where, *options])
        cards = sorted((tmp_path / "models").glob("own/*/card/card.md"))
        card = cards[-1].read_text() if cards else ""
        return _Ran(code, *capsys.readouterr(), card)

    return ran


def _deciding(inside: Callable[[Any], Any], kernel: Any, bias: Any) -> keras.Model:
    """Return a model whose scores are the softmax of a product."""
    start = keras.Input((_SIDE, _SIDE, 3))
    end = layers.Dense(len(bias), activation="softmax")(inside(start))
    model = keras.Model(start, end)
    model.layers[-1].set_weights([np.float32(kernel), np.float32(bias)])
    return model


def _by_brightness() -> keras.Model:
    """Dark, middle and light, by values of -1..1."""
    kernel = [[-16, 0, 16]] * 3
    return _deciding(layers.GlobalAveragePooling2D(), kernel, [-12, 0, -12])


def _by_colour() -> keras.Model:
    """Blue, green and red, by values of -1..1."""
    return _deciding(layers.GlobalAveragePooling2D(), 8 * np.eye(3)[::-1], [0, 0, 0])


def _by_width() -> keras.Model:
    """Narrow, round and wide, by how far light reaches from the centre."""

    def inside(x: Any) -> Any:
        light = keras.ops.mean(x, axis=-1)
        rows = keras.ops.mean(keras.ops.max(light, axis=2), axis=1, keepdims=True)
        columns = keras.ops.mean(keras.ops.max(light, axis=1), axis=1, keepdims=True)
        return columns - rows

    return _deciding(inside, [[-60, 0, 60]], [-6, 0, -6])


def _by_detail() -> keras.Model:
    """Smooth and fine, by the differences of neighbouring pixels."""

    def inside(x: Any) -> Any:
        light = keras.ops.mean(x, axis=-1)
        steps = keras.ops.abs(light[:, :, 1:] - light[:, :, :-1])
        return keras.ops.mean(steps, axis=(1, 2))[:, None]

    return _deciding(inside, [[-80, 80]], [4, -4])


def _folder(
    tmp_path: Path, draw: Callable[[int, int], Image.Image], count: int
) -> Path:
    folder = tmp_path / "pictures"
    for label in range(count):
        (folder / "abc"[label]).mkdir(parents=True)
        for number in range(8):
            draw(label, number).save(folder / "abc"[label] / f"{number}.png")
    return folder


def _plain(label: int, number: int) -> Image.Image:
    return Image.new("RGB", (40 + number, 52), (20 + 105 * label + number,) * 3)


def _coloured(label: int, number: int) -> Image.Image:
    colour = [20 + number, 20 + number, 20 + number]
    colour[2 - label] = 230
    return Image.new("RGB", (40, 52 + number), tuple(colour))


def _shaped(label: int, number: int) -> Image.Image:
    """An ellipse on a wide picture whose sides show nothing."""
    picture = Image.new("RGB", (160, 80))
    wide, high = ((22, 60), (60, 60), (60, 22))[label]
    box = (80 - wide // 2, 40 - high // 2, 80 + wide // 2, 40 + high // 2)
    ImageDraw.Draw(picture).ellipse(box, fill=(200 + number,) * 3)
    return picture


def _striped(label: int, number: int) -> Image.Image:
    """Stripes of one pixel, or the grey that they make from afar."""
    pixels = np.full((97, 91 + number, 3), 127, np.uint8)
    if label:
        pixels[:, ::2], pixels[:, 1::2] = 255, 0
    return Image.fromarray(pixels)


_SIGNED = ("--values", "signed")
_COVER = ("--resize", "cover")
_CASES = {
    "value range": (_by_brightness, _plain, 3, (), ("--values", "unit"), *_SIGNED),
    "BGR": (
        _by_colour,
        _coloured,
        3,
        _SIGNED,
        ("--channels", "bgr"),
        "--channels",
        "rgb",
    ),
    "stretch for crop": (
        *(_by_width, _shaped, 3, ("--values", "unit")),
        *(("--resize", "stretch"), *_COVER),
    ),
    "antialias": (
        *(_by_detail, _striped, 2, ("--values", "unit")),
        *(("--filter", "bilinear"), "--no-antialias", ""),
    ),
}


@pytest.mark.parametrize("mistake", _CASES)
def test_wrong_preparations(mistake: str, tmp_path: Path, publish: Publish) -> None:
    """With labelled pictures the option that mends it is named; the card has the row."""
    make, draw, count, options, wrong, *mended = _CASES[mistake]
    option = " ".join(mended).strip()
    folder = _folder(tmp_path, draw, count)

    done = publish(make(), "--pictures", str(folder), *options, *wrong)

    assert done.code == 0, done.err
    assert re.search(rf"With {option} accuracy would be \d+%", done.warnings), done.out
    row = re.search(rf"\| {wrong[0][2:]} \| (.*?) \|", done.card)
    assert row is not None, done.card
    assert wrong[1] in row[1]


@pytest.mark.parametrize(
    ("labels", "words"),
    [("b,a,c", "in the model's order"), ("none,a,b,c", "There are 4 labels")],
)
def test_labels_in_a_wrong_order(
    labels: str, words: str, tmp_path: Path, publish: Publish
) -> None:
    """Another order is warned about, and another number refused; the card has them."""
    folder = _folder(tmp_path, _coloured, 3)

    done = publish(
        *(_by_colour(), "--pictures", str(folder), *_SIGNED, "--labels", labels)
    )

    assert words in done.out + done.err
    assert done.code == 1 or "0 b, 1 a, 2 c" in done.card


def test_labels_off_by_one(tmp_path: Path, publish: Publish) -> None:
    """A shift of all labels is named as such."""
    kernel = np.concatenate([np.zeros((3, 1)), 8 * np.eye(3)[::-1]], axis=1)
    model = _deciding(layers.GlobalAveragePooling2D(), kernel, [-9, 0, 0, 0])
    folder = _folder(tmp_path, _coloured, 3)

    done = publish(
        *(model, "--pictures", str(folder), *_SIGNED, "--labels", "a,b,c,none")
    )

    assert "They seem to be off by one" in done.warnings
    assert "0 a, 1 b, 2 c, 3 none" in done.card


@pytest.mark.parametrize(
    ("activation", "outputs", "words"),
    [
        (None, "softmax", "which are no probabilities"),
        (None, "sigmoid", "which are no probabilities"),
        ("softmax", "logits", "sum to 1 already"),
        ("sigmoid", "softmax", "not to 1"),
    ],
)
def test_scores_that_are_no_probabilities(
    activation: str | None, outputs: str, words: str, publish: Publish
) -> None:
    """Logits are not shown as probabilities, and no softmax is applied twice."""
    model = _by_colour()
    model.layers[-1].activation = keras.activations.get(activation)
    options = (*_SIGNED, "--labels", "a,b,c")

    wrong = publish(model, *options, "--outputs", outputs)

    assert wrong.code == 1
    assert words in wrong.err


@pytest.mark.parametrize(
    "layer", [layers.GaussianNoise(0.5), layers.BatchNormalization()]
)
def test_layers_for_training_that_are_active(
    layer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An export in which a layer still trains is refused, random or not."""
    module = tf.Module()
    module.model = _deciding(
        lambda x: layers.GlobalAveragePooling2D()(layer(x)), 8 * np.eye(3), [0, 0, 0]
    )
    module.states = [variable.value for variable in module.model.variables]
    spec = tf.TensorSpec((None, _SIDE, _SIDE, 3), tf.float32)
    function = tf.function(
        lambda x: {"p": module.model(x, training=True)}, input_signature=[spec]
    )
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=function)
    options = [*_SIGNED, "--labels", "a,b,c", "--models-dir", str(tmp_path / "models")]

    code = main(["publish", str(tmp_path / "saved"), "--name", "own", *options])

    assert code == 1
    assert "or by the pictures beside it" in capsys.readouterr().err
