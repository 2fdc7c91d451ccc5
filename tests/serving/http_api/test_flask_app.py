# SPDX-License-Identifier: Apache-2.0
"""The Flask application by itself, as any WSGI server runs it."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import flask
import flask.testing
import pytest
from werkzeug.test import create_environ, run_wsgi_app

from inkling.contract import Contract
from inkling_serving.http_api.flask_app import create_app
from inkling_serving.http_api.routes import ROUTES
from inkling_serving.settings import Settings
from tests.serving.http_api.server_here import handlers_over
from tests.support.held_engine import HeldEngine

_CLASSIFY = "/v1/models/mlp:classify"
_KEY = "a-key-of-some-length"


@pytest.fixture
def app(digit_contract: Contract) -> Callable[..., flask.Flask]:
    """Make the application over an engine of the tests."""

    def make(**settings: Any) -> flask.Flask:
        wanted = Settings(**settings)
        return create_app(wanted, handlers_over(HeldEngine(digit_contract), wanted))

    return make


@pytest.fixture
def client(app: Callable[..., flask.Flask]) -> flask.testing.FlaskClient:
    """Flask's own test client."""
    return app().test_client()


class _Server(ThreadingMixIn, WSGIServer):
    """The standard library's WSGI server, with a thread for each request."""


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""


@contextmanager
def _wsgiref(app: flask.Flask) -> Iterator[int]:
    server = make_server("127.0.0.1", 0, app, _Server, _Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _asked(
    port: int, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_the_environment_makes_the_application(
    published: Path, monkeypatch: pytest.MonkeyPatch, picture: bytes
) -> None:
    """Without arguments, settings and models are those of the environment."""
    monkeypatch.setenv("INKLING_MODELS_DIR", str(published))
    client = create_app().test_client()

    answer = client.post(_CLASSIFY, data=picture)
    listed = client.get("/v1/models")

    assert 200 == answer.status_code
    assert "3" == answer.get_json()["results"][0]["label"]
    assert ["cnn", "mlp"] == [model["name"] for model in listed.get_json()["models"]]


def test_flask_lists_every_route(tmp_path: Path) -> None:
    """`flask routes` names each address of the table, with its method."""
    command = [sys.executable, "-m", "flask"]
    command += ["--app", "inkling_serving.http_api.flask_app", "routes"]
    environ = {**os.environ, "INKLING_MODELS_DIR": str(tmp_path)}
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    rows = {
        tuple(re.split(r"\s{2,}", line.strip())[1:])
        for line in done.stdout.splitlines()
    }
    for route in ROUTES:
        assert (route.method, route.rule) in rows
    assert ("GET", "/") in rows


def test_another_wsgi_server_answers_alike(
    app: Callable[..., flask.Flask], picture: bytes
) -> None:
    """Pictures, refusals, HEAD and the page, under the standard library's server."""
    with _wsgiref(app()) as port:
        good = _asked(port, "POST", _CLASSIFY, picture)
        bad = _asked(port, "POST", _CLASSIFY, b"hello")
        head = _asked(port, "HEAD", "/v1/models")
        page = _asked(port, "GET", "/")
        nothing = _asked(port, "GET", "/nowhere")
        method = _asked(port, "GET", _CLASSIFY)

    assert (200, True) == (good[0], b'"label":"3"' in good[1])
    assert (400, True) == (bad[0], b'"invalid_image"' in bad[1])
    assert (200, b"") == head
    assert (200, True) == (page[0], b"<html" in page[1].lower())
    assert (404, True) == (nothing[0], b'"not_found"' in nothing[1])
    assert (405, True) == (method[0], b'"method_not_allowed"' in method[1])


def test_a_body_over_the_limit_is_refused(
    app: Callable[..., flask.Flask], picture: bytes
) -> None:
    """A body of the limit is read, one byte more is not, whatever its length says."""
    small = app(max_body_bytes=len(picture))
    with _wsgiref(small) as port:
        assert 200 == _asked(port, "POST", _CLASSIFY, picture)[0]
        status, body = _asked(port, "POST", _CLASSIFY, picture + b"x")
    chunks = [picture, b"x"]
    refused = _handed_over(small, chunks)

    assert (413, True) == (status, b'"too_large"' in body)
    assert refused.startswith("413 ")
    assert _handed_over(small, [picture[:9], picture[9:]]).startswith("200 ")


class _Chunks:
    """A body without a length, as servers hand it over that read chunks themselves."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.left = list(chunks)

    def read(self, size: int = -1) -> bytes:
        """Return what has come, which may be less."""
        del size
        return self.left.pop(0) if self.left else b""


def _handed_over(app: flask.Flask, chunks: list[bytes], path: str = _CLASSIFY) -> str:
    """Post a body in chunks; return the status."""
    environ = create_environ(path, method="POST")
    environ["wsgi.input"], environ["wsgi.input_terminated"] = _Chunks(chunks), True
    environ["HTTP_TRANSFER_ENCODING"] = "chunked"
    _, status, _ = run_wsgi_app(app, environ, buffered=True)
    assert environ["wsgi.input"].left == [] or status.startswith("401 ")
    return status


def test_a_body_that_is_cut_short_is_the_callers_mistake(
    app: Callable[..., flask.Flask],
) -> None:
    """A client that hangs up in the middle is told so in the form of all errors."""
    with (
        _wsgiref(app()) as port,
        socket.create_connection(("127.0.0.1", port), 10) as connection,
    ):
        head = f"POST {_CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"hello")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()

    assert answer.startswith(b"HTTP/1.0 400 ")
    assert b'"code":"invalid_request"' in answer


@pytest.mark.parametrize(
    ("path", "open_"),
    [
        ("/livez", True),
        ("/readyz", True),
        ("/", True),
        ("/page/page.js", True),
        ("/page/../v1/models", True),
        ("/v1/models", False),
        ("/metrics", False),
        ("/nowhere", False),
    ],
)
def test_the_key_is_asked_for_under_any_server(
    app: Callable[..., flask.Flask], tmp_path: Path, path: str, open_: bool
) -> None:
    """What is open is so, and nothing else; a key opens all, however Bearer is written."""
    (tmp_path / "keys").write_text(_KEY)
    client = app(api_key_file=str(tmp_path / "keys")).test_client()

    def got(*words: str) -> Any:
        headers = {"Authorization": " ".join(words)} if words else {}
        return client.get(path, headers=headers, buffered=True)

    without, wrong = got(), got("Bearer", "wrong")
    right = {got(s, _KEY).status_code for s in ("Bearer", "bearer", "BEARER")}

    for answer in (without, wrong):
        assert (401 == answer.status_code) is not open_
        assert b'"models"' not in answer.data
    assert 401 not in right
    assert 1 == len(right)


def test_without_a_key_no_body_is_read(
    app: Callable[..., flask.Flask], tmp_path: Path
) -> None:
    """Who may not ask does not make the server wait for a body."""
    (tmp_path / "keys").write_text(_KEY)
    keyed = app(api_key_file=str(tmp_path / "keys"))

    assert _handed_over(keyed, [b"never read"]).startswith("401 ")


def test_every_route_answers_its_method_alone(
    client: flask.testing.FlaskClient,
) -> None:
    """Each rule of the table is an address; another method is told which are allowed."""
    for route in ROUTES:
        path = re.sub(r"<name:\w+>", "1", route.rule)
        wrong = "DELETE"
        answer = client.open(path, method=wrong)
        assert 405 == answer.status_code, path
        assert route.method in answer.headers["Allow"]
        error = answer.get_json()["error"]
        assert "DELETE" in (error if isinstance(error, str) else error["message"])


def test_a_range_beyond_a_file_is_the_callers_mistake(
    client: flask.testing.FlaskClient,
) -> None:
    """Werkzeug's own refusals are told in the form of all errors."""
    answer = client.get("/", headers={"Range": "bytes=99999999-"})

    assert (400, "invalid_request") == (
        answer.status_code,
        answer.get_json()["error"]["code"],
    )


def test_an_unforeseen_error_is_told_without_its_words(
    digit_contract: Contract, picture: bytes
) -> None:
    """Flask's own page of an error, and the words of the exception, do not leave."""

    class Broken(HeldEngine):
        def predict(self, *_: Any) -> Any:
            raise RuntimeError("secret words in /etc/passwd")

    settings = Settings()
    app = create_app(settings, handlers_over(Broken(digit_contract), settings))
    answer = app.test_client().post(_CLASSIFY, data=picture)

    assert (500, "internal") == (
        answer.status_code,
        answer.get_json()["error"]["code"],
    )
    assert b"secret" not in answer.data


@pytest.mark.parametrize(
    "path",
    [
        "/page//x",
        "/page//page.js",
        "//x",
        "//",
        "/page/",
        "/page",
        "/v1/models/",
        "/x/",
    ],
)
def test_no_address_redirects(client: flask.testing.FlaskClient, path: str) -> None:
    """A proxy's host and prefix are unknown here, so that a redirect would lead away."""
    answer = client.get("/", environ_overrides={"PATH_INFO": path}, buffered=True)

    assert answer.status_code in (200, 404)
    assert "Location" not in answer.headers


def test_a_file_of_this_machine_is_not_a_file_of_the_page(
    client: flask.testing.FlaskClient,
) -> None:
    """Paths that lead out of the page's folder lead nowhere."""
    here = os.path.relpath(__file__, "/")
    for name in (
        f"../../../../{here}",
        f"/{here}",
        "../settings.py",
        "..%2Fsettings.py",
    ):
        assert 404 == client.get(f"/page/{name}").status_code
