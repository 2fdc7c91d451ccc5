# SPDX-License-Identifier: Apache-2.0
"""Architectures of users and of Keras, from the command to the published version."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

import inkling
from inkling.cli.main import main
from inkling.contract import Contract
from inkling.errors import InvalidRequest
from inkling.image.preprocess import to_input
from inkling.model.repository import Repository, VersionFiles
from inkling_training.architectures.applications import application
from inkling_training.architectures.choice import Options, architecture_of, fitted
from inkling_training.data.datasets import Dataset
from inkling_training.data.folder import load_folder
from inkling_training.errors import UnusableArchitecture
from inkling_training.fit.batches import batches, plain
from inkling_training.fit.models import Architecture, Network
from inkling_training.fit.recipes import RECIPES, Recipe, recipe_for
from inkling_training.fit.run import Run, identity
from inkling_training.fit.train import Trained, train
from inkling_training.preparation.presets import VALUES
from tests.support.published import OFFLINE

_LABELS = ("circle", "cross", "square")
_COLOURS = ((200, 60, 50), (60, 160, 70), (60, 80, 210))
_OWN = RECIPES["default"]["own"]

_BUILD = """
import keras
from keras import layers

def build(input_shape, num_classes):
    return keras.Sequential([
        keras.Input(input_shape),
        layers.RandomFlip("horizontal"),
        layers.Rescaling(1 / 127.5, offset=-1),
        layers.Conv2D(8, 5, strides=4, activation="relu"),
        layers.BatchNormalization(momentum=0.5),
        layers.Conv2D(16, 3, strides=2, activation="relu"),
        layers.GlobalMaxPooling2D(),
        layers.Dense(num_classes),
    ])
"""


def _shape(label: str, number: int) -> Image.Image:
    """Return a picture of 110 x 96 pixels with a shape in its label's colour."""
    chance = np.random.default_rng([number, len(label)])
    picture = Image.fromarray(chance.integers(90, 150, (96, 110, 3), np.uint8))
    left, top = chance.integers(5, 40, 2).tolist()
    box, draw = (left, top, left + 50, top + 50), ImageDraw.Draw(picture)
    colour = _COLOURS[_LABELS.index(label)]
    if label == "circle":
        draw.ellipse(box, colour)
    elif label == "square":
        draw.rectangle(box, colour)
    else:
        draw.line(box, colour, 12)
        draw.line((left, top + 50, left + 50, top), colour, 12)
    return picture


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 pictures of each of three coloured shapes."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    for label in _LABELS:
        (folder / label).mkdir(parents=True)
        for number in range(24):
            _shape(label, number).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(shapes: Path) -> Dataset:
    """These pictures at 96 px."""
    return load_folder(shapes, size=96, ink=False)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    """Write `my_models.py` and return its function `build`, for the command line."""

    def written(source: str) -> str:
        path = tmp_path / "my_models.py"
        path.write_text(source)
        return f"{path}:build"

    return written


def _command(shapes: Path, place: Path, *more: str) -> list[str]:
    where = ["--models-dir", str(place / "models"), "--runs-dir", str(place / "runs")]
    data = ["--dataset", "folder", "--data-dir", str(shapes), "--size", "96"]
    return ["train", *more, *data, *where, "--name", "shapes"]


class _Made:
    """A version that the command published from a function, and what it said."""

    def __init__(self, place: Path, said: str) -> None:
        self.place, self.said = place, said
        self.version: VersionFiles = Repository(place / "models").newest("shapes")


@pytest.fixture(scope="module")
def made(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> _Made:
    """The network of `_BUILD`, trained for a few epochs by the command."""
    place = tmp_path_factory.mktemp("made")
    (place / "my_models.py").write_text(_BUILD)
    with pytest.MonkeyPatch.context() as patch, (place / "said").open("w") as said:
        patch.setattr("sys.stdout", said)
        model = f"{place / 'my_models.py'}:build"
        quick = ["--epochs", "7", "--learning-rate", "0.02"]
        code = main(_command(shapes, place, model, *quick))
    assert code == 0, (place / "said").read_text()
    return _Made(place, (place / "said").read_text())


def test_a_function_becomes_a_version(made: _Made) -> None:
    """Its contract and card name file, hash and conclusions; the output says them."""
    contract = made.version.contract()
    source = hashlib.sha256(_BUILD.encode()).hexdigest()
    card = (made.version.path / "card" / "card.md").read_text()

    assert contract.labels == _LABELS
    assert contract.input_shape == (96, 96, 3)
    assert contract.source is not None
    assert contract.source.name == "my_models.py:build"
    assert contract.source.digest == f"sha256:{source}"
    assert (contract.scale, contract.offset) == ((1.0,), (0.0,))
    for words in (
        "a softmax was added",
        "The pixels are 0 to 255, because the model itself",
        "mirrored",
    ):
        assert words in made.said
        assert words in card
    assert made.version.accuracy("float32") >= 0.8
    assert {row["export"] for row in made.version.metrics()["parity"]} == {
        "saved_model",
        "float32",
        "float16",
        "int8",
    }


def test_a_new_picture_is_answered(made: _Made, encode: Any) -> None:
    """The device answers a new picture of a shape with its label."""
    with inkling.connect(str(made.version.path)) as classifier:
        found = [classifier.classify(encode(_shape(one, 999))).label for one in _LABELS]

    assert found == list(_LABELS)


def test_the_export_has_no_augmentation(made: _Made) -> None:
    """No random operation is in the SavedModel: neither the model's nor Inkling's."""
    loaded = tf.saved_model.load(str(made.version.path))
    graph = loaded.signatures["serving_default"].graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]

    kinds = {node.op for node in nodes}
    assert "Conv2D" in kinds
    assert not [kind for kind in kinds if "andom" in kind or "Projective" in kind]


def test_nothing_is_left_beside(made: _Made) -> None:
    """A run leaves its state and its logs, and nothing beside the user's file."""
    assert {path.name for path in made.place.iterdir()} == {
        "my_models.py",
        "models",
        "runs",
        "said",
    }
    [run] = (made.place / "runs").iterdir()
    assert {path.name for path in run.iterdir()} == {"state.npz", "tensorboard"}


def test_a_run_states_its_source(made: _Made) -> None:
    """The checkpoint names the function and the file's hash; another file starts anew."""
    [run] = (made.place / "runs").iterdir()
    with np.load(run / "state.npz") as arrays:
        known = json.loads(str(arrays["described"]))["identity"]
    changed = {**known, "source": {**known["source"], "digest": "sha256:other"}}
    copy = Path(shutil.copytree(run, made.place / "copy" / "run"))

    assert known["source"]["name"] == "my_models.py:build"
    assert known["source"]["digest"].startswith("sha256:")
    assert Run(run, known).start(resume=True)
    assert not Run(copy, changed).start(resume=True)
    shutil.rmtree(made.place / "copy")


_WRONG = {
    "def make(shape, classes): ...": "has no function build; it has make.",
    "def bild(shape, classes): ...": "Is it .*:bild",
    "1 / 0": "line 1, in <module>: '1 / 0' raised ZeroDivisionError",
    "def build(:": "line 1: 'def build.:' is no Python",
    "import sys; sys.exit('bye')": "raised SystemExit: bye",
    "def build(shape): ...": "raised TypeError: .*positional",
    "def build(shape, classes):\n    x = len(3)": r"line 2, in build: 'x = len\(3\)'",
    "def build(shape, classes): ...": "returned NoneType; .* return model",
    "def build(shape, classes): return 3": "returned int; expected a Keras model",
}
_MODEL = """
import keras
from keras import layers
def build(input_shape, num_classes):
    x = keras.Input({shape})
    y = {body}
    return keras.Model(x, {ends})
"""
_WRONG_MODELS = {
    ("(64, 64, 3)", "layers.Dense(3)(layers.Flatten()(x))", "y"): (
        r"inputs of shape \(\?, 64, 64, 3\); the pictures have \(\?, 32, 32, 3\)"
    ),
    ("input_shape", "layers.Dense(10)(layers.Flatten()(x))", "y"): (
        r"output shape \(\?, 10\); expected \(\?, 2\)"
    ),
    ("input_shape", "layers.Dense(2)(x)", "y"): r"output shape \(\?, 32, 32, 2\)",
    ("input_shape", "layers.Dense(2, 'sigmoid')(layers.Flatten()(x))", "y"): (
        "ends in sigmoid; expected softmax"
    ),
    ("input_shape", "layers.Dense(2)(layers.Flatten()(x))", "[y, y]"): "2 outputs",
    ("input_shape", "layers.Softmax()(layers.Flatten()(x)[:, :2])", "y"): (
        "without trainable weights"
    ),
    (
        "input_shape",
        "layers.Dense(2, dtype='mixed_float16')(layers.Flatten()(x))",
        "y",
    ): "half precision",
}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        *_WRONG.items(),
        *(
            (_MODEL.format(shape=shape, body=body, ends=ends), words)
            for (shape, body, ends), words in _WRONG_MODELS.items()
        ),
    ],
    ids=[*_WRONG, *(body for _, body, _ in _WRONG_MODELS)],
)
def test_wrong_functions_are_explained(
    source: str,
    words: str,
    file: Callable[[str], str],
    colour_contract: Contract,
    tmp_path: Path,
) -> None:
    """One message says what came and what was expected; nothing is written."""
    with pytest.raises(UnusableArchitecture, match=words) as caught:
        fitted(architecture_of(file(source), Options()), colour_contract, _OWN)

    assert "\n" not in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["my_models.py"]


_OPTIONS = {
    "nowhere.py:build": ([], "nowhere.py cannot be read"),
    "mlp": (["--weights", "none"], "--weights came with mlp"),
    "cnn": (["--values", "bytes"], "--values came with cnn"),
    "keras.applications:MobileNetV9": ([], "it has .*MobileNetV2"),
    "keras.applications:VGG16": (["--alpha", "0.5"], "VGG16 has no alpha"),
    "keras.applications:Xception": (["--weights", "no.h5"], "no.h5, which is no file"),
}


@pytest.mark.parametrize("model", _OPTIONS)
def test_wrong_options_are_explained(
    model: str,
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command ends with 1 before it reads a picture or makes a folder."""
    options, words = _OPTIONS[model]

    assert main(_command(shapes, tmp_path, model, *options)) == 1

    err = capsys.readouterr().err
    assert re.search(words, err), err
    assert list(tmp_path.iterdir()) == []


def test_the_documented_function_works(
    file: Callable[[str], str], colour_contract: Contract
) -> None:
    """The function in docs/models.md can be trained, with the conclusions that it says."""
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)

    contract, notes = fitted(
        architecture_of(file(block), Options()), colour_contract, _OWN
    )

    assert contract.scale == (1.0,)
    assert [note for note in notes if "a softmax was added" in note]


def test_an_own_model_needs_a_name(
    capsys: pytest.CaptureFixture[str], file: Callable[[str], str]
) -> None:
    """Without --name the command says that it needs one."""
    assert main(["train", file(_BUILD)]) == 1
    assert "without --name" in capsys.readouterr().err


_ENDS = {
    "softmax activation": "layers.Dense(2, 'softmax')(layers.Flatten()(x))",
    "softmax layer": "layers.Softmax()(layers.Dense(2)(layers.Flatten()(x)))",
    "activation layer": "layers.Activation('softmax')(layers.Dense(2)(layers.Flatten()(x)))",
    "operation": "keras.ops.softmax(layers.Dense(2)(layers.Flatten()(x)))",
    "inner model": (
        "keras.Sequential([layers.Flatten(), layers.Dense(2, 'softmax')])(x)"
    ),
}


@pytest.mark.parametrize("end", _ENDS)
def test_an_own_softmax_stays_the_only_one(
    end: str, file: Callable[[str], str], colour_contract: Contract
) -> None:
    """Each form of softmax gives the scores that the user's own model gives."""
    text = file(_MODEL.format(shape="input_shape", body=_ENDS[end], ends="y"))
    inputs = np.random.default_rng(1).random((4, 32, 32, 3), np.float32)
    architecture = architecture_of(text, Options())
    keras.utils.set_random_seed(3)
    namespace: dict[str, Any] = {}
    exec(_MODEL.format(shape="input_shape", body=_ENDS[end], ends="y"), namespace)
    expected = namespace["build"]((32, 32, 3), 2)(inputs).numpy()

    keras.utils.set_random_seed(3)
    network = architecture.build((32, 32, 3), 2, _OWN)

    assert network.notes == ()
    assert network.model(inputs).numpy() == pytest.approx(expected, abs=1e-5)
    assert type(network.model.layers[-1]) is keras.layers.Softmax


def test_a_compiled_model_keeps_its_optimizer(file: Callable[[str], str]) -> None:
    """Its optimizer and rate are used and said; --learning-rate changes the rate."""
    compiled = _BUILD.replace("return keras", "model = keras") + (
        "    model.compile(keras.optimizers.SGD(0.25, momentum=0.5), 'mse')\n"
        "    return model\n"
    )
    text = file(compiled)

    network = architecture_of(text, Options()).build((32, 32, 3), 2, _OWN)
    slower = architecture_of(text, Options(learning_rate=0.01)).build(
        (32, 32, 3), 2, _OWN
    )

    assert network.optimizer.get_config()["momentum"] == 0.5
    assert float(network.optimizer.learning_rate) == 0.25
    assert float(slower.optimizer.learning_rate) == pytest.approx(0.01)
    assert any("SGD is that of the compiled model" in note for note in network.notes)


@pytest.mark.parametrize("values", ["unit", "signed", "imagenet", "caffe"])
def test_training_sees_what_a_gateway_makes(
    values: str, pictures: Dataset, shapes: Path
) -> None:
    """Without augmentation, training and validation inputs are served ones, bit for bit."""
    contract = replace(pictures.contract, **VALUES[values])
    dataset = replace(pictures, contract=contract)
    recipe = replace(_OWN, augmentation={}, epochs=1, batch_size=1)

    parts = [*batches(dataset, recipe, 0, 0), *plain(dataset.validation, contract)]
    seen = {one.tobytes() for inputs, _ in parts for one in inputs.numpy()}
    made = dataset.test.inputs_in_parts(contract)
    seen |= {made[at : at + 1][0].tobytes() for at in range(len(made))}

    files = [path.read_bytes() for path in shapes.rglob("*.png")]
    assert seen == {to_input(file, contract).tobytes() for file in files}


def test_augmentation_stays_in_the_range_of_pictures(pictures: Dataset) -> None:
    """Augmented inputs are what a served picture can be, and differ from the picture."""
    contract = replace(pictures.contract, **VALUES["signed"])
    dataset = replace(pictures, contract=contract)
    recipe = recipe_for("default", "own", "folder", 1, 100)

    [(inputs, _), *_] = batches(dataset, recipe, 0, 0)

    found = inputs.numpy()
    assert found.shape == (16, 96, 96, 3)
    assert -1 <= found.min() < -0.99
    assert found.max() <= 1
    plain_inputs = {one.tobytes() for one in dataset.train.inputs(contract)}
    assert not plain_inputs & {one.tobytes() for one in found}


def test_prepared_pictures_have_no_file(shapes: Path, tmp_path: Path) -> None:
    """The prepared pictures take disk space under no name, so a kill leaves nothing."""
    found = load_folder(shapes, size=96, ink=False, disk=tmp_path)

    assert list(tmp_path.iterdir()) == []
    assert found.train.pixels[3:5].shape == (2, 96, 96, 3)
    assert np.array_equal(found.train.pixels[[4, 3]], found.train.pixels[3:5][::-1])


_FAMILIES = {
    "MobileNet": "signed",
    "MobileNetV2": "signed",
    "MobileNetV3Small": "bytes",
    "EfficientNetB0": "bytes",
    "EfficientNetV2B0": "bytes",
    "ConvNeXtTiny": "bytes",
    "ResNet50": "caffe",
    "VGG16": "caffe",
    "ResNet50V2": "signed",
    "InceptionV3": "signed",
    "Xception": "signed",
    "NASNetMobile": "signed",
    "DenseNet121": "imagenet",
}


def test_each_family_gets_its_own_values() -> None:
    """The preparation is that of the family's `preprocess_input`."""
    found = {name: application(name, "none", None).values for name in _FAMILIES}

    assert found == _FAMILIES


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    """The base has the weights of the file, and other weights are refused."""
    saved = keras.applications.MobileNet(
        include_top=False, weights=None, alpha=0.25, input_shape=(32, 32, 3)
    )
    saved.save_weights(tmp_path / "own.weights.h5")
    text, file = "keras.applications:MobileNet", str(tmp_path / "own.weights.h5")

    architecture = architecture_of(text, Options(weights=file, alpha=0.25))
    network = architecture.build((48, 48, 3), 5, RECIPES["default"]["transfer"])

    assert network.base is not None
    pairs = zip(saved.get_weights(), network.base.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert architecture.source is not None
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert architecture.source.digest == f"sha256:{digest}"
    with pytest.raises(UnusableArchitecture, match="does not hold weights for"):
        architecture_of(text, Options(weights=file)).build((48, 48, 3), 5, _OWN)


def test_imagenet_without_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that cannot be downloaded are one sentence, which names the other ways."""
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    # Nobody has these weights already.
    architecture = architecture_of(
        "keras.applications:MobileNetV2", Options(weights="imagenet", alpha=1.3)
    )

    with pytest.raises(UnusableArchitecture, match="could not be downloaded") as caught:
        architecture.build((96, 96, 3), 3, RECIPES["default"]["transfer"])

    assert "--weights FILE" in caught.value.message


def test_grey_pictures_have_no_values_by_channel(digit_contract: Contract) -> None:
    """A grey contract and values of three channels contradict each other."""
    text = "keras.applications:VGG16"

    with pytest.raises(UnusableArchitecture, match="takes colour pictures"):
        fitted(architecture_of(text, Options(weights="none")), digit_contract, _OWN)


def _pretrained(shape: Any, num_classes: int, recipe: Recipe) -> Network:
    """Return a small network with a part that counts as pretrained."""
    del recipe
    base = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(4, 5, strides=4, name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
            keras.layers.Conv2D(4, 5, strides=4, name="last"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    inputs = keras.Input(shape)
    logits = keras.layers.Dense(num_classes)(base(inputs, training=False))
    model = keras.Model(inputs, keras.layers.Softmax()(logits))
    return Network(model, base=base)


_PRETRAINED = Architecture("pretrained", "transfer", _pretrained)
_STAGED = replace(
    RECIPES["default"]["transfer"],
    epochs=4,
    frozen_epochs=2,
    tuned_share=0.6,
    learning_rate=0.05,
    tuning_rate=0.05,
)


class _Recorded(Run):
    """A run that keeps a copy of its directory, and of its state, after each epoch."""

    def finish_epoch(self, model: keras.Model, figures: dict[str, float]) -> None:
        super().finish_epoch(model, figures)
        after = self.directory.with_name(f"after {len(self.history)}")
        shutil.copytree(self.directory, after)
        np.savez(after / "weights.npz", *model.get_weights())


def _staged(run: Run, dataset: Dataset, *, resume: bool) -> Trained:
    return train(_PRETRAINED, dataset, _STAGED, run, seed=0, resume=resume)


@pytest.fixture(scope="module")
def staged(
    pictures: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trained, Path]:
    """A run of both stages, and the folder with its directory after each epoch."""
    place = tmp_path_factory.mktemp("staged")
    run = _Recorded(place / "run", identity(_PRETRAINED, pictures, _STAGED, 0))
    return _staged(run, pictures, resume=False), place


def test_a_pretrained_part_is_frozen_first(
    staged: tuple[Trained, Path], pictures: Dataset
) -> None:
    """It stays as it is, then its last layers learn; BatchNormalization never does."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    first = _pretrained(pictures.contract.input_shape, 3, _STAGED).model

    def changed(epoch: int) -> set[str]:
        with np.load(staged[1] / f"after {epoch}" / "weights.npz") as arrays:
            pairs = zip(first.weights, arrays.values(), strict=True)
            paths = [a.path for a, b in pairs if not np.array_equal(a, b)]
        return {path.split("/")[-2] for path in paths}

    assert changed(2) == {"dense"}
    assert changed(4) == {"dense", "last"}


@pytest.mark.parametrize("after", [2, 3])
def test_stages_resume(
    after: int, pictures: Dataset, staged: tuple[Trained, Path]
) -> None:
    """A run that ended between its stages, or in the second, resumes bit for bit."""
    whole, place = staged
    run = Run(place / f"after {after}", identity(_PRETRAINED, pictures, _STAGED, 0))

    again = _staged(run, pictures, resume=True)

    assert whole.history == again.history
    pairs = zip(whole.model.get_weights(), again.model.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.soak
@pytest.mark.parametrize("weights", ["none", "file"])
def test_a_mobilenet_is_published(
    weights: str, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MobileNetV2 is trained by one command, with and without pretrained weights."""
    if weights == "file":
        weights = str(tmp_path / "base.weights.h5")
        keras.applications.MobileNetV2(
            include_top=False, weights=None, alpha=0.35, input_shape=(96, 96, 3)
        ).save_weights(weights)
    model = ["keras.applications:MobileNetV2", "--alpha", "0.35", "--weights", weights]

    code = main(_command(shapes, tmp_path, *model, "--epochs", "2"))

    assert code == 0, capsys.readouterr()
    version = Repository(tmp_path / "models").newest("shapes")
    contract = version.contract()
    assert contract.scale == VALUES["signed"]["scale"]
    card = (version.path / "card" / "card.md").read_text()
    assert ("frozen for 1 epochs" in card) == (weights != "none")


@pytest.mark.soak
def test_an_interrupted_training_publishes_nothing(
    shapes: Path, file: Callable[[str], str], tmp_path: Path
) -> None:
    """Ctrl-C in an epoch ends with code 130; no version stays, and the run resumes."""
    command = _command(shapes, tmp_path, file(_BUILD), "--epochs", "3")
    with subprocess.Popen(
        [sys.executable, "-m", "inkling", *command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if re.match(r" +epoch +1/", line):
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()

    assert process.returncode == 130
    assert [path for path in tmp_path.glob("models/**/*") if path.is_file()] == []
    assert not any(tmp_path.glob("models/**/.staging*"))
    assert main([*command, "--resume"]) == 0


def test_other_errors_are_requests() -> None:
    """The command line tool shows these errors as sentences, not as tracebacks."""
    assert issubclass(UnusableArchitecture, InvalidRequest)
