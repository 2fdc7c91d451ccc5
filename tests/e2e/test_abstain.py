# SPDX-License-Identifier: Apache-2.0
"""A model abstains alike over every protocol, and only where a caller asks for it."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

import inkling
import inkling.gateway.aio
from inkling.errors import InklingError
from inkling.model.bundle import Bundle, read_bundle
from inkling.model.repository import CONTRACT_FILE, FORMATS, MANIFEST_FILE, Repository
from inkling.v1 import classifier_pb2 as pb
from inkling.v1.classifier_pb2_grpc import ClassifierStub
from tests.support.gateway_process import serving

# Any score but 1 is below this.
_NEVER_SURE = float(np.nextafter(np.float32(1), np.float32(0)))
_THRESHOLDS = {"lax": 0.0, "strict": _NEVER_SURE}
_NOBODY = "127.0.0.1:9"
_CASES = {
    ("lax", "digit"): None,
    ("lax", "blank"): "empty",
    ("lax", "two"): None,
    ("strict", "digit"): "unsure",
    ("strict", "blank"): "empty",
    ("strict", "two"): "several",
}


@dataclass(frozen=True)
class Bench:
    """A gateway with a model that is never sure and one that always is."""

    gateway: Any
    models_dir: Path
    pictures: dict[str, Path]

    def device(self, model: str) -> Path:
        return Repository(self.models_dir).newest(model).path


def _republish(published: Path, models_dir: Path, name: str, below: float) -> None:
    """Publish the MLP again under a name and with a threshold."""
    source = Repository(published).newest("mlp")
    contract = replace(source.contract(), abstain_below=below)
    with Repository(models_dir).publishing(name) as publication:
        leave = shutil.ignore_patterns(MANIFEST_FILE)
        shutil.copytree(source.path, publication.path, ignore=leave, dirs_exist_ok=True)
        (publication.path / CONTRACT_FILE).write_text(contract.json)
        for kind in FORMATS:
            path = publication.path / "tflite" / f"{kind}.tflite"
            model = read_bundle(path.read_bytes()).model
            path.write_bytes(Bundle(model, name, kind, contract).to_bytes())
        publication.commit()


@pytest.fixture(scope="module")
def bench(
    published: Path, sample: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """A gateway over both models, and a picture of each kind."""
    folder = tmp_path_factory.mktemp("abstain")
    for name, below in _THRESHOLDS.items():
        _republish(published, folder / "models", name, below)
    strokes = np.zeros((28, 28), np.uint8)
    strokes[4:24, 6:9] = strokes[4:24, 18:21] = 255
    shown = {"digit": sample, "blank": np.full((90, 120), 255, np.uint8)}
    pictures = {}
    for name, pixels in {**shown, "two": strokes}.items():
        pictures[name] = folder / f"{name}.png"
        Image.fromarray(pixels).save(pictures[name])
    with serving(folder / "models", log=folder / "log") as gateway:
        yield Bench(gateway, folder / "models", pictures)


_Outcome = tuple[str | None, str | None]


def _of_json(answer: Any) -> _Outcome:
    [result] = answer.json["results"]
    assert (result["index"] is None) == (result["label"] is None)
    assert result["probability"] == result["top"][0]["probability"]
    return result["label"], result.get("abstained")


def _http_query(bench: Bench, model: str, picture: Path) -> _Outcome:
    path = f"/v1/models/{model}:classify?top_k=2&abstain=true"
    return _of_json(bench.gateway.request("POST", path, picture.read_bytes()))


def _http_json(bench: Bench, model: str, picture: Path) -> _Outcome:
    image = {"b64": base64.b64encode(picture.read_bytes()).decode()}
    body = json.dumps({"abstain": True, "images": [image]}).encode()
    path = f"/v1/models/{model}:classify"
    return _of_json(bench.gateway.request("POST", path, body))


def _explain(bench: Bench, model: str, picture: Path) -> _Outcome:
    path = f"/v1/models/{model}:explain?abstain=true"
    return _of_json(bench.gateway.request("POST", path, picture.read_bytes()))


def _stream(bench: Bench, model: str, picture: Path) -> _Outcome:
    asked = pb.ClassifyRequest(model=model, images=[picture.read_bytes()], abstain=True)
    with grpc.insecure_channel(bench.gateway.grpc_target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        request = pb.ClassifyStreamRequest(id="x", request=asked)
        [answer] = stub.ClassifyStream(iter([request]), timeout=10)
    [result] = answer.response.results
    return (None if result.abstained else result.top[0].label), result.abstained or None


def _library(
    connect: Callable[[Bench, str], Any],
) -> Callable[[Bench, str, Path], _Outcome]:
    def ask(bench: Bench, model: str, picture: Path) -> _Outcome:
        with connect(bench, model) as classifier:
            one = classifier.classify(picture, abstain=True)
            [many] = classifier.classify_many([picture], abstain=True)
            assert one == many
            return one.label, one.abstained

    return ask


def _aio(bench: Bench, model: str, picture: Path) -> _Outcome:
    async def ask() -> _Outcome:
        target = bench.gateway.grpc_target
        async with inkling.AioClassifier(target, model=model) as classifier:
            one = await classifier.classify(picture, abstain=True)
            many = [p async for p in classifier.classify_many([picture], abstain=True)]
            assert [one] == many
            return one.label, one.abstained

    return asyncio.run(ask())


def _command(bench: Bench, model: str, picture: Path) -> _Outcome:
    words = ["classify", picture, "--on-device", bench.device(model), "--abstain"]
    shown = [_inkling(*words, *more) for more in ([], ["--top-k", "2"], ["--json"])]
    found = json.loads(shown[2])
    reason = found.get("abstained")
    if reason:
        row = f"{picture}  -  {reason} {found['probability']:.0%}"
        assert f"{row}\n" == shown[0]
        assert shown[1].startswith(f"{row}  ({found['top'][0]['label']} ")
    else:
        assert shown[0].startswith(f"{picture}  {found['label']}  ")
    return found["label"], reason


def _inkling(*words: object) -> str:
    command = [sys.executable, "-m", "inkling", *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _remote(bench: Bench, model: str) -> Any:
    return inkling.connect(bench.gateway.grpc_target, model=model)


def _device(bench: Bench, model: str) -> Any:
    return inkling.connect(bench.device(model))


def _fallback(bench: Bench, model: str) -> Any:
    return inkling.connect(_NOBODY, model=model, fallback=bench.device(model))


_WAYS: dict[str, Callable[[Bench, str, Path], _Outcome]] = {
    "HTTP, query": _http_query,
    "HTTP, JSON": _http_json,
    "HTTP, explain": _explain,
    "gRPC": _library(_remote),
    "stream": _stream,
    "asyncio": _aio,
    "device": _library(_device),
    "fallback": _library(_fallback),
    "command": _command,
}


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize(("model", "picture"), _CASES)
def test_every_way_abstains_alike(
    way: str, model: str, picture: str, bench: Bench
) -> None:
    """Every protocol gives the same reason to abstain, or the same label as without."""
    with _device(bench, model) as classifier:
        label = classifier.classify(bench.pictures[picture]).label
    reason = _CASES[model, picture]

    found = _WAYS[way](bench, model, bench.pictures[picture])

    assert (None if reason else label, reason) == found


def test_who_does_not_ask_is_answered_as_ever(bench: Bench) -> None:
    """Without the parameter, or with false, the answer is the same as without abstention."""
    body = bench.pictures["blank"].read_bytes()
    path = "/v1/models/strict:classify"
    answers = [
        bench.gateway.request("POST", path + query, body).body
        for query in ("", "?abstain=false", "?abstain=false&abstain=false")
    ]
    asked = pb.ClassifyRequest(model="strict", images=[body])
    with grpc.insecure_channel(bench.gateway.grpc_target) as channel:
        stub = ClassifierStub(channel)  # type: ignore[no-untyped-call]
        [result] = stub.Classify(asked).results

    assert 1 == len(set(answers))
    [found] = json.loads(answers[0])["results"]
    assert ["label", "index", "probability", "top"] == list(found)
    assert ["top"] == [name.name for name, _ in result.ListFields()]


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("?abstain=yes", b"x"),
        ("?abstain=", b"x"),
        ("?abstain=True", b"x"),
        ("", b'{"images": [], "abstain": 1}'),
        ("", b'{"images": [], "abstain": "true"}'),
        ("", b'{"images": [], "abstain": null}'),
    ],
)
def test_odd_values_are_refused_over_http(
    query: str, body: bytes, bench: Bench
) -> None:
    """A value other than true and false is `invalid_request`, and the message names both."""
    found = bench.gateway.request("POST", f"/v1/models/lax:classify{query}", body).json

    assert "invalid_request" == found["error"]["code"]
    assert "true or false" in found["error"]["message"]


@pytest.mark.parametrize("connect", [_remote, _device, _fallback])
@pytest.mark.parametrize("value", [1, "true", None])
def test_odd_values_are_refused_in_python(
    connect: Callable[[Bench, str], Any], value: Any, bench: Bench
) -> None:
    """Every kind of classifier refuses such a value with the same code."""
    with (
        connect(bench, "lax") as classifier,
        pytest.raises(InklingError, match="true or false") as caught,
    ):
        classifier.classify(bench.pictures["digit"], abstain=value)

    assert "invalid_request" == caught.value.code
