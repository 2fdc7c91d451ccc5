# SPDX-License-Identifier: Apache-2.0
"""Mutated bodies of every dialect against a live gateway; each case has a number.

To see one again: `_DIALECTS[name](number)` returns the very address and bytes.
"""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import numpy as np
import pytest

from inkling_serving.open_inference_wire import open_inference_pb2 as inference
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as serving
from inkling_serving.tensorflow_serving_wire.tensors import tensor_of
from tests.serving.dialects.pictures import b64, two_pictures
from tests.support.machine import TooSlow, memory_bytes

# An address, its headers, and a body.
Sent: TypeAlias = tuple[str, dict[str, str], bytes]

_MAX_SECONDS = 1.0
_MAX_GROWTH_MIB = 96
_WORDS = (
    *rb'[ ] { } , : " \\ null true NaN -Infinity 1e999 -1 0.5 "b64": "inputs":'.split(),
    *rb'"instances": "data": "shape":[9] "FP32" "UINT8" "BYTES" "parameters":{}'.split(),
    *(b"9" * 400, b"[" * 2000, b"[[]," * 3000, b"1," * 50_000, b"\xff", b"\0"),
    *(b'{"b64":"', b'"binary_data_size":9', b'"classification":99999999'),
)
_LENGTH = "Inference-Header-Content-Length"
_INVOLUNTARY = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
}


def _mutated(data: bytes, dice: random.Random) -> bytes:
    """Return `data` with words put in, and parts cut out, doubled or flipped."""
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        place = dice.randrange(len(found) + 1)
        end = min(len(found), place + dice.choice((1, 3, 10, 50)))
        kind = dice.randrange(4)
        if kind == 0:
            found[place:place] = dice.choice(_WORDS)
        elif kind == 1:
            found[place:end] = b""
        elif kind == 2:
            found[place:place] = found[place:end] * dice.choice((1, 2, 40))
        elif found:
            found[place % len(found)] ^= 1 << dice.randrange(8)
    return bytes(found)


def _serving_rest(number: int) -> Sent:
    dice = random.Random(number)
    picture, floats = {"b64": b64(two_pictures()[0])}, np.zeros((28, 28, 1)).tolist()
    document = dice.choice(
        (
            {"instances": [picture, picture]},
            {"instances": [floats]},
            {"signature_name": "serving_default", "inputs": {"inputs": [picture]}},
            {"signature_name": "contract", "instances": [0, 1]},
        )
    )
    body = _mutated(json.dumps(document).encode(), dice)
    return "/v1/models/mlp:predict", {}, body


def _inference_rest(number: int) -> Sent:
    dice = random.Random(number)
    picture = two_pictures()[0]
    raw = len(picture).to_bytes(4, "little") + picture
    one: dict[str, Any] = {"name": "inputs", "datatype": "BYTES", "shape": [1]}
    output = {
        "name": "scores",
        "parameters": {"classification": 3, "binary_data": True},
    }
    document = {"id": "1", "inputs": [one], "outputs": [output]}
    is_binary = dice.random() < 0.5
    if is_binary:
        one["parameters"] = {"binary_data_size": len(raw)}
    elif dice.random() < 0.5:
        one["data"] = [b64(picture)]
    else:
        one |= {"datatype": "FP32", "shape": [1, 28, 28, 1], "data": [0.5] * 784}
    text = json.dumps(document).encode()
    headers = {}
    if is_binary:
        length = dice.choice((len(text), len(text), len(text), 0, 1, len(text) + 9))
        headers = {_LENGTH: str(length)}
        text += raw
    return "/v2/models/mlp/infer", headers, _mutated(text, dice)


def _repository_rest(number: int) -> Sent:
    dice = random.Random(number)
    body = _mutated(b'{"ready": true, "parameters": {"config": "{}"}}', dice)
    path = dice.choice(("index", "models/mlp/load", "models/mlp/unload"))
    return f"/v2/repository/{path}", {}, body


def _serving_grpc(number: int) -> Sent:
    request = serving.PredictRequest()
    request.model_spec.name = "mlp"
    inputs = np.zeros((1, 28, 28, 1), np.float32)
    request.inputs["inputs"].CopyFrom(tensor_of(inputs))
    body = _mutated(request.SerializeToString(), random.Random(number))
    return "/tensorflow.serving.PredictionService/Predict", {}, body


def _inference_grpc(number: int) -> Sent:
    dice = random.Random(number)
    request = inference.ModelInferRequest(model_name="mlp", id="1")
    one = request.inputs.add(name="inputs", datatype="BYTES", shape=[1])
    picture = two_pictures()[0]
    if dice.random() < 0.5:
        one.contents.bytes_contents.append(picture)
    else:
        raw = len(picture).to_bytes(4, "little") + picture
        request.raw_input_contents.append(raw)
    request.outputs.add(name="scores").parameters["classification"].int64_param = 3
    body = _mutated(request.SerializeToString(), dice)
    return "/inference.GRPCInferenceService/ModelInfer", {}, body


_DIALECTS: dict[str, Callable[[int], Sent]] = {
    "TensorFlow Serving's REST": _serving_rest,
    "TensorFlow Serving's gRPC": _serving_grpc,
    "Open Inference over REST": _inference_rest,
    "Open Inference over gRPC": _inference_grpc,
    "repository over REST": _repository_rest,
}


def _http_fault(connection: http.client.HTTPConnection, sent: Sent) -> str:
    """Return what is wrong with the answer; empty where nothing is."""
    path, headers, body = sent
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status == 200:
        return ""
    code = response.getheader("x-inkling-error-code")
    is_right = 400 <= response.status < 500 and code
    is_right = is_right and isinstance(json.loads(answer)["error"], str)
    return "" if is_right else f"{response.status} {answer!r:.80}"


def _grpc_fault(channel: grpc.Channel, sent: Sent) -> str:
    method, _, body = sent
    try:
        channel.unary_unary(method)(body, timeout=10)
    except grpc.RpcError as error:
        codes = dict(error.trailing_metadata() or ())
        if error.code() in _INVOLUNTARY or "inkling-error-code" not in codes:
            return f"{error.code().name} {error.details():.80}"
    return ""


@contextmanager
def _asking(own: Any, dialect: str) -> Iterator[Callable[[Sent], str]]:
    if dialect.endswith("gRPC"):
        with grpc.insecure_channel(own.grpc_target) as channel:
            yield lambda sent: _grpc_fault(channel, sent)
        return
    connection = http.client.HTTPConnection("127.0.0.1", own.port, timeout=30)
    yield lambda sent: _http_fault(connection, sent)
    connection.close()


@pytest.fixture(scope="module")
def own(
    serve_gateway: Callable[..., Any],
    published: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """A gateway whose memory no other test uses."""
    log = tmp_path_factory.mktemp("mutants") / "log"
    with serve_gateway(published, log=log) as process:
        yield process


@pytest.mark.parametrize("dialect", _DIALECTS)
@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(100), id="100"),
        pytest.param(range(100, 10_100), id="10,000", marks=pytest.mark.soak),
    ],
)
def test_mutated_bodies(own: Any, dialect: str, numbers: range) -> None:
    """A damaged body of any dialect is refused or understood, soon, and leaves no memory."""
    mutant = _DIALECTS[dialect]
    with _asking(own, dialect) as fault:
        fault(mutant(-1))
        before = memory_bytes(own.process.pid)
        for number in numbers:
            sent, began = mutant(number), time.monotonic()
            found = fault(sent)
            assert not found, (number, found)
            if time.monotonic() - began > _MAX_SECONDS:
                raise TooSlow(f"{number}: more than {_MAX_SECONDS} s")
    grown = memory_bytes(own.process.pid, "VmHWM") - before
    assert grown < _MAX_GROWTH_MIB * 2**20


def test_mutants_are_reproducible() -> None:
    """A number gives the same bytes every time, and different numbers differ."""
    for mutant in _DIALECTS.values():
        assert mutant(7) == mutant(7)
        assert len({str(mutant(number)) for number in range(50)}) > 30
