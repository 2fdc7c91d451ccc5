# SPDX-License-Identifier: Apache-2.0
"""Pages of other origins: which may call, what they may send, and what they may read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inkling.contract import Contract
from inkling.errors import InvalidRequest
from inkling_serving.http_api.flask_app import create_app
from inkling_serving.http_api.routes import ROUTES
from inkling_serving.security import check_security, cors_origins
from inkling_serving.settings import Settings
from tests.serving.http_api.server_here import Here, handlers_over, served_here
from tests.support.held_engine import HeldEngine

_APP, _OTHER = "https://app.example", "https://evil.example"
_CLASSIFY, _EXPLAIN = "/v1/models/mlp:classify", "/v1/models/mlp:explain"
_ALLOW = "access-control-allow-origin"
_KEY = "a-key-of-some-length"

Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of keys."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(_KEY)
    return str(path)


@pytest.fixture(scope="module")
def here(digit_contract: Contract, keys: str) -> Iterator[Here]:
    """A server with a key that two origins may call."""
    origins = f"{_APP}, http://localhost:3000"
    with served_here(
        digit_contract, quick=True, cors_origin=origins, api_key_file=keys
    ) as server:
        yield server


@pytest.fixture(params=["the server", "another WSGI server"])
def ask(
    request: pytest.FixtureRequest, here: Here, digit_contract: Contract, keys: str
) -> Ask:
    """Ask uvicorn with its short way, or Flask alone."""
    if request.param == "the server":

        def asked(method: str, path: str, body: bytes = b"", **headers: str) -> Any:
            found = here.request(method, path, body, _named(headers))
            return found.status, found.headers, found.body

        return asked
    settings = Settings(cors_origin=_APP, api_key_file=keys)
    app = create_app(settings, handlers_over(HeldEngine(digit_contract), settings))

    def asked_flask(method: str, path: str, body: bytes = b"", **headers: str) -> Any:
        found = app.test_client().open(
            path, method=method, data=body, headers=_named(headers), buffered=True
        )
        lower = {name.lower(): value for name, value in found.headers.items()}
        return found.status_code, lower, found.data

    return asked_flask


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def test_a_preflight_needs_no_key(ask: Ask) -> None:
    """It says what each address takes; browsers send no key with it."""
    for route in ROUTES:
        path = re.sub(r"<name:\w+>", "1", route.rule)
        status, headers, body = ask(
            "OPTIONS",
            path,
            Origin=_APP,
            Access_Control_Request_Method=route.method,
            Access_Control_Request_Headers="authorization,content-type",
        )
        assert (204, b"") == (status, body), path
        assert _APP == headers[_ALLOW]
        assert "Origin" == headers["vary"]
        assert "content-length" not in headers
        assert route.method in headers["access-control-allow-methods"].split(", ")
        allowed = headers["access-control-allow-headers"].split(", ")
        assert {"authorization", "content-type", "x-request-id"} <= set(allowed)


def test_answers_and_errors_can_be_read(ask: Ask, picture: bytes) -> None:
    """On every way: classified, explained, listed, refused, without a key, not there."""
    key = {"Authorization": f"Bearer {_KEY}"}
    for method, path, body, headers, expected in (
        ("POST", _CLASSIFY, picture, key, 200),
        ("POST", _EXPLAIN, picture, key, 200),
        ("GET", "/v1/models", b"", key, 200),
        ("POST", _CLASSIFY, b"hello", key, 400),
        ("POST", _CLASSIFY, picture, {}, 401),
        ("POST", "/nowhere", b"", key, 404),
        ("GET", _CLASSIFY, b"", key, 405),
        ("GET", "/livez", b"", {}, 200),
        ("GET", "/page/page.js", b"", {}, 200),
        ("POST", _CLASSIFY, bytes(10_485_761), key, 413),
    ):
        status, found, _ = ask(method, path, body, Origin=_APP, **headers)
        assert expected == status, path
        assert (_APP, "Origin") == (found[_ALLOW], found["vary"])
        exposed = found["access-control-expose-headers"]
        assert {"x-request-id", "retry-after"} <= set(exposed.split(", "))


def test_other_origins_get_nothing(ask: Ask, picture: bytes) -> None:
    """Neither a preflight nor an answer; a cache must keep the two apart."""
    key = {"Authorization": f"Bearer {_KEY}"}
    for origin in (_OTHER, "null", _APP + ".evil.example", "http://app.example", ""):
        answer = ask("POST", _CLASSIFY, picture, Origin=origin, **key)
        preflight = ask(
            "OPTIONS", _CLASSIFY, Origin=origin, Access_Control_Request_Method="POST"
        )
        assert 200 == answer[0]
        for _, headers, _ in (answer, preflight):
            assert not [name for name in headers if name.startswith("access-control")]
            assert "Origin" == headers["vary"]


def test_without_the_setting_nothing_is_said(
    digit_contract: Contract, picture: bytes
) -> None:
    """OPTIONS names the methods, and no page of another origin may call."""
    with served_here(digit_contract) as here:
        asked = {"Origin": _APP, "Access-Control-Request-Method": "POST"}
        preflight = here.request("OPTIONS", _CLASSIFY, headers=asked)
        answer = here.request("POST", _CLASSIFY, picture, {"Origin": _APP})

    assert (200, {"POST", "OPTIONS"}) == (
        preflight.status,
        set(preflight.headers["allow"].split(", ")),
    )
    assert 200 == answer.status
    for found in (preflight, answer):
        assert not {_ALLOW, "vary"} & set(found.headers)


def test_all_origins_may_be_allowed(digit_contract: Contract, picture: bytes) -> None:
    """With *, caches need not keep the origins apart."""
    with served_here(digit_contract, cors_origin="*") as here:
        answer = here.request("POST", _CLASSIFY, picture, {"Origin": "null"})
        asked = {"Origin": _OTHER, "Access-Control-Request-Method": "POST"}
        preflight = here.request("OPTIONS", _CLASSIFY, headers=asked)

    assert (200, 204) == (answer.status, preflight.status)
    assert "*" == answer.headers[_ALLOW] == preflight.headers[_ALLOW]
    assert "vary" not in answer.headers


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", []),
        (" , ", []),
        ("https://App.example/, http://b:8080", ["https://app.example", "http://b:8080"]),
        ("https://a:443,http://a:80", ["https://a", "http://a"]),
        ("http://a:8080", ["http://a:8080"]),
        ("capacitor://localhost,http://[::1]:3000", None),
        ("*", ["*"]),
    ],
)  # fmt: skip
def test_origins_are_those_that_browsers_send(
    given: str, expected: list[str] | None
) -> None:
    """In small letters, without a slash at the end and without the usual port."""
    found = cors_origins(Settings(cors_origin=given))

    assert (expected if expected is not None else given.split(",")) == found


@pytest.mark.parametrize(
    "given",
    ["app.example", "null", "https://", "https://a/b", "https://*.a", "https:a"],
)
def test_malformed_origins_are_refused_at_the_start(given: str) -> None:
    """The message shows the form of an origin."""
    with pytest.raises(InvalidRequest, match=r"https://app\.example"):
        check_security(Settings(cors_origin=f"https://a.example,{given}"))


def test_all_origins_and_keys_exclude_each_other(keys: str) -> None:
    """A page of anybody must not be able to use a key."""
    with pytest.raises(InvalidRequest, match="Name the origins"):
        check_security(Settings(cors_origin="*", api_key_file=keys))
