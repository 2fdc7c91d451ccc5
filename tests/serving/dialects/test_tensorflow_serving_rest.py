# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's REST, by its documents: forms, states, metadata and errors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inkling.image.preprocess import to_input
from inkling.model.repository import Repository
from tests.serving.dialects.pictures import b64, classified, two_pictures
from tests.support.machine import memory_bytes

_PREDICT = "/v1/models/mlp:predict"


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """A sample of the model's size, and a photo of a dark stroke."""
    return two_pictures()


@pytest.fixture(scope="module")
def inputs(published: Path, pictures: list[bytes]) -> np.ndarray:
    """What the contract makes of the pictures."""
    contract = Repository(published).newest("mlp").contract()
    return np.stack([to_input(one, contract) for one in pictures])


def _b64(picture: bytes) -> dict[str, str]:
    return {"b64": b64(picture)}


def _post(gateway: Any, document: Any, path: str = _PREDICT) -> Any:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return gateway.request("POST", path, body)


def test_every_form_gives_the_scores_of_classify(
    gateway: Any, pictures: list[bytes], inputs: np.ndarray
) -> None:
    """Rows, columns, named inputs, pictures and floats: one answer, that of `:classify`."""
    expected = classified(gateway, pictures)
    images, floats = [_b64(one) for one in pictures], inputs.tolist()
    for values in (images, floats):
        forms: dict[str, Any] = {
            "row": {"instances": values},
            "row, named": {"instances": [{"inputs": one} for one in values]},
            "column": {"inputs": values, "signature_name": "serving_default"},
            "column, named": {"inputs": {"inputs": values}, "extra": 1},
        }
        for name, form in forms.items():
            answer = _post(gateway, form)
            assert 200 == answer.status, (name, answer.body)
            key = "predictions" if name.startswith("row") else "outputs"
            np.testing.assert_allclose(answer.json[key], expected, atol=1e-5)
            assert [key] == list(answer.json)


def test_one_picture_is_a_column(gateway: Any, pictures: list[bytes]) -> None:
    """A lone picture under `inputs` is a batch of one."""
    answer = _post(gateway, {"inputs": _b64(pictures[0])})

    assert (1, 10) == np.shape(answer.json["outputs"])


@pytest.mark.parametrize("place", ["/versions/1", "/labels/stable", ""])
def test_version_and_label_in_the_path(
    gateway: Any, pictures: list[bytes], place: str
) -> None:
    """Predict, metadata and status take a version or a label, as `:classify` does."""
    path = f"/v1/models/mlp{place}"
    known = gateway.request("POST", path + ":classify", pictures[0]).status

    predicted = _post(gateway, {"instances": [_b64(pictures[0])]}, path + ":predict")
    described = gateway.request("GET", path + "/metadata")
    state = gateway.request("GET", path)

    expected = 200 if known == 200 else 400  # its status for a label that is not there
    assert [expected] * 3 == [predicted.status, described.status, state.status]
    if expected == 200:
        assert {"name": "mlp", "signature_name": "", "version": "1"} == (
            described.json["model_spec"]
        )
        assert "1" == state.json["model_version_status"][0]["version"]


def test_version_0_is_the_default(gateway: Any, pictures: list[bytes]) -> None:
    """The client of OpenVINO Model Server names it so; our own address does not."""
    path = "/v1/models/mlp/versions/0"
    predicted = _post(gateway, {"instances": [_b64(pictures[0])]}, path + ":predict")
    described = gateway.request("GET", path + "/metadata").json
    state = gateway.request("GET", path).json["model_version_status"]
    ours = gateway.request("POST", path + ":classify", pictures[0])

    assert (200, 10) == (predicted.status, len(predicted.json["predictions"][0]))
    assert "1" == described["model_spec"]["version"]
    assert ["1"] == [one["version"] for one in state]
    assert 404 == ours.status


def test_status_is_read_by_both_kinds_of_client(gateway: Any) -> None:
    """Our fields, and beside them TensorFlow Serving's with the version as a text."""
    shown = gateway.request("GET", "/v1/models/mlp").json

    assert ("mlp", True) == (shown["name"], shown["ready"])
    assert [
        {
            "version": "1",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
    ] == shown["model_version_status"]


def test_metadata_has_the_signatures(gateway: Any) -> None:
    """The doubled key, sizes as texts and types by name, as TensorFlow Serving writes."""
    shown = gateway.request("GET", "/v1/models/mlp/metadata").json

    signatures = shown["metadata"]["signature_def"]["signature_def"]
    found = signatures["serving_default"]["inputs"]["inputs"]
    assert "DT_FLOAT" == found["dtype"]
    sizes = [dim["size"] for dim in found["tensor_shape"]["dim"]]
    assert ["-1", "28", "28", "1"] == sizes
    assert "tensorflow/serving/predict" == signatures["contract"]["method_name"]


def test_signatures_of_the_contract_and_the_device(
    gateway: Any, published: Path
) -> None:
    """A signature of no pictures answers each row with its value."""
    contract = Repository(published).newest("mlp").contract()
    asked = {"signature_name": "contract", "instances": [1, {"asked": 2}]}
    device = {"signature_name": "device", "inputs": {"asked": [0, 0, 0]}}

    assert [contract.json] * 2 == _post(gateway, asked).json["predictions"]
    assert [0] * 3 == _post(gateway, device).json["outputs"]


_PICTURE = {"b64": "iVBORw0KGgo="}
_REFUSED: dict[str, tuple[Any, str, str]] = {
    "empty": (b"", "invalid_request", "The document is empty"),
    "no JSON": (b"{'a': 1}", "invalid_request", "JSON Parse error"),
    "a list": ([1], "invalid_request", "not an object"),
    "neither form": ({}, "invalid_request", "neither of"),
    "both forms": ({"instances": [1], "inputs": [1]}, "invalid_request", "both"),
    "no list": ({"instances": {"b64": ""}}, "invalid_request", "no list"),
    "no rows": ({"instances": []}, "invalid_request", "is empty"),
    "no rows in a column": ({"inputs": []}, "invalid_request", "is empty"),
    "signature": (
        {"signature_name": "serve", "instances": [1]},
        "invalid_request",
        'Serving signature name: "serve" not found in signature def',
    ),
    "signature, no text": (
        {"signature_name": 1, "instances": [1]},
        "invalid_request",
        "must be a text",
    ),
    "another input": ({"instances": [{"x": 1}]}, "invalid_request", "'inputs'"),
    "ragged": ({"instances": [[1], [1, 2]]}, "invalid_request", "different lengths"),
    "texts": ({"instances": ["1.5"]}, "invalid_request", "not numbers"),
    "truth": ({"instances": [[True]]}, "invalid_request", "not numbers"),
    "null": ({"instances": [[None]]}, "invalid_request", "not numbers"),
    "deep": (
        b'{"instances":' + b"[" * 40 + b"]" * 40 + b"}",
        "invalid_request",
        "dimensions",
    ),
    "deeper": (
        b'{"instances":' + b"[" * 4000 + b"]" * 4000 + b"}",
        "invalid_request",
        "JSON",
    ),
    "shape": ({"instances": [[1.0, 2.0]]}, "invalid_request", "(n, 28, 28, 1)"),
    "range": (
        {"instances": np.full((1, 28, 28, 1), 7).tolist()},
        "invalid_request",
        "NaN or",
    ),
    "NaN": (
        {"instances": np.full((1, 28, 28, 1), np.nan).tolist()},
        "invalid_request",
        "NaN or",
    ),
    "infinity": (
        {"instances": np.full((1, 28, 28, 1), -np.inf).tolist()},
        "invalid_request",
        "NaN or",
    ),
    "huge": (
        {"instances": np.full((1, 28, 28, 1), 1e300).tolist()},
        "invalid_request",
        "NaN or",
    ),
    "mixed": ({"instances": [1, _PICTURE]}, "invalid_request", "This row is not"),
    "b64 and more": (
        {"instances": [{**_PICTURE, "x": 1}]},
        "invalid_request",
        "This row is not",
    ),
    "no base64": ({"instances": [{"b64": "?"}]}, "invalid_request", "base64"),
    "no picture": ({"instances": [{"b64": "aGVsbG8="}]}, "invalid_image", "PNG"),
    "33 pictures": ({"instances": [_PICTURE] * 33}, "too_large", "limit is 32"),
    "33 inputs": (
        {"instances": np.zeros((33, 28, 28, 1)).tolist()},
        "too_large",
        "limit is 32",
    ),
    "a million lists": (
        b'{"instances":[' + b"[]," * 1_100_000 + b"[]]}",
        "too_large",
        "elements",
    ),
    "copies": (
        {"signature_name": "contract", "instances": [0] * 2000},
        "invalid_request",
        "copies",
    ),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_refused(gateway: Any, case: str) -> None:
    """Each mistake is a 400 in TensorFlow Serving's shape, with one code word and words."""
    document, code, words = _REFUSED[case]

    answer = _post(gateway, document)

    assert (400, ["error"]) == (answer.status, list(answer.json)), answer.body
    assert code == answer.headers["x-inkling-error-code"]
    assert words in answer.json["error"]
    assert "application/json" == answer.headers["content-type"]


def test_unknown_targets_have_its_words(gateway: Any) -> None:
    """Statuses and messages are those of server_core.cc and basic_manager.cc."""
    document = {"instances": [1]}
    rows = {
        "/v1/models/no:predict": (404, "Servable not found for request: Latest(no)"),
        "/v1/models/mlp/versions/9:predict": (
            404,
            "Servable not found for request: Specific(mlp, 9)",
        ),
        "/v1/models/mlp/labels/no:predict": (
            400,
            "Unrecognized servable version label: no",
        ),
    }
    for path, (status, words) in rows.items():
        answer = _post(gateway, document, path)
        assert (status, {"error": words}) == (answer.status, answer.json)
        assert "model_not_found" == answer.headers["x-inkling-error-code"]
    state = gateway.request("GET", "/v1/models/mlp/versions/9")
    assert (404, {"error": "Could not find version 9 of model mlp"}) == (
        state.status,
        state.json,
    )
    # JSON that cannot be read is told first, as TensorFlow Serving does.
    assert 400 == _post(gateway, b"{", "/v1/models/no:predict").status


def test_refusals_before_the_handler_have_its_shape(gateway: Any) -> None:
    """A wrong method, a compressed body and a body over the limit have it, too."""
    method = gateway.request("GET", _PREDICT)
    packed = gateway.request("POST", _PREDICT, b"{}", {"Content-Encoding": "br"})
    long = gateway.request("POST", _PREDICT, bytes(10 * 1024 * 1024 + 1))

    assert [405, 400, 400] == [method.status, packed.status, long.status]
    codes = ["method_not_allowed", "unsupported_media_type", "too_large"]
    for answer, code in zip((method, packed, long), codes, strict=True):
        assert code == answer.headers["x-inkling-error-code"]
        assert isinstance(answer.json["error"], str)


def test_json_costs_no_more_than_a_picture(gateway: Any) -> None:
    """The dearest JSON of floats within the limits leaves no memory behind."""
    body = b'{"instances":[' + b"0.1," * 1_000_000 + b"0]}"
    _post(gateway, body)
    before = memory_bytes(gateway.process.pid)

    for _ in range(5):
        assert 400 == _post(gateway, body).status

    assert memory_bytes(gateway.process.pid) - before < 64 * 1024 * 1024
