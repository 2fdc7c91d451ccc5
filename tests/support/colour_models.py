# SPDX-License-Identifier: Apache-2.0
"""Models of colours, published from Keras files as people bring them.

Their weights are set by hand, so that each answer is known: a label's probability grows
with the share of its colour in the picture. `several` gives each of red, green and blue
a probability of its own, `pair` is one probability for dark or light, and `photos` has
one label of six; that of a black picture is a script in HTML.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from inkling.errors import InklingError
from inkling.model.repository import Repository

COLOURS = ("red", "green", "blue")
SCRIPT = "<img src=x onerror=alert(1)>"
PHOTOS = (*COLOURS, SCRIPT, "grey", "brown")
MODELS = {"several": COLOURS, "pair": ("dark", "light"), "photos": PHOTOS}
# Rows and columns of the model inputs.
SIZE = (40, 48)
_ROOT = Path(__file__).parent.parent.parent
# The weights of each label for red, green and blue, from 0 to 1, and its bias. The first
# three are 12 * (share - 0.5).
_SEVERAL = ((12, 0, 0, -6), (0, 12, 0, -6), (0, 0, 12, -6))
_PAIR = ((4, 4, 4, -6),)
_PHOTOS = (*_SEVERAL, (-4, -4, -4, 2), (1, 1, 1, -2), (2, 1, 0, -2))
_LAYERS = {
    "several": (_SEVERAL, "sigmoid"),
    "pair": (_PAIR, "sigmoid"),
    "photos": (_PHOTOS, "softmax"),
}


def colour(red: int, green: int, blue: int, side: int = 60) -> Image.Image:
    """Return a picture of one colour, as wide as it is high."""
    return Image.new("RGB", (side, side), (red, green, blue))


def logits(name: str, red: int, green: int, blue: int) -> np.ndarray:
    """Return what a model computes of a colour before its activation."""
    weights = np.array(_LAYERS[name][0], float)
    return weights[:, :3] @ (np.array([red, green, blue]) / 255) + weights[:, 3]


def made(folder: Path) -> None:
    """Publish the models in a process of its own, which imports TensorFlow."""
    log = folder.with_suffix(".log")
    with log.open("w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.colour_models", str(folder)],
            stdout=output,
            stderr=output,
            cwd=_ROOT,
            timeout=240,
        )
    assert done.returncode == 0, log.read_text()


def is_whole(models: Path) -> bool:
    """Return whether each model is there."""
    try:
        for model in MODELS:
            Repository(models).newest(model).verify()
    except InklingError:
        return False
    return True


def _saved(name: str, path: Path) -> None:
    import keras

    rows, activation = _LAYERS[name]
    weights = np.array(rows, np.float32)
    start = keras.Input((*SIZE, 3))
    means = keras.layers.GlobalAveragePooling2D()(start / 255.0)
    dense = keras.layers.Dense(len(rows), activation=activation)
    model = keras.Model(start, dense(means))
    dense.set_weights([weights[:, :3].T, weights[:, 3]])
    model.save(path)


def _labelled(folder: Path) -> Path:
    """Write pictures of each colour, a folder for each label of `photos`."""
    chance = np.random.default_rng(0)
    for place, label in enumerate(COLOURS):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            shares = chance.integers(0, 90, 3)
            shares[place] = chance.integers(140, 256)
            colour(*shares.tolist()).save(folder / label / f"{number}.png")
    return folder


def _publish_all(models: Path) -> int:
    import json

    from inkling.cli.main import main

    beside = models.with_suffix(".made")
    pictures = _labelled(beside / "pictures")
    for name, labels in MODELS.items():
        _saved(name, beside / f"{name}.keras")
        (beside / f"{name}.json").write_text(json.dumps(labels))
        words = ["publish", str(beside / f"{name}.keras"), "--name", name]
        words += ["--labels", str(beside / f"{name}.json"), "--models-dir", str(models)]
        if name == "photos":
            words += ["--pictures", str(pictures)]
        if main(words):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(_publish_all(Path(sys.argv[1])))
