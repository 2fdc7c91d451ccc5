# SPDX-License-Identifier: Apache-2.0
"""The client libraries of other servers, unmodified, against our gateway.

They are not among our dependencies. TEST_CLIENTS_PYTHON names the Python of an environment
that has them: pip install 'tritonclient[all]' kserve ovmsclient requests httpx
openapi-python-client
TEST_CLIENTS_NODE names a folder that has those for Node, in node_modules:
npm install @grpc/grpc-js @grpc/proto-loader grpc-health-check
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inkling
from inkling.image.preprocess import to_input
from inkling.model.repository import Repository
from tests.serving.dialects import foreign_clients
from tests.serving.dialects.pictures import classified, two_pictures

_PROGRAM = Path(foreign_clients.__file__)
_NODE_PROGRAM = _PROGRAM.with_name("node_clients.mjs")
_PROTO = Path(inkling.__file__).parent / "v1" / "classifier.proto"
_MISSING = 3
Drive = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def drive(
    gateway: Any, published: Path, tmp_path_factory: pytest.TempPathFactory
) -> Drive:
    """Drive a client in a process of its own; skip aloud if it is not installed.

    A client in JavaScript is named by "node" before its own name.
    """
    folder = tmp_path_factory.mktemp("clients")
    picture, contract = (
        two_pictures()[1],
        Repository(published).newest("mlp").contract(),
    )
    (folder / "picture.png").write_bytes(picture)
    inputs = to_input(picture, contract)[np.newaxis]
    np.save(folder / "inputs.npy", inputs)
    inputs.tofile(folder / "inputs.f32")

    def driven(client: str) -> dict[str, Any]:
        place = [f"127.0.0.1:{gateway.port}", gateway.grpc_target]
        place.append(str(folder / "picture.png"))
        if client.startswith("node "):
            command = _in_node(client.removeprefix("node "), place, folder)
        else:
            python = os.environ.get("TEST_CLIENTS_PYTHON", sys.executable)
            command = [python, str(_PROGRAM), client, *place]
            command.append(str(folder / "inputs.npy"))
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=_environment()
        )
        if done.returncode == _MISSING:
            pytest.skip(f"{client}: {done.stdout.strip()}; nothing checked")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return driven


def _in_node(client: str, place: list[str], folder: Path) -> list[str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip(f"node is not installed; {client} was NOT checked")
    inputs = str(folder / "inputs.f32")
    return [node, str(_NODE_PROGRAM), client, *place, inputs, str(_PROTO)]


def _environment() -> dict[str, str]:
    modules = Path(os.environ.get("TEST_CLIENTS_NODE", ".")) / "node_modules"
    return {**os.environ, "NODE_PATH": str(modules)}


def _check(gateway: Any, client: str, found: dict[str, Any]) -> None:
    expected = classified(gateway, two_pictures()[1:])[0]
    print(f"\n{client} {found['packages']}")
    for way, scores in found["scores"].items():
        difference = float(np.abs(np.array(scores) - expected).max())
        print(f"  {way}: label {np.argmax(scores)}, differs by {difference:.1e}")
        assert int(np.argmax(expected)) == int(np.argmax(scores)), way
        assert difference <= 1e-5, way
    print("  " + ", ".join(found["facts"]))
    assert found["scores"]
    assert [] == [name for name, is_so in found["facts"].items() if not is_so]


def test_curl(gateway: Any, drive: Drive) -> None:
    """A picture or model inputs are the whole body of an inference."""
    _check(gateway, "curl", drive("curl"))


def test_fetch_in_node(gateway: Any, drive: Drive) -> None:
    """Node's own `fetch` asks in every dialect over HTTP, and gets the model's file."""
    _check(gateway, "fetch", drive("node fetch"))


@pytest.mark.soak
@pytest.mark.parametrize(
    "client",
    [name for name in foreign_clients.CLIENTS if name != "curl"]
    + ["node @grpc/grpc-js"],
)
def test_client(gateway: Any, drive: Drive, client: str) -> None:
    """A client library gets the scores of `:classify`, and all else that it asks for."""
    _check(gateway, client, drive(client))
