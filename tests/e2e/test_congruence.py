# SPDX-License-Identifier: Apache-2.0
"""The same pictures get the same answers on every path, within the contract's tolerance.

The reference is the SavedModel that Keras exported, run by TensorFlow in this process
on what `inkling.image.preprocess` makes of each picture.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import inkling
from examples.lesson_04_network import forward
from inkling.image.preprocess import to_input
from inkling.model.repository import Repository, VersionFiles
from inkling.types import Prediction
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from inkling_serving.open_inference_wire import open_inference_pb2 as inference
from tests.support.gateway_process import serving
from tests.support.machine import until
from tests.support.official_server import OfficialServer

Pictures: TypeAlias = Sequence[bytes]
Scores: TypeAlias = np.ndarray

_EXACT = (
    "serving REST",
    "v2 REST",
    "v2 REST, binary",
    "v2 gRPC",
    "HTTP",
    "HTTP, 8 at once",
    "gRPC",
    "gRPC stream",
    "device float32",
    "TF Serving",
)
_ROUNDED = ("device float16", "device int8")
_BUNDLED = ("digits", "enlarged")
# The short form takes every tenth or third picture of the full sets, the long form all.
_STEPS = {"mnist": 10, "drawn": 10, "phones": 3}


@dataclass
class Bench:
    """Everything that answers, and the differences that were measured."""

    published: Path
    over_http: Any
    over_serving: Any
    rows: dict[tuple[str, str, str], tuple[int, int, float]] = field(
        default_factory=dict
    )

    def files(self, model: str) -> VersionFiles:
        return Repository(self.published).newest(model)


@pytest.fixture(scope="module")
def bench(
    published: Path, gateway: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """An embedded gateway, and one before a SavedModel behind the official servicers."""
    folder = tmp_path_factory.mktemp("congruence")
    engine = OfficialServer(published)
    flags = ("--engine", "tensorflow_serving", "--tensorflow-serving", engine.address)
    with serving(folder, *flags, log=folder / "log") as process:
        until(lambda: process.request("GET", "/readyz").status == 200)
        yield Bench(published, gateway, process)
    engine.stop()


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _digits() -> list[np.ndarray]:
    from inkling_training.data.datasets import load

    return list(load("digits").test.pixels)


def _enlarged(pixels: np.ndarray, number: int) -> bytes:
    """A digit as people send it: dark on light, larger, off centre, in many kinds."""
    side = 120 + 7 * number
    digit = Image.fromarray(255 - pixels).resize((side, side), Image.Resampling.BICUBIC)
    paper = Image.new("L", (side + 40 + 3 * number, side + 90), 235)
    paper.paste(digit.point(lambda value: value * 235 // 255), (number, 2 * number))
    if number % 4 == 1:
        return _encoded(paper.convert("RGB"), "JPEG", quality=90)
    if number % 4 == 2:
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = paper.transpose(Image.Transpose.ROTATE_90)
        return _encoded(turned, "JPEG", quality=90, exif=exif)
    return _encoded(paper.convert("RGBA" if number % 4 == 3 else "L"), "PNG")


@pytest.fixture(scope="module")
def pictures(request: pytest.FixtureRequest) -> Callable[[str], Pictures]:
    """Return the encoded pictures of a set; one that needs full data is skipped."""
    found: dict[str, Pictures] = {}

    def load(name: str) -> Pictures:
        if name == "digits":
            return [_encoded(Image.fromarray(one), "PNG") for one in _digits()[:200]]
        if name == "enlarged":
            return [_enlarged(one, n) for n, one in enumerate(_digits()[-40:])]
        data_dir: Path = request.getfixturevalue("data_dir")
        kind, _, every = name.partition(", ")
        step = 1 if every else _STEPS[kind]
        if kind == "mnist":
            with np.load(data_dir / "mnist.npz", allow_pickle=False) as arrays:
                chosen = arrays["x_test"][:1000:step]
            return [_encoded(Image.fromarray(one), "PNG") for one in chosen]
        pattern = "drawn_*/*" if kind == "drawn" else "phone_photos/*"
        files = sorted((data_dir / "digit_pictures").glob(pattern))
        assert len(files) >= 100
        return [file.read_bytes() for file in files[::step]]

    def get(name: str) -> Pictures:
        if name not in found:
            found[name] = load(name)
        return found[name]

    return get


@pytest.fixture(scope="module")
def reference(
    bench: Bench, pictures: Callable[[str], Pictures]
) -> Callable[[str, str], Scores]:
    """Return what the SavedModel says of a set, in this process."""
    found: dict[tuple[str, str], Scores] = {}

    def get(model: str, name: str) -> Scores:
        if (model, name) not in found:
            files = bench.files(model)
            loaded = tf.saved_model.load(str(files.path))
            signature = loaded.signatures["serving_default"]
            contract = files.contract()
            inputs = np.stack([to_input(one, contract) for one in pictures(name)])
            scores = signature(inputs=tf.constant(inputs))["scores"]
            found[model, name] = scores.numpy()
        return found[model, name]

    return get


def _by_index(top: Sequence[Any]) -> list[float]:
    scores = [0.0] * len(top)
    for score in top:
        scores[score.index] = score.probability
    return scores


def _as_scores(predictions: Sequence[Prediction]) -> Scores:
    return np.array([_by_index(one.top) for one in predictions], np.float32)


def _http(port: int, model: str, bodies: Sequence[tuple[bytes, str]]) -> Scores:
    rows = []
    path = f"/v1/models/{model}:classify?top_k=10"
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for body, kind in bodies:
            connection.request("POST", path, body, {"Content-Type": kind})
            response = connection.getresponse()
            answer = json.loads(response.read())
            assert 200 == response.status, answer
            for result in answer["results"]:
                row = [0.0] * len(result["top"])
                for score in result["top"]:
                    row[score["index"]] = score["probability"]
                assert result["index"] == int(np.argmax(row))
                rows.append(row)
    return np.array(rows, np.float32)


def _over_http(bench: Bench, model: str, pictures: Pictures) -> Scores:
    bodies = [(one, "application/octet-stream") for one in pictures]
    return _http(bench.over_http.port, model, bodies)


def _over_http_in_batches(bench: Bench, model: str, pictures: Pictures) -> Scores:
    bodies = []
    for start in range(0, len(pictures), 8):
        images = [
            {"b64": base64.b64encode(one).decode()}
            for one in pictures[start : start + 8]
        ]
        bodies.append((json.dumps({"images": images}).encode(), "application/json"))
    return _http(bench.over_http.port, model, bodies)


def _over_grpc(bench: Bench, model: str, pictures: Pictures) -> Scores:
    with inkling.connect(bench.over_http.grpc_target, model=model, timeout_s=30) as c:
        return _as_scores(list(c.classify_many(pictures, 10)))


def _over_a_stream(bench: Bench, model: str, pictures: Pictures) -> Scores:
    requests = (
        pb.ClassifyStreamRequest(
            id=str(n), request=pb.ClassifyRequest(model=model, images=[one], top_k=10)
        )
        for n, one in enumerate(pictures)
    )
    found: dict[int, list[float]] = {}
    with grpc.insecure_channel(bench.over_http.grpc_target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        for answer in stub.ClassifyStream(requests, timeout=120):
            assert not answer.error.code, answer.error
            found[int(answer.id)] = _by_index(answer.response.results[0].top)
    return np.array([found[n] for n in range(len(pictures))], np.float32)


def _post(bench: Bench, path: str, body: bytes, headers: dict[str, str]) -> Any:
    answer = bench.over_http.request("POST", path, body, headers)
    assert 200 == answer.status, answer.body
    return answer


def _eights(pictures: Pictures) -> Iterator[Pictures]:
    return (pictures[start : start + 8] for start in range(0, len(pictures), 8))


def _by_serving_rest(bench: Bench, model: str, pictures: Pictures) -> Scores:
    rows = []
    for eight in _eights(pictures):
        images = [{"b64": base64.b64encode(one).decode()} for one in eight]
        body = json.dumps({"instances": images}).encode()
        rows += _post(bench, f"/v1/models/{model}:predict", body, {}).json[
            "predictions"
        ]
    return np.array(rows, np.float32)


def _by_inference_rest(bench: Bench, model: str, pictures: Pictures) -> Scores:
    rows = []
    for eight in _eights(pictures):
        data = [base64.b64encode(one).decode() for one in eight]
        tensor = {"datatype": "BYTES", "shape": [len(eight)], "data": data}
        body = json.dumps({"inputs": [{"name": "inputs", **tensor}]}).encode()
        [output] = _post(bench, f"/v2/models/{model}/infer", body, {}).json["outputs"]
        rows.append(np.reshape(output["data"], output["shape"]))
    return np.concatenate(rows).astype(np.float32)


def _by_inference_in_bytes(bench: Bench, model: str, pictures: Pictures) -> Scores:
    rows, header = [], "inference-header-content-length"
    for one in pictures:
        path = f"/v2/models/{model}/infer"
        answer = _post(bench, path, one, {header: "0"})
        rows.append(np.frombuffer(answer.body[int(answer.headers[header]) :], "<f4"))
    return np.stack(rows)


def _by_inference_grpc(bench: Bench, model: str, pictures: Pictures) -> Scores:
    rows = []
    with grpc.insecure_channel(bench.over_http.grpc_target) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            inference.ModelInferRequest.SerializeToString,
            inference.ModelInferResponse.FromString,
        )
        for eight in _eights(pictures):
            request = inference.ModelInferRequest(model_name=model)
            one = request.inputs.add(
                name="inputs", datatype="BYTES", shape=[len(eight)]
            )
            one.contents.bytes_contents.extend(eight)
            answer = infer(request, timeout=30)
            found = np.frombuffer(answer.raw_output_contents[0], "<f4")
            rows.append(found.reshape(answer.outputs[0].shape))
    return np.concatenate(rows)


def _over_serving(bench: Bench, model: str, pictures: Pictures) -> Scores:
    with inkling.connect(
        bench.over_serving.grpc_target, model=model, timeout_s=30
    ) as c:
        return _as_scores(list(c.classify_many(pictures, 10)))


def _on_device(tflite_format: str) -> Callable[[Bench, str, Pictures], Scores]:
    def run(bench: Bench, model: str, pictures: Pictures) -> Scores:
        path = bench.files(model).path
        with inkling.connect(path, tflite_format=tflite_format) as classifier:
            return _as_scores(list(classifier.classify_many(pictures, 10)))

    return run


_PATHS: dict[str, Callable[[Bench, str, Pictures], Scores]] = {
    "HTTP": _over_http,
    "HTTP, 8 at once": _over_http_in_batches,
    "gRPC": _over_grpc,
    "gRPC stream": _over_a_stream,
    "serving REST": _by_serving_rest,
    "v2 REST": _by_inference_rest,
    "v2 REST, binary": _by_inference_in_bytes,
    "v2 gRPC": _by_inference_grpc,
    "device float32": _on_device("float32"),
    "TF Serving": _over_serving,
    "device float16": _on_device("float16"),
    "device int8": _on_device("int8"),
}


@pytest.mark.parametrize("path", _PATHS)
@pytest.mark.parametrize(
    # The CNN stands for both on the larger sets.
    ("model", "name"),
    [
        *[("cnn", name) for name in (*_BUNDLED, *_STEPS)],
        ("mlp", "digits"),
        *[
            pytest.param("cnn", f"{name}, every one", marks=pytest.mark.soak)
            for name in _STEPS
        ],
    ],
)
def test_every_path_gives_the_same_answer(
    model: str,
    name: str,
    path: str,
    bench: Bench,
    pictures: Callable[[str], Pictures],
    reference: Callable[[str, str], Scores],
) -> None:
    """The same labels as the SavedModel, and scores within the contract's tolerance."""
    shown = pictures(name)
    expected = reference(model, name)

    found = _PATHS[path](bench, model, shown)

    differ = int((expected.argmax(axis=1) != found.argmax(axis=1)).sum())
    worst = float(np.abs(expected - found).max())
    bench.rows[model, path, name] = (len(shown), differ, worst)
    tolerances = bench.files(model).contract().tolerances
    if path in _ROUNDED:
        assert worst <= tolerances[path.split()[1]]
    else:
        assert (0, True) == (differ, worst <= 1e-5), worst


@pytest.fixture(scope="module")
def by_numpy(bench: Bench, pictures: Callable[[str], Pictures]) -> Scores:
    """The digits' scores by lesson 4's forward pass, from the weights that are published."""
    files = bench.files("mlp")
    loaded = tf.saved_model.load(str(files.path))
    weights = [one.numpy() for one in loaded.signatures["serving_default"].variables]
    contract = files.contract()
    inputs = np.stack([to_input(one, contract) for one in pictures("digits")])
    outputs = forward(inputs.reshape(len(inputs), -1), weights)
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("path", _PATHS)
def test_numpy_is_the_oracle_of_the_served_mlp(
    path: str,
    bench: Bench,
    pictures: Callable[[str], Pictures],
    by_numpy: Scores,
) -> None:
    """Three matrix products and two ReLUs, written out in NumPy, give what every path answers."""
    found = _PATHS[path](bench, "mlp", pictures("digits"))

    worst = float(np.abs(by_numpy - found).max())
    tolerances = bench.files("mlp").contract().tolerances
    if path in _ROUNDED:
        assert worst <= tolerances[path.split()[1]]
    else:
        differ = (by_numpy.argmax(axis=1) != found.argmax(axis=1)).sum()
        assert (0, True) == (int(differ), worst <= 1e-5), worst


def test_the_table(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """The differences of every path on every set are printed; the bundled sets have run."""
    with capsys.disabled():
        print(
            f"\n{'model':5} {'path':16} {'set':17} pictures labels-differ worst-score"
        )
        for (model, path, name), (count, differ, worst) in sorted(bench.rows.items()):
            print(f"{model:5} {path:16} {name:17} {count:8} {differ:13} {worst:11.2g}")

    if bench.rows:
        assert {row[2] for row in bench.rows} >= set(_BUNDLED)
        assert {row[1] for row in bench.rows} == {*_EXACT, *_ROUNDED}
