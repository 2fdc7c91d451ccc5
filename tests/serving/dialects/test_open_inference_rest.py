# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol over REST, by its documents and Triton's extensions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inkling.image.preprocess import to_input
from inkling.model.repository import Repository
from tests.serving.dialects.pictures import b64, classified, two_pictures

_INFER = "/v2/models/mlp/infer"
_LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """A sample of the model's size, and a photo of a dark stroke."""
    return two_pictures()


@pytest.fixture(scope="module")
def inputs(published: Path, pictures: list[bytes]) -> np.ndarray:
    """What the contract makes of the pictures."""
    contract = Repository(published).newest("mlp").contract()
    return np.stack([to_input(one, contract) for one in pictures])


def _packed(texts: list[bytes]) -> bytes:
    return b"".join(len(one).to_bytes(4, "little") + one for one in texts)


def _document(datatype: str, shape: Any, **more: Any) -> dict[str, Any]:
    return {
        "inputs": [{"name": "inputs", "datatype": datatype, "shape": shape, **more}]
    }


def _post(gateway: Any, document: Any, raw: bytes = b"", **headers: str) -> Any:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    found = {name.replace("_", "-"): value for name, value in headers.items()}
    if raw:
        found.setdefault(_LENGTH, str(len(text)))
    return gateway.request("POST", _INFER, text + raw, found)


def _binary(datatype: str, shape: Any, raw: bytes) -> dict[str, Any]:
    size = {"binary_data_size": len(raw)}
    return _document(datatype, shape, parameters=size)


def test_every_form_gives_the_scores_of_classify(
    gateway: Any, pictures: list[bytes], inputs: np.ndarray
) -> None:
    """Pictures and inputs, in JSON flat or nested, or raw: one answer, that of `:classify`."""
    expected = classified(gateway, pictures)
    texts, raw = [b64(one) for one in pictures], _packed(pictures)
    floats = inputs.tobytes()
    forms: dict[str, tuple[Any, bytes]] = {
        "BYTES": (_document("BYTES", [2], data=texts), b""),
        "BYTES, nested": (_document("BYTES", [2, 1], data=[[t] for t in texts]), b""),
        "BYTES, raw": (_binary("BYTES", [2], raw), raw),
        "FP32": (_document("FP32", inputs.shape, data=inputs.tolist()), b""),
        "FP32, flat": (
            _document("FP32", inputs.shape, data=inputs.reshape(-1).tolist()),
            b"",
        ),
        "FP32, raw": (_binary("FP32", inputs.shape, floats), floats),
    }
    for name, (document, rest) in forms.items():
        answer = _post(gateway, document, rest)
        assert 200 == answer.status, (name, answer.body)
        [output] = answer.json["outputs"]
        assert ("scores", "FP32", [2, 10]) == (
            output["name"],
            output["datatype"],
            output["shape"],
        )
        found = np.reshape(output["data"], (2, 10))
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
        assert ("mlp", "1") == (answer.json["model_name"], answer.json["model_version"])


def test_pixels_get_the_contracts_scale(gateway: Any) -> None:
    """UINT8 pixels of the model's size, in JSON and raw, are the inputs times 255."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    floats = (pixels / np.float32(255)).astype(np.float32)
    expected = _post(gateway, _document("FP32", floats.shape, data=floats.tolist()))

    in_json = _post(gateway, _document("UINT8", pixels.shape, data=pixels.tolist()))
    raw = pixels.tobytes()
    binary = _post(gateway, _binary("UINT8", pixels.shape, raw), raw)

    for answer in (in_json, binary):
        np.testing.assert_allclose(
            answer.json["outputs"][0]["data"],
            expected.json["outputs"][0]["data"],
            atol=1e-5,
        )


@pytest.mark.parametrize("where", ["request", "output"])
def test_binary_outputs(gateway: Any, pictures: list[bytes], where: str) -> None:
    """`binary_data_output` and `binary_data` put the scores behind the JSON."""
    document = _document("BYTES", [1], data=[b64(pictures[0])])
    if where == "request":
        document["parameters"] = {"binary_data_output": True}
    else:
        document["outputs"] = [{"name": "scores", "parameters": {"binary_data": True}}]

    answer = _post(gateway, {**document, "id": "é-1"})

    length = int(answer.headers[_LENGTH.lower()])
    shown = json.loads(answer.body[:length])
    assert "application/octet-stream" == answer.headers["content-type"]
    assert ("é-1", {"binary_data_size": 40}) == (
        shown["id"],
        shown["outputs"][0]["parameters"],
    )
    scores = np.frombuffer(answer.body[length:], "<f4")
    expected = classified(gateway, pictures[:1])
    np.testing.assert_allclose(scores[np.newaxis], expected, atol=1e-5)


def test_output_decides_before_the_request(gateway: Any, pictures: list[bytes]) -> None:
    """An output that says that it is not binary stays in the JSON."""
    document = _document("BYTES", [1], data=[b64(pictures[0])])
    document["parameters"] = {"binary_data_output": True}
    document["outputs"] = [{"name": "scores", "parameters": {"binary_data": False}}]

    answer = _post(gateway, document)

    assert _LENGTH.lower() not in answer.headers
    assert 10 == len(answer.json["outputs"][0]["data"])


@pytest.mark.parametrize("kind", ["picture", "FP32", "UINT8"])
def test_length_zero_is_the_only_input(
    gateway: Any, pictures: list[bytes], inputs: np.ndarray, kind: str
) -> None:
    """The whole body is one picture, or inputs or pixels by their length; the answer is binary."""
    body = {
        "picture": pictures[0],
        "FP32": inputs[:1].tobytes(),
        "UINT8": np.rint(inputs[:1] * 255).astype(np.uint8).tobytes(),
    }[kind]

    answer = gateway.request("POST", _INFER, body, {_LENGTH: "0"})

    length = int(answer.headers[_LENGTH.lower()])
    scores = np.frombuffer(answer.body[length:], "<f4")
    expected = classified(gateway, pictures[:1])
    np.testing.assert_allclose(scores[np.newaxis], expected, atol=1e-5)


@pytest.mark.parametrize("binary", [False, True])
def test_classification(gateway: Any, pictures: list[bytes], binary: bool) -> None:
    """`classification` gives texts `score:index:label`, the likeliest first, at most all."""
    expected = classified(gateway, pictures)
    for wanted, given in ((3, 3), (99, 10)):
        document = _document("BYTES", [2], data=[b64(one) for one in pictures])
        parameters = {"classification": wanted, "binary_data": binary}
        document["outputs"] = [{"name": "scores", "parameters": parameters}]
        answer = _post(gateway, document)

        length = int(answer.headers.get(_LENGTH.lower(), len(answer.body)))
        output = json.loads(answer.body[:length])["outputs"][0]
        assert ("BYTES", [2, given]) == (output["datatype"], output["shape"])
        texts = output.get("data") or _unpacked(answer.body[length:])
        for row, place in ((0, 0), (1, given)):
            score, index, label = texts[place].split(":")
            assert int(index) == int(np.argmax(expected[row]))
            assert label == index
            assert float(score) == pytest.approx(expected[row].max(), abs=1e-5)


def _unpacked(raw: bytes) -> list[str]:
    texts, place = [], 0
    while place < len(raw):
        end = place + 4 + int.from_bytes(raw[place : place + 4], "little")
        texts.append(raw[place + 4 : end].decode())
        place = end
    return texts


def test_health_and_metadata(gateway: Any) -> None:
    """Server and model tell that they live, are ready, and what they take."""
    found = {
        path: gateway.request("GET", path).json
        for path in (
            *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/mlp"),
            *("/v2/models/mlp/ready", "/v2/models/mlp/versions/1/ready"),
            *("/v2/models/mlp/versions/1", "/v2/models/mlp/config"),
        )
    }

    assert "binary_tensor_data" in found["/v2"]["extensions"]
    assert {"live": True} == found["/v2/health/live"]
    assert {"ready": True} == found["/v2/health/ready"]
    ready = {"name": "mlp", "ready": True}
    assert ready == found["/v2/models/mlp/ready"]
    assert ready == found["/v2/models/mlp/versions/1/ready"]
    assert found["/v2/models/mlp"] == found["/v2/models/mlp/versions/1"]
    assert {
        "name": "mlp",
        "versions": ["1"],
        "platform": "tensorflow_savedmodel",
        "inputs": [{"name": "inputs", "datatype": "FP32", "shape": [-1, 28, 28, 1]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
    } == found["/v2/models/mlp"]
    assert [28, 28, 1] == found["/v2/models/mlp/config"]["input"][0]["dims"]
    assert 32 == found["/v2/models/mlp/config"]["max_batch_size"]


def test_repository(gateway: Any) -> None:
    """The index lists versions; a model is loaded already, and never unloaded."""
    index = gateway.request("POST", "/v2/repository/index", b'{"ready": true}').json
    load = gateway.request("POST", "/v2/repository/models/mlp/load")
    unload = gateway.request("POST", "/v2/repository/models/mlp/unload")
    brought = gateway.request(
        "POST", "/v2/repository/models/mlp/load", b'{"parameters": {"config": "{}"}}'
    )

    row = {"name": "mlp", "version": "1", "state": "READY", "reason": ""}
    assert row in index
    assert (200, {}) == (load.status, load.json)
    assert [400, 400] == [unload.status, brought.status]
    assert "cannot be unloaded" in unload.json["error"]
    assert "inkling publish" in brought.json["error"]


def test_statistics_count_requests_of_every_protocol(
    start_gateway: Any, published: Path, pictures: list[bytes]
) -> None:
    """Pictures, answers, refusals and durations, which only grow."""
    with start_gateway(published) as own:

        def shown() -> dict[str, Any]:
            answer = own.request("GET", "/v2/models/mlp/versions/1/stats")
            [found] = answer.json["model_stats"]
            return dict(found)

        assert 0 == shown()["inference_count"]
        _post(own, _document("BYTES", [2], data=[b64(one) for one in pictures]))
        own.request("POST", "/v1/models/mlp:classify", pictures[0])
        own.request("POST", "/v1/models/mlp:classify", b"hello")
        found = shown()
        every = own.request("GET", "/v2/models/stats").json["model_stats"]

    assert (3, 2) == (found["inference_count"], found["execution_count"])
    counts = {name: one["count"] for name, one in found["inference_stats"].items()}
    assert (2, 1, 3) == (counts["success"], counts["fail"], counts["compute_infer"])
    assert 0 < found["inference_stats"]["compute_infer"]["ns"]
    assert (
        found["inference_stats"]["compute_infer"]["ns"]
        < (found["inference_stats"]["success"]["ns"])
    )
    assert found["last_inference"] > 1_700_000_000_000
    assert ["cnn", "mlp"] == [one["name"] for one in every]


_ZEROS = [0.0] * 784
_SHAPE = [1, 28, 28, 1]
_BAD_DATA = {"name": "inputs", "datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]}
_REFUSED: dict[str, tuple[Any, str, str]] = {
    "empty": (b"", "invalid_request", "empty"),
    "no JSON": (b"{", "invalid_request", "JSON Parse error"),
    "no inputs": ({}, "invalid_request", "expected 1 inputs but got 0"),
    "two inputs": ({"inputs": [{}, {}]}, "invalid_request", "got 2"),
    "inputs of numbers": ({"inputs": [1]}, "invalid_request", "no list of objects"),
    "another name": (
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]},
        "invalid_request",
        "unexpected inference input 'x'",
    ),
    "another type": (_document("INT64", [1], data=[1]), "invalid_request", "INT64"),
    "no type": (_document(5, [1], data=[1]), "invalid_request", "no text"),
    "no shape": (_document("FP32", None, data=[1]), "invalid_request", "whole numbers"),
    "shape of truth": (_document("FP32", [True]), "invalid_request", "whole numbers"),
    "negative shape": (_document("FP32", [-1]), "invalid_request", "negative"),
    "long shape": (_document("FP32", [1] * 9), "invalid_request", "1 to 8"),
    "vast shape": (_document("FP32", [1 << 62] * 4), "too_large", "values"),
    "no data": (_document("FP32", _SHAPE), "invalid_request", "no list 'data'"),
    "too few": (
        _document("FP32", _SHAPE, data=[1.0]),
        "invalid_request",
        "unexpected number of elements 1",
    ),
    "texts": (_document("FP32", [1], data=["1"]), "invalid_request", "not numbers"),
    "no texts": (_document("BYTES", [1], data=[1]), "invalid_request", "base64"),
    "no base64": (_document("BYTES", [1], data=["?"]), "invalid_request", "base64"),
    "too many texts": (
        _document("BYTES", [1], data=["", ""]),
        "invalid_request",
        "unexpected number of elements 2",
    ),
    "no picture": ({"inputs": [_BAD_DATA]}, "invalid_image", "PNG"),
    "another size": (
        _document("FP32", [1, 784], data=_ZEROS),
        "invalid_request",
        "(n, 28, 28, 1)",
    ),
    "pixels of another size": (
        _document("UINT8", [1, 784], data=[0] * 784),
        "invalid_request",
        "uint8",
    ),
    "out of range": (
        _document("FP32", _SHAPE, data=[7.0] * 784),
        "invalid_request",
        "outside",
    ),
    "NaN": (
        _document("FP32", _SHAPE, data=[float("nan")] * 784),
        "invalid_request",
        "NaN",
    ),
    "pixels that are none": (
        _document("UINT8", _SHAPE, data=[256] * 784),
        "invalid_request",
        "0 to 255",
    ),
    "pixels with fractions": (
        _document("UINT8", _SHAPE, data=[0.5] * 784),
        "invalid_request",
        "0 to 255",
    ),
    "33 pictures": (
        _document("BYTES", [33], data=[""] * 33),
        "too_large",
        "limit is 32",
    ),
    "no pictures": (_document("BYTES", [0], data=[]), "invalid_request", "0 images"),
    "shared memory": (
        _document("FP32", [1], parameters={"shared_memory_region": "x"}),
        "invalid_request",
        "shared memory",
    ),
    "binary that is not there": (
        _document("FP32", _SHAPE, parameters={"binary_data_size": 3136}),
        "invalid_request",
        "0 bytes",
    ),
    "parameters": (
        {**_document("FP32", [1]), "parameters": 1},
        "invalid_request",
        "object",
    ),
    "another output": (
        {**_document("BYTES", [1], data=[""]), "outputs": [{"name": "x"}]},
        "invalid_request",
        "unexpected inference output 'x'",
    ),
    "classification": (
        {
            **_document("BYTES", [1], data=[""]),
            "outputs": [{"name": "scores", "parameters": {"classification": "a"}}],
        },
        "invalid_request",
        "classification",
    ),
    "id": ({**_document("BYTES", [1], data=[""]), "id": 1}, "invalid_request", "text"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_refused(gateway: Any, case: str) -> None:
    """Each mistake is a 400 with one code word, in words that name it."""
    document, code, words = _REFUSED[case]

    answer = _post(gateway, document)

    assert (400, ["error"]) == (answer.status, list(answer.json)), answer.body
    assert code == answer.headers["x-inkling-error-code"]
    assert words in answer.json["error"]


@pytest.mark.parametrize("length", ["-1", "x", "99999", "9" * 30, "1"])
def test_lengths_that_do_not_fit(gateway: Any, length: str) -> None:
    """A length beside the body, or inside its JSON, is refused."""
    answer = _post(gateway, _document("FP32", [1], data=[1]), **{_LENGTH: length})

    assert (400, "invalid_request") == (
        answer.status,
        answer.headers["x-inkling-error-code"],
    )


def test_raw_bytes_that_do_not_fit(gateway: Any) -> None:
    """Elements that end too early, and raw values of another length, are refused."""
    for datatype, shape, raw, words in (
        ("BYTES", [1], b"\xff\xff\xff\xff", "end inside an element"),
        ("BYTES", [1], b"\0", "end inside an element"),
        ("BYTES", [1], bytes(8), "number of elements 2"),
        ("BYTES", [1], bytes(40_000), "number of elements 2"),
        ("FP32", _SHAPE, bytes(8), "total byte size 8"),
    ):
        answer = _post(gateway, _binary(datatype, shape, raw), raw)
        assert 400 == answer.status
        assert words in answer.json["error"]
    unsaid = _post(gateway, _document("FP32", _SHAPE), bytes(3136))
    assert "binary_data_size" in unsaid.json["error"]


def test_what_is_not_there(gateway: Any) -> None:
    """Unknown models, versions and addresses are 404, in the protocol's shape."""
    for method, path, code in (
        ("GET", "/v2/models/no", "model_not_found"),
        ("GET", "/v2/models/no/ready", "model_not_found"),
        ("GET", "/v2/models/mlp/versions/9/ready", "model_not_found"),
        ("GET", "/v2/models/mlp/versions/stable", "model_not_found"),
        ("GET", "/v2/models/mlp/versions/9/stats", "model_not_found"),
        ("POST", "/v2/repository/models/no/load", "model_not_found"),
        ("POST", "/v2/repository/models/no/unload", "model_not_found"),
        ("GET", "/v2/systemsharedmemory/status", "not_found"),
    ):
        answer = gateway.request(method, path)
        assert (404, code) == (answer.status, answer.headers["x-inkling-error-code"]), (
            path
        )
        assert isinstance(answer.json["error"], str)
    wrong = gateway.request("GET", _INFER)
    assert (405, "method_not_allowed") == (
        wrong.status,
        wrong.headers["x-inkling-error-code"],
    )


def test_keys_hold_and_probes_need_none(
    start_gateway: Any, published: Path, tmp_path: Path, pictures: list[bytes]
) -> None:
    """With keys, only the two probes answer without one, in the protocol's shape."""
    (tmp_path / "keys").write_text("0123456789abcdef0123456789abcdef\n")
    with start_gateway(published, "--api-key-file", str(tmp_path / "keys")) as own:
        bare = _post(own, _document("BYTES", [1], data=[b64(pictures[0])]))
        told = own.request("GET", "/v2/models/mlp")
        probes = [own.request("GET", f"/v2/health/{one}") for one in ("live", "ready")]
        key = {"Authorization": "Bearer 0123456789abcdef0123456789abcdef"}
        document = _document("BYTES", [1], data=[b64(pictures[0])])
        keyed = own.request("POST", _INFER, json.dumps(document).encode(), key)

    assert [401, 401, 200, 200, 200] == [
        one.status for one in (bare, told, *probes, keyed)
    ]
    assert "unauthenticated" == bare.headers["x-inkling-error-code"]
    assert isinstance(bare.json["error"], str)


def test_metrics_tell_the_protocols_apart(gateway: Any, pictures: list[bytes]) -> None:
    """Each dialect has a name of its own in the metrics."""
    _post(gateway, _document("BYTES", [1], data=[b64(pictures[0])]))
    body = json.dumps({"instances": [{"b64": b64(pictures[0])}]}).encode()
    gateway.request("POST", "/v1/models/mlp:predict", body)

    text = gateway.request("GET", "/metrics").body.decode()

    for protocol in ("open_inference_http", "tensorflow_serving_http"):
        assert f'code="ok",model="mlp",protocol="{protocol}"' in text or (
            f'protocol="{protocol}",model="mlp",code="ok"' in text
        )
