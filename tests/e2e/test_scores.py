# SPDX-License-Identifier: Apache-2.0
"""Pictures with several labels or none, and with one of two, alike over every protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import inkling
from inkling.answers import answers
from inkling.errors import InklingError, InternalError
from inkling.gateway.channel import prediction_of
from inkling.model.repository import Repository
from inkling.types import ClassifyOptions, Prediction
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from tests.support.colour_models import COLOURS, colour, logits
from tests.support.gateway_process import serving
from tests.support.machine import until
from tests.support.official_server import OfficialServer

_PICTURES = {
    "purple": (230, 20, 210),
    "red": (250, 90, 90),
    "yellow": (200, 240, 10),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
_THRESHOLDS = (0.5, 0.0, 0.995, 1.0)
_NOBODY = "127.0.0.1:9"

_Scores = list[tuple[str, float]]


@dataclass(frozen=True)
class Bench:
    """Two gateways over the same models: embedded, and before TensorFlow Serving."""

    embedded: Any
    before_serving: Any
    models_dir: Path
    pictures: dict[str, Path]

    def device(self, model: str = "several") -> Path:
        return Repository(self.models_dir).newest(model).path


@pytest.fixture(scope="module")
def bench(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The gateways, and a picture of each colour."""
    folder, pictures = tmp_path_factory.mktemp("scores"), {}
    for name, shares in _PICTURES.items():
        pictures[name] = folder / f"{name}.png"
        colour(*shares).save(pictures[name])
    engine = OfficialServer(colours)
    flags = ["--engine", "tensorflow_serving", "--served-models", "several,pair"]
    flags += ["--tensorflow-serving", engine.address]
    with (
        serving(colours, log=folder / "embedded.log") as embedded,
        serving(folder, *flags, log=folder / "serving.log") as before_serving,
    ):
        until(lambda: before_serving.request("GET", "/readyz").status == 200)
        yield Bench(embedded, before_serving, colours, pictures)
    engine.stop()


def _expected(picture: str, threshold: float) -> _Scores:
    """Return the labels at or above a threshold, as the weights say."""
    scores = 1 / (1 + np.exp(-logits("several", *_PICTURES[picture])))
    found = [one for one in zip(COLOURS, scores, strict=True) if one[1] >= threshold]
    return sorted(found, key=lambda one: -one[1])


def _of_json(answer: Any) -> Prediction:
    """Return the prediction of a JSON answer, whose other fields fit to its labels."""
    assert answer.status == 200, answer.json
    [result] = answer.json["results"]
    top, labels = (
        tuple(inkling.Score(s["label"], s["index"], s["probability"]) for s in found)
        for found in (result["top"], result["labels"])
    )
    best = top[0] if labels else None
    assert (result["label"], result["index"]) == (
        (best.label, best.index) if best else (None, None)
    )
    assert result["probability"] == top[0].probability
    names = ("model", "version", "contract")
    origin = inkling.Origin(*(answer.json[name] for name in names))
    return Prediction(top, origin, result.get("abstained"), labels)


def _http_query(bench: Bench, picture: Path, threshold: float) -> Prediction:
    path = f"/v1/models/several:classify?threshold={threshold}"
    return _of_json(bench.embedded.request("POST", path, picture.read_bytes()))


def _http_json(bench: Bench, picture: Path, threshold: float) -> Prediction:
    image = {"b64": base64.b64encode(picture.read_bytes()).decode()}
    body = json.dumps({"threshold": threshold, "images": [image]}).encode()
    path = "/v1/models/several:classify"
    return _of_json(bench.embedded.request("POST", path, body))


def _http_form(bench: Bench, picture: Path, threshold: float) -> Prediction:
    head = 'Content-Disposition: form-data; name="{}"{}\r\n\r\n'
    parts = [head.format("threshold", "").encode() + str(threshold).encode()]
    parts += [head.format("a", '; filename="a.png"').encode() + picture.read_bytes()]
    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    path = "/v1/models/several:classify"
    return _of_json(bench.embedded.request("POST", path, body, headers))


def _explain(bench: Bench, picture: Path, threshold: float) -> Prediction:
    path = f"/v1/models/several:explain?threshold={threshold}"
    return _of_json(bench.embedded.request("POST", path, picture.read_bytes()))


def _stream(bench: Bench, picture: Path, threshold: float) -> Prediction:
    asked = pb.ClassifyRequest(
        model="several", images=[picture.read_bytes()], threshold=threshold
    )
    with grpc.insecure_channel(bench.embedded.grpc_target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        request = pb.ClassifyStreamRequest(id="x", request=asked)
        [answer] = stub.ClassifyStream(iter([request]), timeout=10)
    [result] = answer.response.results
    top, labels = (
        tuple(inkling.Score(s.label, s.index, s.probability) for s in found)
        for found in (result.top, result.labels)
    )
    response = answer.response
    origin = inkling.Origin(response.model, response.version, response.contract)
    return Prediction(top, origin, result.abstained or None, labels)


def _library(
    connect: Callable[[Bench], Any],
) -> Callable[[Bench, Path, float], Prediction]:
    def ask(bench: Bench, picture: Path, threshold: float) -> Prediction:
        with connect(bench) as classifier:
            one: Prediction = classifier.classify(picture, threshold=threshold)
            [many] = classifier.classify_many([picture], threshold=threshold)
            assert one == many
            return one

    return ask


def _aio(bench: Bench, picture: Path, threshold: float) -> Prediction:
    async def ask() -> Prediction:
        target = bench.embedded.grpc_target
        async with inkling.AioClassifier(target, model="several") as classifier:
            one = await classifier.classify(picture, threshold=threshold)
            many = classifier.classify_many([picture], threshold=threshold)
            assert [one] == [p async for p in many]
            return one

    return asyncio.run(ask())


def _connected(place: str) -> Callable[[Bench], Any]:
    def connect(bench: Bench) -> Any:
        device = bench.device()
        targets = {
            "gRPC": bench.embedded.grpc_target,
            "HTTP": bench.embedded.url,
            "TensorFlow Serving, gRPC": bench.before_serving.grpc_target,
            "TensorFlow Serving, HTTP": bench.before_serving.url,
            "device": device,
            "fallback": _NOBODY,
        }
        fallback = {"fallback": device} if place == "fallback" else {}
        return inkling.connect(targets[place], model="several", **fallback)

    return connect


_LIBRARY = (
    *("gRPC", "HTTP", "TensorFlow Serving, gRPC", "TensorFlow Serving, HTTP"),
    *("device", "fallback"),
)
_WAYS: dict[str, Callable[[Bench, Path, float], Prediction]] = {
    "query": _http_query,
    "JSON": _http_json,
    "form": _http_form,
    "explain": _explain,
    "stream": _stream,
    "asyncio": _aio,
    **{place: _library(_connected(place)) for place in _LIBRARY},
}


@pytest.mark.parametrize("way", _WAYS)
def test_every_way_gives_the_same_labels(way: str, bench: Bench) -> None:
    """All labels at or above the threshold, as the weights say; else a reason."""
    for name in _PICTURES:
        # The address at which nobody answers is tried for each picture.
        for threshold in _THRESHOLDS[: 1 if way == "fallback" else None]:
            expected = _expected(name, threshold)

            found = _WAYS[way](bench, bench.pictures[name], threshold)

            assert found.labels is not None
            assert [label for label, _ in expected] == [s.label for s in found.labels]
            assert [score for _, score in expected] == pytest.approx(
                [score.probability for score in found.labels], abs=1e-4
            )
            assert found.abstained == (None if expected else "below_threshold")
            assert (found.label is None) == (not expected)
            assert 1 == len(found.top)


def test_engines_and_protocols_agree_to_the_last_digits(bench: Bench) -> None:
    """HTTP and gRPC give equal predictions; the device differs by its origin only."""
    picture = bench.pictures["purple"]
    found = {
        way: _WAYS[way](bench, picture, 0.5) for way in ("query", "gRPC", "device")
    }

    device = replace(found["device"].origin, answered_by="gateway")
    assert found["query"] == found["gRPC"] == replace(found["device"], origin=device)


@pytest.mark.parametrize("way", ["gRPC", "HTTP", "device"])
def test_without_a_threshold_nothing_changes(way: str, bench: Bench) -> None:
    """The most probable labels are given as of any model, whatever they sum to."""
    with _connected(way)(bench) as classifier:
        found = classifier.classify(bench.pictures["white"], 3)

    assert found.labels is None
    assert (found.label, found.abstained) == ("red", None)
    assert sum(score.probability for score in found.top) > 2.9


def test_an_older_gateway_is_noticed() -> None:
    """A gateway that ignores the threshold over gRPC must not look like one that obeys."""
    response = pb.ClassifyResponse(model="several", version=1, contract="sha256:x")
    response.results.add().top.add(label="red", index=0, probability=0.9)

    with pytest.raises(InternalError, match="does not know thresholds"):
        prediction_of(response, ClassifyOptions(threshold=0.5))
    assert prediction_of(response, ClassifyOptions()).label == "red"


def test_abstention_takes_the_labels_away(bench: Bench) -> None:
    """A model of which a score is known below which it is unsure gives no label then."""
    contract = Repository(bench.models_dir).newest("several").contract()
    unsure = replace(contract, abstain_below=0.99)
    scores = np.array([[0.98, 0.6, 0.1], [0.995, 0.6, 0.1]], np.float32)
    options = ClassifyOptions(abstain=True, threshold=0.5)
    origin = inkling.Origin("several", 1, unsure.hash)
    inputs = np.zeros((2, *unsure.input_shape), np.float32)
    first, second = answers(scores, inputs, unsure, options, origin)

    assert (first.labels, first.abstained, first.label) == ((), "unsure", None)
    assert [s.label for s in second.labels or ()] == ["red", "green"]
    assert second.abstained is None


_REFUSALS = {
    "a word": ("several", "half", "number, 0 to 1"),
    "more than 1": ("several", "1.5", "threshold is 1.5"),
    "negative": ("several", "-0.5", "number, 0 to 1"),
    "not a number": ("several", "nan", "number, 0 to 1"),
    "one label of several": ("photos", "0.5", "labels exclude each other"),
    "one label of two": ("pair", "0.5", "labels exclude each other"),
}


@pytest.mark.parametrize("case", _REFUSALS)
@pytest.mark.parametrize("verb", ["classify", "explain"])
def test_refusals_over_http(case: str, verb: str, bench: Bench) -> None:
    """A threshold that cannot be is `invalid_request`; the message says what can."""
    model, threshold, words = _REFUSALS[case]
    path = f"/v1/models/{model}:{verb}?threshold={threshold}"

    found = bench.embedded.request("POST", path, bench.pictures["red"].read_bytes())

    assert (400, "invalid_request") == (found.status, found.json["error"]["code"])
    assert words in found.json["error"]["message"]


@pytest.mark.parametrize("value", ["true", '"0.5"', "null", "1e999", "[0.5]"])
def test_odd_values_in_json_are_refused(value: str, bench: Bench) -> None:
    """Only a number of JSON from 0 to 1 is a threshold."""
    body = f'{{"images": [{{"b64": "QQ=="}}], "threshold": {value}}}'.encode()

    found = bench.embedded.request("POST", "/v1/models/several:classify", body)

    assert (400, "invalid_request") == (found.status, found.json["error"]["code"])


@pytest.mark.parametrize("place", ["gRPC", "HTTP", "device", "fallback"])
@pytest.mark.parametrize("value", [True, "0.5", -0.1, 1.01, float("nan")])
def test_odd_values_are_refused_in_python(place: str, value: Any, bench: Bench) -> None:
    """Every kind of classifier refuses such a value before it sends anything."""
    with (
        _connected(place)(bench) as classifier,
        pytest.raises(InklingError, match="expected a number from 0 to 1") as caught,
    ):
        classifier.classify(bench.pictures["red"], threshold=value)

    assert "invalid_request" == caught.value.code


@pytest.mark.parametrize("place", ["gRPC", "HTTP", "device"])
def test_two_labels_exclude_each_other(place: str, bench: Bench) -> None:
    """One probability for the second of two labels is served as a score for each."""
    targets = {"gRPC": bench.embedded.grpc_target, "HTTP": bench.embedded.url}
    target = targets.get(place, bench.device("pair"))
    for name, shares in _PICTURES.items():
        light = 1 / (1 + np.exp(-logits("pair", *shares)[0]))
        with inkling.connect(target, model="pair") as classifier:
            found = classifier.classify(bench.pictures[name], 2)

        assert found.label == ("light" if light > 0.5 else "dark")
        by_label = {score.label: score.probability for score in found.top}
        assert by_label == pytest.approx({"dark": 1 - light, "light": light}, abs=1e-4)


def _command(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inkling", "classify", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_prints_all_labels(bench: Bench) -> None:
    """A row has every label at or above the threshold, or the reason for none."""
    device = ("--on-device", bench.device(), "--threshold", "0.5")
    purple, black = bench.pictures["purple"], bench.pictures["black"]

    rows = _command(purple, black, *device).stdout.splitlines()
    [line] = _command(purple, *device, "--json").stdout.splitlines()
    refused = _command(purple, "--on-device", bench.device("pair"), "--threshold", 0.5)

    assert rows[0].startswith(f"{purple}  red ")
    assert "%  blue " in rows[0]
    assert "green" not in rows[0]
    assert rows[1] == f"{black}  -  below_threshold 0%"
    assert [one["label"] for one in json.loads(line)["labels"]] == ["red", "blue"]
    assert (1, True) == (refused.returncode, "exclude each other" in refused.stderr)


def test_the_list_of_models_says_what_scores_mean(bench: Bench) -> None:
    """A page or a script learns from it which models take a threshold."""
    models = bench.embedded.request("GET", "/v1/models").json["models"]

    found = {one["name"]: one["versions"][0]["outputs"] for one in models}
    assert found == {"several": "sigmoid", "pair": "softmax", "photos": "softmax"}


def _asked_to_abstain(bench: Bench, place: str, model: str) -> Any:
    targets = {"gRPC": bench.embedded.grpc_target, "HTTP": bench.embedded.url}
    return inkling.connect(targets.get(place, bench.device(model)), model=model)


@pytest.mark.parametrize("place", ["gRPC", "HTTP", "device"])
def test_pictures_tell_when_a_given_model_is_unsure(
    place: str, bench: Bench, tmp_path: Path
) -> None:
    """A model published with pictures abstains from others, if the caller allows it."""
    colour(110, 110, 110).save(tmp_path / "grey.png")
    with _asked_to_abstain(bench, place, "photos") as classifier:
        known = classifier.classify(bench.pictures["red"], abstain=True)
        unsure = classifier.classify(tmp_path / "grey.png", abstain=True)
        asked_plainly = classifier.classify(tmp_path / "grey.png")
        below = classifier.contract().abstain_below

    assert (known.label, known.abstained) == ("red", None)
    assert (unsure.label, unsure.abstained) == (None, "unsure")
    assert unsure.probability < below < known.probability
    assert asked_plainly.label == unsure.top[0].label


@pytest.mark.parametrize("place", ["gRPC", "HTTP", "device"])
@pytest.mark.parametrize("model", ["several", "pair"])
def test_without_pictures_a_given_model_cannot_abstain(
    place: str, model: str, bench: Bench
) -> None:
    """The refusal says what is missing, instead of an answer that is never unsure."""
    with (
        _asked_to_abstain(bench, place, model) as classifier,
        pytest.raises(InklingError, match="Publish it with --pictures") as caught,
    ):
        classifier.classify(bench.pictures["red"], abstain=True)

    assert "invalid_request" == caught.value.code
