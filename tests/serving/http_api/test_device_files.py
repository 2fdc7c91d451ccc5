# SPDX-License-Identifier: Apache-2.0
"""What a device gets from the gateway: the model's file, its runtime, and model inputs."""

from __future__ import annotations

import base64
import gzip
import hashlib
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inkling
from inkling.contract import Contract
from inkling.image.preprocess import to_input
from inkling.model.bundle import read_bundle
from inkling.model.repository import Repository
from inkling_serving.engines.base import DeviceFile
from inkling_serving.http_api import flow
from tests.serving.http_api.server_here import Here, served_here
from tests.support.machine import until

# More than the system keeps for a client that takes nothing.
_LARGE = DeviceFile("float32", bytes(32 * 2**20), "0" * 64)
_WASM = "/page/litert/litert_wasm_compat_internal.wasm"


def _listed(gateway: Any, model: str) -> dict[str, Any]:
    [version] = gateway.request("GET", f"/v1/models/{model}").json["versions"]
    found: dict[str, Any] = version["tflite"]
    return found


@pytest.mark.parametrize("target", ["", "/versions/1"])
def test_a_device_gets_the_file(
    gateway: Any, published: Path, picture: bytes, tmp_path: Path, target: str
) -> None:
    """It is the published file, with its contract, and the client classifies with it."""
    answer = gateway.request("GET", f"/v1/models/cnn{target}/tflite")
    digest = hashlib.sha256(answer.body).hexdigest()
    size = len(answer.body)

    assert Repository(published).newest("cnn").tflite("float32").read_bytes() == (
        answer.body
    )
    shown = {"format": "float32", "bytes": size, "sha256": digest}
    assert shown == _listed(gateway, "cnn")
    assert f'"{digest}"' == answer.headers["etag"]
    assert "private, no-cache" == answer.headers["cache-control"]
    assert "application/octet-stream" == answer.headers["content-type"]
    file = tmp_path / "cnn.tflite"
    file.write_bytes(answer.body)
    with inkling.connect(file) as device:
        found = device.classify(picture)
    asked = gateway.request("POST", "/v1/models/cnn:classify", picture).json
    assert (asked["results"][0]["label"], asked["contract"]) == (
        found.label,
        read_bundle(answer.body).contract.hash,
    )


def test_a_file_is_sent_once(gateway: Any) -> None:
    """A device that has the file is told so; under its SHA-256 it may keep it for good."""
    digest = _listed(gateway, "cnn")["sha256"]
    for address in ("/v1/models/cnn/tflite", f"/v1/models/cnn/tflite/{digest}"):
        known = {"If-None-Match": f'W/"x", "{digest}"'}
        again = gateway.request("GET", address, headers=known)
        assert (304, b"") == (again.status, again.body)
        assert "content-length" not in again.headers
        head = gateway.request("HEAD", address)
        assert head.headers["content-length"] == str(_listed(gateway, "cnn")["bytes"])

    kept = gateway.request("GET", f"/v1/models/cnn/versions/1/tflite/{digest}")
    assert "private, max-age=31536000, immutable" == kept.headers["cache-control"]
    assert digest == hashlib.sha256(kept.body).hexdigest()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/models/cnn/tflite/" + 64 * "0", 404, "not_found"),
        ("/v1/models/cnn/tflite/float32.tflite", 404, "not_found"),
        ("/v1/models/cnn/tflite/../manifest.json", 404, "not_found"),
        ("/v1/models/cnn/tflite?format=int8", 400, "invalid_request"),
        ("/v1/models/cnn/versions/9/tflite", 404, "model_not_found"),
        ("/v1/models/cnn/labels/canary/tflite", 404, "model_not_found"),
        ("/v1/models/none/tflite", 404, "model_not_found"),
    ],
)
def test_there_is_no_other_file(
    gateway: Any, path: str, status: int, code: str
) -> None:
    """Another file, version or model is refused in our form."""
    answer = gateway.request("GET", path)

    assert (status, code) == (answer.status, answer.json["error"]["code"])


def test_a_model_elsewhere_has_no_file_here(digit_contract: Contract) -> None:
    """Where another process runs the model, the list names no file, and none is sent."""
    with served_here(digit_contract) as here:
        listed = here.request("GET", "/v1/models").json["models"][0]["versions"][0]
        answer = here.request("GET", "/v1/models/mlp/tflite")

    assert "tflite" not in listed
    assert (404, "not_found") == (answer.status, answer.json["error"]["code"])
    assert "model repository" in answer.json["error"]["message"]


def test_files_are_kept_where_a_setting_says_so(digit_contract: Contract) -> None:
    """With `--device-files false`, the list names no file, and none is sent."""
    with served_here(digit_contract, device_files=False) as here:
        here.engine.device_file = _LARGE
        listed = here.request("GET", "/v1/models/mlp").json["versions"][0]
        answer = here.request("GET", "/v1/models/mlp/tflite")

    assert "tflite" not in listed
    assert (404, "not_found") == (answer.status, answer.json["error"]["code"])
    assert "--device-files" in answer.json["error"]["message"]


def test_the_values_of_the_model_input(
    gateway: Any, published: Path, picture: bytes
) -> None:
    """An explanation with `model_input` has what the engine got, to the bit."""
    path = "/v1/models/mlp:explain?model_input="
    given = gateway.request("POST", path + "true", picture).json["model_input"]
    values = np.frombuffer(base64.b64decode(given["b64"]), "<f4")
    expected = to_input(picture, Repository(published).newest("mlp").contract())

    assert ([28, 28, 1], "float32") == (given["shape"], given["dtype"])
    assert np.array_equal(expected, values.reshape(given["shape"]))
    assert "model_input" not in gateway.request("POST", path + "false", picture).json


def test_the_runtime_comes_in_gzip(gateway: Any) -> None:
    """LiteRT.js is sent as it is stored, with its type, and its licence lies beside it."""
    answer = gateway.request("GET", _WASM)
    licence = gateway.request("GET", "/page/litert/LICENSE")

    assert ("gzip", "application/wasm") == (
        answer.headers["content-encoding"],
        answer.headers["content-type"],
    )
    assert gzip.decompress(answer.body).startswith(b"\0asm")
    assert len(answer.body) < 3 * 10**6
    assert (200, True) == (licence.status, b"Apache License" in licence.body)
    assert 404 == gateway.request("GET", _WASM + ".gz").status


def _slow(here: Here) -> socket.socket:
    here.engine.device_file = _LARGE
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", here.port))
    made.settimeout(20)
    made.sendall(b"GET /v1/models/mlp/tflite HTTP/1.1\r\nHost: x\r\n\r\n")
    return made


def test_a_slow_client_gets_a_long_answer(
    digit_contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is that for a piece, not for the whole answer, and it delays nobody."""
    monkeypatch.setattr(flow, "_TAKE_TIMEOUT_S", 1.0)
    taken, started = 0, time.monotonic()
    with served_here(digit_contract) as here, _slow(here) as one:
        while taken < len(_LARGE.content):
            taken += len(one.recv(2**20))
            # A request whose client takes its answer waits for nothing here.
            until(lambda: not here.server._connections.ready)
            if taken < 8 * 2**20:
                time.sleep(0.001)
    assert time.monotonic() - started > 1.5


def test_slow_clients_make_room(digit_contract: Contract) -> None:
    """One that is slow to take its answer ends for a new connection, if there is no room."""
    with served_here(digit_contract, max_connections=4) as here:
        slow = [_slow(here) for _ in range(4)]
        connections = here.server.server_state.connections
        until(lambda: sum(one.flow.write_paused for one in connections) == 4)
        assert 200 == here.request("GET", "/livez").status
        for one in slow:
            one.close()
