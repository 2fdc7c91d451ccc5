# SPDX-License-Identifier: Apache-2.0
"""The programs in docs/apps.md are run as they stand, where their tools are installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By

import inkling
from tests.support.browser import chromium, wait
from tests.support.gateway_process import serving

_TEXT = (Path(__file__).parent.parent.parent / "docs" / "apps.md").read_text()


def _program(kind: str, gateway: Any) -> str:
    """Return the one block of a kind, with the ports of a gateway."""
    [block] = re.findall(rf"^```{kind}\n(.*?)^```", _TEXT, re.DOTALL | re.MULTILINE)
    text: str = block.replace("8080", str(gateway.port))
    return text.replace("8081", str(gateway.grpc_port))


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; its program in docs/apps.md was NOT run")
    return found


@pytest.fixture
def place(tmp_path: Path, picture: bytes) -> Path:
    """A folder with a picture."""
    (tmp_path / "picture.png").write_bytes(picture)
    return tmp_path


def _output(command: list[str], place: Path) -> str:
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _expected(gateway: Any, picture: bytes) -> list[list[str]]:
    answer = gateway.request("POST", "/v1/models/cnn:classify?top_k=3", picture).json
    top = answer["results"][0]["top"]
    return [[one["label"], f"{one['probability']:.4f}"] for one in top]


def test_the_program_for_node(gateway: Any, place: Path, picture: bytes) -> None:
    """It prints the labels of the gateway."""
    node = _tool("node")
    (place / "classify.mjs").write_text(_program("js", gateway))
    printed = _output([node, "classify.mjs", "picture.png"], place)

    assert _expected(gateway, picture) == [one.split() for one in printed.splitlines()]


@pytest.mark.soak
def test_the_program_for_grpc(gateway: Any, place: Path, picture: bytes) -> None:
    """So does that over gRPC, whose packages TEST_CLIENTS_NODE names."""
    node = _tool("node")
    modules = Path(os.environ.get("TEST_CLIENTS_NODE", ".")).absolute() / "node_modules"
    if not (modules / "@grpc" / "grpc-js").exists():
        pytest.skip("@grpc/grpc-js is not in TEST_CLIENTS_NODE; nothing was checked")
    (place / "node_modules").symlink_to(modules)
    proto = Path(inkling.__file__).parent / "v1" / "classifier.proto"
    shutil.copy(proto, place)
    (place / "classify.mjs").write_text(_program("js grpc", gateway))
    printed = _output([node, "classify.mjs", "picture.png"], place)

    assert _expected(gateway, picture) == [one.split() for one in printed.splitlines()]


@pytest.mark.soak
def test_the_program_in_kotlin(gateway: Any, place: Path, picture: bytes) -> None:
    """It compiles, and prints the answer."""
    compiler = _tool("kotlinc")
    (place / "classify.kt").write_text(_program("kotlin", gateway))
    jar = ["-include-runtime", "-d", "classify.jar"]
    _output([compiler, "classify.kt", *jar], place)
    printed = _output([_tool("java"), "-jar", "classify.jar", "picture.png"], place)

    [[label, _], *_] = _expected(gateway, picture)
    assert label == json.loads(printed)["results"][0]["label"]


@contextmanager
def _origin(folder: Path) -> Iterator[str]:
    """Serve a folder; yield the origin."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_page_of_another_origin(
    published: Path, place: Path, picture: bytes, tmp_path: Path
) -> None:
    """A page that is served elsewhere shows the label, if its origin is allowed."""
    with (
        _origin(place) as origin,
        chromium(tmp_path / "profile") as browser,
        serving(published, "--cors-origin", origin, log=tmp_path / "log") as gateway,
    ):
        (place / "page.html").write_text(_program("html", gateway))
        browser.get(f"{origin}/page.html")
        field = browser.find_element(By.ID, "picture")
        field.send_keys(str(place / "picture.png"))
        wait(browser, "document.getElementById('answer').value")
        shown = browser.find_element(By.ID, "answer").text
        [[label, _], *_] = _expected(gateway, picture)

    assert label == shown
