# SPDX-License-Identifier: Apache-2.0
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2

from inkling.contract import Contract, TrainingData
from inkling.image.preprocess import to_input
from inkling.model.drift import FIGURE, LEAST_PICTURES
from inkling.model.repository import FORMATS, Repository, VersionFiles
from inkling.model.runner import TFLiteRunner
from inkling_training.data.datasets import Dataset, Split
from inkling_training.fit.models import MODELS
from inkling_training.fit.recipes import recipe_for
from inkling_training.fit.run import Run, identity
from inkling_training.fit.train import Trained, train
from inkling_training.release.publish import publish

Load = Callable[[VersionFiles], tf.Module]


@dataclass(frozen=True)
class _Published:
    """A published version with what it was made from."""

    files: VersionFiles
    dataset: Dataset
    trained: Trained
    signatures: dict[str, Callable[..., dict[str, tf.Tensor]]]
    loaded: object  # the signatures die with it

    @property
    def path(self) -> Path:
        return self.files.path


def _colours() -> Dataset:
    """Return 32x32 pictures that are red or blue, on noise."""
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 60, (400, 32, 32, 3), np.uint8)
    labels = np.arange(400) % 2
    pixels[labels == 0, 8:24, 8:24, 0] = 250
    pixels[labels == 1, 8:24, 8:24, 2] = 250
    contract = Contract(
        height=32,
        width=32,
        channels=3,
        labels=("red", "blue"),
        kind="sample",
        polarity="as_is",
        alpha="white",
        centring="none",
        training_data=TrainingData("colours", "sha256:none"),
    )
    return Dataset(
        "colours",
        train=Split(pixels[:300], labels[:300]),
        validation=Split(pixels[300:340], labels[300:340]),
        test=Split(pixels[340:], labels[340:]),
        contract=contract,
    )


@pytest.fixture(scope="module", params=["mlp of digits", "cnn of colours"])
def version(
    request: pytest.FixtureRequest,
    digits: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> _Published:
    """A version of a grey MLP, or of a colour CNN with other labels."""
    model, _, of = request.param.split()
    dataset = digits if of == "digits" else _colours()
    # Batches small enough that a few hundred pictures are some steps.
    recipe = replace(recipe_for("quick", model, "digits", 2), batch_size=32)
    folder = tmp_path_factory.mktemp(model)
    run = Run(folder / "run", identity(MODELS[model], dataset, recipe, 0))
    trained = train(MODELS[model], dataset, recipe, run, seed=0, resume=False)
    repository = Repository(folder / "models")
    files = publish(repository, f"{model}-1", dataset, trained, figures={"seed": 0})
    loaded = tf.saved_model.load(str(files.path))
    return _Published(files, dataset, trained, dict(loaded.signatures), loaded)


def test_signatures(version: _Published) -> None:
    """The SavedModel has signatures for scores, contract and device."""
    shape = (None, *version.dataset.contract.input_shape)
    serving_default = version.signatures["serving_default"]

    specs = serving_default.structured_input_signature[1]

    assert {"serving_default", "contract", "device"} == set(version.signatures)
    assert list(specs) == ["inputs"]
    assert shape == tuple(specs["inputs"].shape)
    assert specs["inputs"].dtype == tf.float32
    outputs = serving_default.structured_outputs
    assert list(outputs) == ["scores"]
    classes = len(version.dataset.contract.labels)
    assert (None, classes) == tuple(outputs["scores"].shape)


@pytest.mark.parametrize("count", [1, 3, 32])
def test_saved_model_gives_the_scores_of_keras(count: int, version: _Published) -> None:
    """The SavedModel answers batches of any size as Keras does."""
    inputs = version.dataset.test.first(count).inputs(version.dataset.contract)

    found = version.signatures["serving_default"](inputs=tf.constant(inputs))["scores"]

    expected = version.trained.model(inputs, training=False).numpy()
    assert expected == pytest.approx(found.numpy(), abs=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2, 33])
def test_contract_signature(count: int, version: _Published) -> None:
    """The signature `contract` answers n copies of the contract to n numbers."""
    asked = tf.zeros(count, tf.int32)

    found = version.signatures["contract"](asked=asked)["contract"].numpy().tolist()

    expected = (version.path / "assets.extra" / "contract.json").read_bytes()
    assert [expected] * count == found
    assert version.dataset.contract == Contract.from_json(expected)


def test_saved_model_has_the_weights_alone(version: _Published) -> None:
    """The optimizer's state, twice as large as the weights, is not published."""
    weights = sum(w.numpy().nbytes for w in version.trained.model.weights)
    [data] = (version.path / "variables").glob("variables.data-*")

    assert data.stat().st_size < weights + 16_384


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_tflite_takes_floats_in_batches(
    name: str, count: int, version: _Published
) -> None:
    """Every TFLite file has float inputs and outputs and takes any batch size."""
    from ai_edge_litert.interpreter import Interpreter

    contract = version.dataset.contract
    inputs = version.dataset.test.first(count).inputs(contract)
    interpreter = Interpreter(str(version.files.tflite(name)))
    [source], [target] = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    assert source["shape_signature"].tolist() == [-1, *contract.input_shape]
    assert {source["dtype"], target["dtype"]} == {np.float32}

    scores = TFLiteRunner(version.files.tflite(name).read_bytes(), contract).run(inputs)

    expected = version.trained.model(inputs, training=False).numpy()
    assert scores.shape == (count, len(contract.labels))
    assert np.abs(scores - expected).max() <= contract.tolerances[name]


def test_smaller_formats_are_smaller(version: _Published) -> None:
    """float16 has about half the bytes of float32, int8 about a quarter."""
    sizes = [version.files.tflite(name).stat().st_size for name in FORMATS]

    assert sizes[0] > 1.7 * sizes[1] > 1.7 * 1.5 * sizes[2]


def _warmup(version: _Published) -> list[prediction_log_pb2.PredictionLog]:
    path = version.path / "assets.extra" / "tf_serving_warmup_requests"
    return [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]


def test_warmup_names_model_and_signature(version: _Published) -> None:
    """Each warm-up record is a prediction of this model by its default signature."""
    logs = _warmup(version)

    specs = [log.predict_log.request.model_spec for log in logs]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    assert {(spec.name, spec.signature_name) for spec in specs} == {
        (version.files.model, "serving_default")
    }
    assert 1 <= len(logs) <= 1000  # TensorFlow Serving reads no more


def test_warmup_runs(version: _Published) -> None:
    """Each warm-up record is answered; together they are the usual batch sizes."""
    sizes = []
    for log in _warmup(version):
        inputs = {
            name: tf.constant(tf.make_ndarray(value))
            for name, value in log.predict_log.request.inputs.items()
        }
        scores = version.signatures["serving_default"](**inputs)["scores"].numpy()
        assert scores.sum(axis=1) == pytest.approx(np.ones(len(scores)), abs=1e-5)
        sizes.append(len(scores))

    assert sizes == [1, 2, 4, 8, 16, 32]


def _golden(version: _Published) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    with np.load(version.path / "golden.npz", allow_pickle=False) as golden:
        whole, ends = golden["images"].tobytes(), golden["image_ends"].tolist()
        inputs, scores = golden["inputs"], golden["scores"]
    images = [whole[start:end] for start, end in pairwise([0, *ends])]
    assert len(whole) == ends[-1]
    return images, inputs, scores


def test_golden_pictures_give_the_golden_inputs(version: _Published) -> None:
    """The preprocessing of each golden picture gives its input, bit for bit."""
    images, inputs, _ = _golden(version)

    again = np.stack([to_input(image, version.dataset.contract) for image in images])

    assert np.float32 == inputs.dtype
    assert inputs.tobytes() == again.tobytes()


def test_golden_scores_are_those_of_keras(version: _Published) -> None:
    """The golden scores are what Keras says to the golden inputs."""
    _, inputs, scores = _golden(version)

    assert np.array_equal(version.trained.model(inputs, training=False), scores)


def test_golden_pictures_are_of_both_kinds(version: _Published) -> None:
    """Some golden pictures are samples of the test set, some larger and to be found."""
    contract = version.dataset.contract
    images, inputs, scores = _golden(version)
    size = (contract.width, contract.height)

    sizes = [Image.open(io.BytesIO(image)).size for image in images]

    assert len(images) == len(inputs) == len(scores) == 32
    assert sizes.count(size) == 24
    assert sizes[24:] == [(5 * size[0], 5 * size[1])] * 8
    samples = version.dataset.test.first(24).inputs(contract)
    assert np.array_equal(samples, inputs[:24])


def test_manifest_is_complete(version: _Published) -> None:
    """The manifest lists every file but itself, and the version passes its checks."""
    listed = json.loads((version.path / "manifest.json").read_text())["files"]

    found = {
        path.relative_to(version.path).as_posix()
        for path in version.path.rglob("*")
        if path.is_file()
    }

    assert found - {"manifest.json"} == set(listed)
    assert {
        "saved_model.pb",
        "assets.extra/contract.json",
        "assets.extra/tf_serving_warmup_requests",
        "tflite/float32.tflite",
        "tflite/float16.tflite",
        "tflite/int8.tflite",
        "golden.npz",
        "card/metrics.json",
        "card/card.md",
        "card/curves.png",
        "card/confusion.png",
        "card/calibration.png",
    } <= found
    version.files.verify()


def test_files_can_be_read_by_other_users(version: _Published) -> None:
    """A gateway that runs under another user can read the version."""
    for path in [version.path, *version.path.rglob("*")]:
        wanted = 0o055 if path.is_dir() else 0o044
        assert path.stat().st_mode & wanted == wanted, path


@pytest.mark.parametrize("name", ["curves.png", "confusion.png", "calibration.png"])
def test_pictures_of_the_card(name: str, version: _Published) -> None:
    """The pictures of the card open and are not blank."""
    with Image.open(version.path / "card" / name) as picture:
        pixels = np.asarray(picture.convert("L"))

    assert picture.format == "PNG"
    assert min(pixels.shape) > 200
    assert len(np.unique(pixels)) > 20


def test_card_text(version: _Published) -> None:
    """The card says how accurate each export is and how large the files are."""
    text = (version.path / "card" / "card.md").read_text()
    figures = version.files.metrics()

    for name in ("keras", "saved_model", *FORMATS):
        assert f"| {name} | {figures['accuracy'][name]:.2%} |" in text
    for name in FORMATS:
        assert f"{version.files.tflite(name).stat().st_size:,} |" in text
    assert f"# {version.files.model} on {version.dataset.name}" in text
    assert version.dataset.contract.hash in text


def test_metrics(version: _Published) -> None:
    """The metrics of the card name model, data, contract and libraries."""
    figures = version.files.metrics()
    contract, trained = version.dataset.contract, version.trained

    expected = {
        "model": version.files.model,
        "dataset": version.dataset.name,
        "data": contract.training_data.digest,
        "contract": contract.hash,
        "seed": 0,
        "parameters": trained.model.count_params(),
        "epochs": len(trained.history),
        "best_epoch": trained.best_epoch,
    }
    assert expected == {name: figures[name] for name in expected}
    assert set(figures) - set(expected) == {
        "abstain_below",
        "abstained",
        "accuracy",
        "bytes",
        "calibration_error",
        "caught",
        *([FIGURE] if len(version.dataset.test) >= LEAST_PICTURES else []),
        "made_with",
        "parity",
        "temperature",
        "train_s",
    }
    assert {"keras", "saved_model", *FORMATS} == set(figures["accuracy"])
    assert ["saved_model", *FORMATS] == [row["export"] for row in figures["parity"]]
    assert {"keras", "tensorflow", "python"} == set(figures["made_with"])


def test_accuracy_of_the_card_is_right(version: _Published) -> None:
    """The accuracy on the card is that of Keras on the whole test set."""
    test = version.dataset.test
    scores = version.trained.model(
        test.inputs(version.dataset.contract), training=False
    ).numpy()

    accuracy = (scores.argmax(axis=1) == test.labels).mean()

    found = version.files.metrics()["accuracy"]["keras"]
    assert found == pytest.approx(accuracy, abs=1e-9)
