# SPDX-License-Identifier: Apache-2.0
"""Real answers of a gateway are as its OpenAPI document says, for every address."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import ValidationError
from PIL import Image

from inkling_serving.http_api.routes import ROUTES
from tests.support.described import DescribedGateway, described_by

_NAMES = {"model": "mlp", "version": "1", "version_label": "stable"}
_JSON = "application/json"


@pytest.fixture(scope="module")
def described(
    published: Path,
    tmp_path_factory: pytest.TempPathFactory,
    serve_gateway: Callable[..., Any],
) -> Iterator[DescribedGateway]:
    """A gateway over models with a version label, each answer compared."""
    folder = tmp_path_factory.mktemp("described")
    models = Path(shutil.copytree(published, folder / "models"))
    (models / "mlp" / "labels.json").write_text('{"stable": 1}')
    with serve_gateway(models, log=folder / "log") as process:
        yield described_by(process)


def _bodies(picture: bytes) -> dict[str, Any]:
    """Return a body for each address that needs one, by the end of its path."""
    text = base64.b64encode(picture).decode()
    one = {"name": "inputs", "datatype": "BYTES", "shape": [1], "data": [text]}
    return {
        ":classify": picture,
        ":explain": picture,
        ":predict": json.dumps({"instances": [{"b64": text}]}).encode(),
        "/feedback": b'{"request_id": "a", "label": "7"}',
        "/infer": json.dumps({"inputs": [one], "id": "a"}).encode(),
    }


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: f"{r.method} {r.rule}")
def test_every_documented_address_answers(
    described: DescribedGateway, picture: bytes, route: Any
) -> None:
    """Each address of the document answers with success, in the form that it says."""
    names = _NAMES | {"sha256": _sha256(described) if "sha256" in route.rule else ""}
    path = re.sub(r"<name:(\w+)>", lambda found: names[found[1]], route.rule)
    end = re.search(r"[:/][a-z]+$", path)
    body = _bodies(picture).get(end[0]) if end else None
    answer = described.request(route.method, path, body)

    assert described.described.operation(route.method, path) is not None
    # No model is unloaded by a request, as its description says; and this gateway
    # captures nothing, so that it takes no feedback.
    refused = {"unload": 400, "feedback": 404}
    assert refused.get(path.rpartition("/")[2], 200) == answer.status, answer.body


def _sha256(gateway: DescribedGateway) -> str:
    """Return the SHA-256 of the TFLite file that devices may have."""
    model = gateway.request("GET", "/v1/models/mlp").json
    return str(model["versions"][0]["tflite"]["sha256"])


def test_a_file_that_is_there_is_described(described: DescribedGateway) -> None:
    """A device that has the file already, or asks for another one, is told so."""
    path, sha256 = "/v1/models/mlp/tflite", _sha256(described)
    same = described.request("GET", path, None, {"If-None-Match": f'"{sha256}"'})
    other = described.request("GET", f"{path}/{'0' * 64}")

    assert (304, 404) == (same.status, other.status)


def _form(picture: bytes) -> tuple[dict[str, str], bytes]:
    head = b'--b\r\nContent-Disposition: form-data; name="x"; filename="x.png"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    return kind, head + picture + b"\r\n--b--\r\n"


@pytest.mark.parametrize(
    "case", ["options", "partial", "abstain", "form", "head", "model input"]
)
def test_answers_to_options(
    described: DescribedGateway, picture: bytes, case: str
) -> None:
    """Options, forms and refused images among others get answers of the described form."""
    text = base64.b64encode(picture).decode()
    images = {"images": [{"b64": text}, {"b64": "AAAA"}], "partial": True}
    as_json = {"Content-Type": _JSON}
    form_headers, form = _form(picture)
    method, query, headers, body = {
        "options": ("POST", "?top_k=3&timing=true", {"X-Request-Id": "a"}, picture),
        "partial": ("POST", "", as_json, json.dumps(images).encode()),
        "abstain": ("POST", "?abstain=true", {}, _blank()),
        "form": ("POST", "?top_k=2", form_headers, form),
        "head": ("HEAD", "", {}, None),
        "model input": ("POST", "?model_input=true", {}, picture),
    }[case]
    path = {"head": "/v1/models", "model input": "/v1/models/mlp:explain"}.get(case)
    path = (path or "/v1/models/mlp:classify") + query
    answer = described.request(method, path, body, headers)

    assert 200 == answer.status, answer.body
    if case == "options":
        assert "server-timing" in answer.headers
    if case == "partial":
        assert "error" in answer.json["results"][1]
    if case == "model input":
        assert [28, 28, 1] == answer.json["model_input"]["shape"]
    if case == "abstain":
        assert "empty" == answer.json["results"][0]["abstained"]


def _blank() -> bytes:
    """Return a white picture, on which no digit is."""
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_answers_with_several_labels(
    colours: Path, start_gateway: Callable[..., Any]
) -> None:
    """The labels above a threshold, and a picture without any, have the described form."""
    with start_gateway(colours) as process:
        gateway = described_by(process)
        models = gateway.request("GET", "/v1/models").json["models"]
        [several] = [
            model["name"]
            for model in models
            if model["versions"][0]["outputs"] == "sigmoid"
        ]
        for threshold, reason in ((0, None), (1, "below_threshold")):
            address = f"/v1/models/{several}:classify?threshold={threshold}"
            result = gateway.request("POST", address, _blank()).json["results"][0]
            assert reason == result.get("abstained")
            assert (reason is None) == bool(result["labels"])


@pytest.mark.parametrize("others", ["", "/v2"])
def test_answers_without_a_key(
    published: Path, tmp_path: Path, start_gateway: Callable[..., Any], others: str
) -> None:
    """A refusal without a key is described, and the document and the pages need none."""
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-enough-letters\n")
    with start_gateway(published, "--api-key-file", str(keys)) as process:
        gateway = described_by(process)
        refused = gateway.request("GET", others or "/v1/models")
        key = {"Authorization": "Bearer a-key-of-enough-letters"}
        allowed = gateway.request("GET", others or "/v1/models", None, key)
        page = gateway.request("GET", "/docs")

    assert [401, 200, 200] == [refused.status, allowed.status, page.status]


def test_compressed_bodies_are_described(
    described: DescribedGateway, picture: bytes
) -> None:
    """The description tells of the codings, one of which works."""
    answer = described.request(
        "POST",
        "/v1/models/mlp:classify",
        gzip.compress(picture),
        {"Content-Encoding": "gzip"},
    )

    assert 200 == answer.status
    assert "gzip" in described.described.document["info"]["description"]


def test_other_answers_would_be_seen(described: DescribedGateway) -> None:
    """An answer with one member more, one less, or another code word, does not pass."""
    answer = described.request("GET", "/v1/models/no")
    error = answer.json["error"]
    given = ("GET", "/v1/models/no", 404)
    check = described.described.check
    for wrong in ({**error, "more": 1}, {"code": error["code"]}, "message"):
        with pytest.raises(ValidationError):
            check(*given, answer.headers, json.dumps({"error": wrong}))
    for name, value in (("x-inkling-error-code", "other"), ("x-other", "value")):
        with pytest.raises(AssertionError):
            check(*given, {**answer.headers, name: value}, answer.body)
