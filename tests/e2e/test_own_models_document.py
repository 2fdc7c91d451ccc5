# SPDX-License-Identifier: Apache-2.0
"""docs/own-models.md is followed from `model.save()` to the label, as it stands."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from inkling.cli.main import main
from tests.support.gateway_process import serving
from tests.support.machine import until

_DOCUMENT = Path(__file__).parents[2] / "docs" / "own-models.md"
_BLOCK = re.compile(r"^ *```(python|console)\n(.*?)```", re.DOTALL | re.MULTILINE)


def _steps() -> list[tuple[str, str]]:
    """Return the blocks of the document in their order: a kind and the text."""
    found = _BLOCK.findall(_DOCUMENT.read_text())
    return [(kind, textwrap.dedent(text.rstrip(" "))) for kind, text in found]


def _commands() -> list[str]:
    blocks = [text for kind, text in _steps() if kind == "console"]
    lines = "\n".join(blocks).splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a user has pictures of two kinds, and a new one."""
    for name, colour in (("cats", (200, 120, 40)), ("dogs", (40, 90, 200))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            place = tmp_path / "pictures" / name / f"{number}.jpg"
            _photo(colour, number).save(place, quality=90)
    _photo((200, 120, 40), 99).save(tmp_path / "cat.jpg", quality=90)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _photo(colour: tuple[int, int, int], number: int) -> Image.Image:
    chance = np.random.default_rng([*colour, number])
    coarse = np.int16(colour) + chance.integers(-40, 40, (5, 6, 3))
    small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    return small.resize((150 + 3 * number, 110), Image.Resampling.BICUBIC)


def test_the_document_is_followed(folder: Path) -> None:
    """Each step runs; HTTP and the device answer with the label that Keras gives."""
    keras.utils.set_random_seed(3)
    [training, *_, on_device] = [text for kind, text in _steps() if kind == "python"]
    publish, serve, ask = _commands()
    training = training.replace(".fit(data", ".fit(data, verbose=0")

    exec(training, {})
    assert main(shlex.split(publish)[1:]) == 0
    assert shlex.split(serve)[1:] == ["serve", "--models-dir", "models"]
    with serving(folder / "models", log=folder / "log") as gateway:
        until(lambda: gateway.request("GET", "/readyz").status == 200)
        _, _, _, _, file, address = shlex.split(ask)
        path = address.removeprefix("http://127.0.0.1:8080")
        answer = gateway.request("POST", path, Path(file).read_bytes())
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(on_device, {})

    [result] = json.loads(answer.body)["results"]
    picture = np.array(keras.utils.load_img(file), np.float32)
    pixels = keras.ops.image.resize(picture, (96, 96))[np.newaxis]
    logits = keras.models.load_model("pets.keras")(pixels, training=False)
    scores = keras.ops.softmax(logits)[0].numpy()
    assert output.getvalue().strip() == result["label"] == "cats"
    assert result["probability"] == pytest.approx(scores.max(), abs=1e-5)
    assert scores.argmax() == 0
