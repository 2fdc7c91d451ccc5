# SPDX-License-Identifier: Apache-2.0
"""What a picture gets: every way of sending one, every address, every header."""

import base64
import hashlib
import http.client
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inkling.contract import Contract
from tests.support.machine import within

Encode = Callable[..., bytes]
_CLASSIFY = "/v1/models/mlp:classify"


@pytest.fixture(scope="module")
def pictures(encode: Encode, clear_digits: list[np.ndarray]) -> list[bytes]:
    """PNGs of the ten digits, in order."""
    return [encode(digit) for digit in clear_digits]


def _multipart(*parts: tuple[str, str | None, bytes]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a form of (field, file name or None, content)."""
    body = b""
    for field, filename, content in parts:
        of_file = f'; filename="{filename}"' if filename is not None else ""
        body += b"--frontier\r\nContent-Disposition: form-data; "
        body += f'name="{field}"{of_file}\r\n\r\n'.encode() + content + b"\r\n"
    kind = "multipart/form-data; boundary=frontier"
    return body + b"--frontier--\r\n", {"Content-Type": kind}


def _json(*images: bytes) -> bytes:
    encoded = [{"b64": base64.b64encode(image).decode()} for image in images]
    return json.dumps({"images": encoded}).encode()


def _labels(answer: Any) -> list[str]:
    assert answer.status == 200, answer.body
    return [result["label"] for result in answer.json["results"]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "image/png",
        "image/jpeg",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "application/json",
        "multipart/form-data",
        "text/plain; charset=utf-8",
        "not a type",
    ],
)
def test_raw_body_of_any_type(
    gateway: Any,
    encode: Encode,
    sample: np.ndarray,
    kind: str,
    content_type: str | None,
) -> None:
    """A body that is a picture is classified, whatever its type claims to be."""
    headers = {"Content-Type": content_type} if content_type else {}

    answer = gateway.request("POST", _CLASSIFY, encode(sample, kind), headers)

    assert _labels(answer) == ["3"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize(
    "arguments",
    [
        ("--data-binary", "@three.png"),
        ("-X", "POST", "-T", "three.png"),
        ("-X", "POST", "-T", "three.png", "-H", "Transfer-Encoding: chunked"),
        ("-F", "image=@three.png"),
        ("-F", "anything=@three.png;type=image/png", "-F", "note=hello"),
        ("--json", "@three.json"),
        ("--http1.0", "--data-binary", "@three.png"),
        ("--http2", "--data-binary", "@three.png"),
    ],
    ids=" ".join,
)
def test_curl(
    gateway: Any, picture: bytes, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Each way in which curl sends a file works."""
    (tmp_path / "three.png").write_bytes(picture)
    (tmp_path / "three.json").write_bytes(_json(picture))
    command = ["curl", "-sS", "-m", "20", *arguments, gateway.url + _CLASSIFY]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)

    assert json.loads(done.stdout)["results"][0]["label"] == "3"


def test_picture_without_a_length(gateway: Any, picture: bytes) -> None:
    """A chunked body is read to its end."""
    chunks = [picture[start : start + 7] for start in range(0, len(picture), 7)]

    answer = gateway.request("POST", _CLASSIFY, iter(chunks))

    assert _labels(answer) == ["3"]


@pytest.mark.parametrize("field", ["image", "file", "", "a b", "ü", "images[]"])
def test_form_with_one_file(gateway: Any, picture: bytes, field: str) -> None:
    """The one file of a form is the picture, whatever its field is called."""
    body, headers = _multipart((field, "three.png", picture))

    assert _labels(gateway.request("POST", _CLASSIFY, body, headers)) == ["3"]


def test_form_with_many_files_and_a_text(gateway: Any, pictures: list[bytes]) -> None:
    """All files of a form are classified, in order; a text beside them is ignored."""
    parts: list[tuple[str, str | None, bytes]] = [
        (f"field{place % 3}", f"{place}.png", image)
        for place, image in enumerate(pictures)
    ]
    parts.insert(4, ("note", None, b"hello"))
    body, headers = _multipart(*parts)

    found = _labels(gateway.request("POST", _CLASSIFY, body, headers))

    assert list("0123456789") == found


def test_json_with_many_images(gateway: Any, pictures: list[bytes]) -> None:
    """Images in JSON are classified in the order in which they came."""
    shuffled = [7, 3, 3, 0, 9, 1]
    body = _json(*(pictures[digit] for digit in shuffled))

    found = _labels(gateway.request("POST", _CLASSIFY, body))

    assert [str(digit) for digit in shuffled] == found


def test_thirty_two_images(gateway: Any, picture: bytes) -> None:
    """The largest number of images allowed is answered, in either envelope."""
    body, headers = _multipart(*[("f", "f.png", picture)] * 32)

    assert _labels(gateway.request("POST", _CLASSIFY, body, headers)) == ["3"] * 32
    assert (
        _labels(gateway.request("POST", _CLASSIFY, _json(*[picture] * 32)))
        == ["3"] * 32
    )


def test_three_forms_agree(gateway: Any, picture: bytes) -> None:
    """A picture gets the same answer bare, in a form and in JSON."""
    body, headers = _multipart(("image", "three.png", picture))
    answers = [
        gateway.request("POST", _CLASSIFY + "?top_k=10", picture),
        gateway.request("POST", _CLASSIFY + "?top_k=10", body, headers),
        gateway.request("POST", _CLASSIFY + "?top_k=10", _json(picture)),
    ]

    assert answers[0].body == answers[1].body == answers[2].body


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", 1),
        ("?", 1),
        ("?top_k=1", 1),
        ("?top_k=3", 3),
        ("?top_k=10", 10),
        ("?top_k=11", 10),
        ("?top_k=100000", 10),
        ("?top_k=2&top_k=2", 2),
    ],
)
def test_top_k(gateway: Any, picture: bytes, query: str, expected: int) -> None:
    """`top_k` says how many labels come back, likeliest first."""
    answer = gateway.request("POST", _CLASSIFY + query, picture)
    result = answer.json["results"][0]
    found = [score["probability"] for score in result["top"]]

    assert expected == len(found)
    assert sorted(found, reverse=True) == found


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_fields_of_an_answer(gateway: Any, picture: bytes, model: str) -> None:
    """An answer names model, version and contract, and has exactly these fields."""
    path = f"/v1/models/{model}:classify?top_k=10"
    answer = gateway.request("POST", path, picture).json
    status = gateway.request("GET", f"/v1/models/{model}").json["versions"][0]
    [result] = answer["results"]
    best = result["top"][0]
    probabilities = [score["probability"] for score in result["top"]]

    assert {"model", "version", "contract", "results"} == set(answer)
    assert {"label", "index", "probability", "top"} == set(result)
    assert (model, 1, status["contract"]) == tuple(answer.values())[:3]
    assert {**best, "top": result["top"]} == result
    assert pytest.approx(1, abs=1e-3) == sum(probabilities)
    assert all(0 <= value <= 1 for value in probabilities)
    assert set(status["labels"]) == {score["label"] for score in result["top"]}
    assert all(status["labels"][s["index"]] == s["label"] for s in result["top"])


def test_explicit_version(gateway: Any, picture: bytes) -> None:
    """A version can be asked for by its number."""
    path = "/v1/models/mlp/versions/1:classify"

    assert gateway.request("POST", path, picture).json["version"] == 1


def test_version_label(
    start_gateway: Callable[..., Any], models_dir: Path, picture: bytes
) -> None:
    """A version can be asked for by its label, and models show their labels."""
    (models_dir / "mlp/labels.json").write_text('{"stable": 1}')
    with start_gateway(models_dir) as own:
        answer = own.request("POST", "/v1/models/mlp/labels/stable:classify", picture)
        other = own.request("POST", "/v1/models/mlp/labels/canary:classify", picture)
        shown = own.request("GET", "/v1/models/mlp").json["versions"][0]

    assert (answer.status, answer.json["version"]) == (200, 1)
    assert (other.status, other.json["error"]["code"]) == (404, "model_not_found")
    assert shown["version_labels"] == ["stable"]


def test_explanation_ends_in_the_same_answer(gateway: Any, picture: bytes) -> None:
    """`:explain` gives what `:classify` gives, and stages with pictures."""
    path = "/v1/models/mlp:explain?top_k=3"
    explained = gateway.request("POST", path, picture).json
    stages = explained.pop("stages")
    plain = gateway.request("POST", _CLASSIFY + "?top_k=3", picture).json

    assert plain == explained
    assert (stages[0]["name"], stages[-1]["name"]) == ("decoded", "model input")
    for stage in stages:
        assert {"name", "decision", "width", "height", "image"} == set(stage)
        shown = base64.b64decode(stage["image"]["b64"])
        assert shown.startswith(b"\x89PNG")


def test_list_of_models(gateway: Any) -> None:
    """`/v1/models` lists every model as `/v1/models/NAME` shows it, sorted by name."""
    listed = gateway.request("GET", "/v1/models").json["models"]
    shown = [gateway.request("GET", f"/v1/models/{m['name']}").json for m in listed]
    for model in shown:
        assert model.pop("model_version_status")  # for TensorFlow Serving's clients

    assert [model["name"] for model in listed] == ["cnn", "mlp"]
    assert listed == shown


def test_fields_of_a_model(gateway: Any) -> None:
    """A model shows whether it is ready, and what each version expects and knows."""
    model = gateway.request("GET", "/v1/models/mlp").json
    [version] = model["versions"]
    computed = ("contract", "contract_json", "accuracy", "tflite", "drift")

    fields = {"name", "ready", "versions", "model_version_status", "shares"}
    assert fields == set(model)
    assert model["ready"] is True
    assert {
        "version": 1,
        "state": "AVAILABLE",
        "version_labels": [],
        "reason": None,
        "labels": list("0123456789"),
        "kind": "photo_of_one_object",
        "outputs": "softmax",
        "input": {"height": 28, "width": 28, "channels": 1},
        "dataset": "digits",
    } == {k: v for k, v in version.items() if k not in computed}
    assert re.fullmatch("sha256:[0-9a-f]{64}", version["contract"])
    assert version["contract"] == Contract.from_json(version["contract_json"]).hash
    assert version["accuracy"] > 0.9
    # The drift is there as soon as this gateway, which others ask too, has answered.
    assert {"pictures", "has_baseline", "index"} >= set(version.get("drift", {}))
    assert {"format", "bytes", "sha256"} == set(version["tflite"])


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes(gateway: Any, path: str) -> None:
    """A gateway that serves is live and ready."""
    answer = gateway.request("GET", path)

    assert (200, {path[1:-1]: True}) == (answer.status, answer.json)


def test_probes_without_a_model(
    start_gateway: Callable[..., Any], tmp_path: Path
) -> None:
    """A gateway without a model is live but not ready, and says what to do."""
    (tmp_path / "none").mkdir()
    with start_gateway(tmp_path / "none") as own:
        live, ready = own.request("GET", "/livez"), own.request("GET", "/readyz")

    assert live.status == 200
    assert (ready.status, ready.json["error"]["code"]) == (503, "not_ready")
    assert ready.headers["retry-after"] == "1"
    assert "inkling train" in ready.json["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/v1/models", "/v1/models/mlp", "/", "/page/page.js"]
)
def test_head_is_get_without_the_body(gateway: Any, path: str) -> None:
    """HEAD answers with the status and headers of GET, and no body."""
    get, head = gateway.request("GET", path), gateway.request("HEAD", path)
    differing = ("date", "x-request-id")

    assert head.body == b""
    assert get.status == head.status
    assert {k: v for k, v in get.headers.items() if k not in differing} == {
        k: v for k, v in head.headers.items() if k not in differing
    }


@pytest.mark.parametrize("path", [_CLASSIFY, "/v1/models", "/v1/models/gone", "/livez"])
@pytest.mark.parametrize("request_id", ["a", "2024-01-01.x_Y", "z" * 64])
def test_request_id_comes_back(gateway: Any, path: str, request_id: str) -> None:
    """A caller's request id is in the header of the answer, and in an error."""
    answer = gateway.request("GET", path, headers={"X-Request-Id": request_id})

    assert request_id == answer.headers["x-request-id"]
    assert request_id == answer.json.get("error", {}).get("request_id", request_id)


@pytest.mark.parametrize(
    "request_id", [None, "", "a b", "z" * 65, "ü", "<script>", "a;b"]
)
def test_request_id_is_made(gateway: Any, request_id: str | None) -> None:
    """Where the caller sends no plain word as id, each request gets its own."""
    headers = {} if request_id is None else {"X-Request-Id": request_id.encode()}
    first = gateway.request("GET", "/v1/models/gone", headers=headers)
    second = gateway.request("GET", "/v1/models/gone", headers=headers)
    ids = [answer.json["error"]["request_id"] for answer in (first, second)]

    assert all(re.fullmatch("[0-9a-f]{32}", found) for found in ids)
    assert ids[0] != ids[1]
    assert ids[0] == first.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", _CLASSIFY),
        ("GET", _CLASSIFY),
        ("GET", "/v1/models/gone"),
        ("GET", "/nothing"),
        ("GET", "/page/nothing.js"),
        ("GET", "/page/../app.py"),
        ("GET", "/page/%00"),
        ("POST", "/"),
        ("DELETE", "/v1/models/mlp"),
        ("POST", "/v1/models/mlp/versions/x:classify"),
    ],
)
def test_shape_of_an_error(gateway: Any, method: str, path: str) -> None:
    """Every refusal is JSON with code, message and request id, and tells no secret."""
    answer = gateway.request(method, path, b"no picture")

    assert 400 <= answer.status < 500
    assert list(answer.json) == ["error"]
    assert list(answer.json["error"]) == ["code", "message", "request_id"]
    assert re.fullmatch("[a-z_]+", answer.json["error"]["code"])
    assert answer.json["error"]["message"]
    for secret in ("0x", "Traceback", 'File "', "/work", "site-packages", ".py"):
        assert secret not in answer.body.decode()


@pytest.mark.parametrize(
    ("path", "status"), [("/livez", 200), ("/v1/models", 200), ("/nothing", 404)]
)
def test_headers_of_every_answer(gateway: Any, path: str, status: int) -> None:
    """JSON is not sniffed, not stored and does not name the server."""
    answer = gateway.request("GET", path)

    assert status == answer.status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert str(len(answer.body)) == answer.headers["content-length"]
    assert "server" not in answer.headers
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html"),
        ("/page/index.html", "text/html"),
        ("/page/page.js", "text/javascript"),
        ("/page/page.css", "text/css"),
        ("/page/icon.svg", "image/svg+xml"),
        ("/page/device.js", "text/javascript"),
        ("/page/litert/core.js", "text/javascript"),
    ],
)
def test_files_of_the_page(gateway: Any, path: str, content_type: str) -> None:
    """The page's files come with their types, and may load nothing from elsewhere."""
    answer = gateway.request("GET", path)

    assert (200, content_type) == (
        answer.status,
        answer.headers["content-type"].split(";")[0],
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers


def test_page_is_not_sent_twice(gateway: Any) -> None:
    """A browser that has the page is told so."""
    tag = gateway.request("GET", "/").headers["etag"]

    again = gateway.request("GET", "/", headers={"If-None-Match": tag})

    assert (again.status, again.body) == (304, b"")


def test_page_names_only_files_that_exist(gateway: Any) -> None:
    """Every address in the page's HTML is relative, and answered."""
    html = gateway.request("GET", "/").body.decode()
    addresses = set(re.findall(r'(?:src|href)="([^"]*)"', html))

    assert addresses
    assert not [one for one in addresses if one.startswith("/") or ":" in one]
    assert dict.fromkeys(addresses, 200) == {
        a: gateway.request("GET", f"/{a}").status for a in addresses
    }


def test_script_inside_the_page_is_allowed(gateway: Any) -> None:
    """The page's policy names the hash of the script that adds a slash to its address."""
    answer = gateway.request("GET", "/")
    [script] = re.findall(rb"<script>(.*?)</script>", answer.body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()

    policy = answer.headers["content-security-policy"]
    assert f"script-src 'self' 'wasm-unsafe-eval' 'sha256-{digest}';" in policy
    assert "'unsafe-" not in policy


def test_requests_on_one_connection(gateway: Any, picture: bytes) -> None:
    """A connection stays open after a refusal of a whole body, and answers in order."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    found = []
    for body in (picture, b"nothing", picture, b""):
        connection.request("POST", _CLASSIFY, body)
        sock = connection.sock
        response = connection.getresponse()
        response.read()
        found.append((response.status, connection.sock is sock))
    connection.close()

    assert found == [(200, True), (400, True), (200, True), (400, True)]


def test_kept_connection_is_not_slowed(gateway: Any, picture: bytes) -> None:
    """An answer on a kept connection waits for no acknowledgement (40 ms each)."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    seconds = []
    for _ in range(15):
        began = time.monotonic()
        connection.request("POST", _CLASSIFY, picture)
        connection.getresponse().read()
        seconds.append(time.monotonic() - began)
    connection.close()

    within(sorted(seconds)[len(seconds) // 2], 0.03)
