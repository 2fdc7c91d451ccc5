# SPDX-License-Identifier: Apache-2.0
"""The table of roles: each HTTP address and each gRPC method, with a key of each role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from inkling.contract import Contract
from inkling.errors import InvalidRequest, PermissionDenied
from inkling.v1 import admin_pb2, classifier_pb2
from inkling_serving.dialects.open_inference.servicer import OpenInferenceDialect
from inkling_serving.dialects.tensorflow_serving.servicers import (
    TensorFlowServingDialect,
)
from inkling_serving.grpc_api.roles import ROLES
from inkling_serving.http_api.openapi.document import document
from inkling_serving.http_api.routes import ROUTES, role_of
from inkling_serving.keys import ApiKeys, Role
from inkling_serving.settings import Settings
from tests.serving.grpc_api import server_here as grpc_server
from tests.serving.http_api import server_here as http_server

_KEYS = {role: f"the-key-of-the-role-{role}" for role in Role}
# Before there were roles, a line was a key and nothing else.
_BARE = "a-key-that-has-no-roles"
_NAMES = {"model": "mlp", "version": "1", "version_label": "stable"}


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with a key for each role, and one without roles."""
    path = tmp_path_factory.mktemp("roles") / "keys"
    lines = [f"{key} {role}\n" for role, key in _KEYS.items()]
    path.write_text("".join([*lines, f"{_BARE}\n"]))
    return str(path)


@pytest.fixture(scope="module")
def over_http(digit_contract: Contract, key_file: str) -> Iterator[http_server.Here]:
    """An HTTP server with these keys."""
    with http_server.served_here(digit_contract, api_key_file=key_file) as here:
        yield here


@pytest.fixture(scope="module")
def over_grpc(digit_contract: Contract, key_file: str) -> Iterator[grpc_server.Here]:
    """A gRPC server with these keys."""
    with grpc_server.served_here(digit_contract, api_key_file=key_file) as here:
        yield here


def _expected(role: Role | None) -> dict[str, bool]:
    """Return for each key whether a request that needs a role is refused with it."""
    refused = {
        key: role not in (None, Role.READ) and role is not has
        for has, key in _KEYS.items()
    }
    return {**refused, _BARE: role in (Role.FEEDBACK, Role.ADMIN)}


@pytest.mark.parametrize(
    "route", ROUTES, ids=lambda route: f"{route.method} {route.rule}"
)
def test_each_address_asks_for_its_role(
    route: Any, over_http: http_server.Here
) -> None:
    """A key without the role of an address gets 403 there, and a sentence that names it."""
    path = re.sub(r"<name:(\w+)>", lambda m: _NAMES.get(m[1], "0" * 64), route.rule)
    body = b"{}" if route.method == "POST" else None
    role, refused = route.operation.role, {}
    for key in _expected(role):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        answer = over_http.request(route.method, path, body, headers)
        refused[key] = answer.status == 403
        if refused[key]:
            assert f"needs a key with the role {role}".encode() in answer.body
            assert answer.headers["x-inkling-error-code"] == "permission_denied"

    assert _expected(role) == refused


@pytest.mark.parametrize("method", ROLES)
def test_each_method_asks_for_its_role(
    method: str, over_grpc: grpc_server.Here
) -> None:
    """A key without the role of a method gets PERMISSION_DENIED, which names it."""
    role, refused = ROLES[method], {}
    with over_grpc.channel() as channel:
        for key in _expected(role):
            call: Any = channel.unary_stream(method)
            answers = call(
                b"", metadata=[("authorization", f"Bearer {key}")], timeout=20
            )
            with suppress(StopIteration, grpc.RpcError):
                next(answers)
            answers.cancel()
            refused[key] = answers.code() == grpc.StatusCode.PERMISSION_DENIED
            if refused[key]:
                assert f"the role {role}" in answers.details()

    assert _expected(role) == refused


class _Recorder:
    """Takes the methods of servicers, as a gRPC server does."""

    def __init__(self) -> None:
        self.methods: set[str] = set()

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Note the names of the methods."""
        for one in handlers:
            self.methods |= set(one._method_handlers)


def test_each_method_is_in_the_table(over_grpc: grpc_server.Here) -> None:
    """The table has the methods of all services, and no others."""
    found = _Recorder()
    nothing: Any = None
    service: Any = SimpleNamespace(quotas=None)
    for dialect in (
        TensorFlowServingDialect(service, nothing, nothing),
        OpenInferenceDialect(service, nothing, nothing, over_grpc.server.streams),
    ):
        dialect.add_to(found)  # type: ignore[arg-type]
    for file in (
        classifier_pb2.DESCRIPTOR,
        admin_pb2.DESCRIPTOR,
        health_pb2.DESCRIPTOR,
    ):
        for service in file.services_by_name.values():
            names = (method.name for method in service.methods)
            found.methods |= {f"/{service.full_name}/{name}" for name in names}

    assert found.methods == set(ROLES)


def test_a_role_that_is_gone_is_gone(tmp_path: Path) -> None:
    """A role that is taken out of the file is refused from then on."""
    path = tmp_path / "keys"
    path.write_text(f"{_BARE} predict admin name=anna\n")
    keys = ApiKeys(str(path))
    known = keys.check(f"Bearer {_BARE}", Role.ADMIN)
    assert known is not None
    assert ("anna", {Role.PREDICT, Role.ADMIN}) == (known.name, known.roles)
    assert _BARE not in repr(known)

    path.write_text(f"{_BARE} predict\n")
    keys.renew()

    keys.check(f"Bearer {_BARE}", Role.PREDICT)
    with pytest.raises(
        PermissionDenied, match="role admin; the key has: predict, read"
    ):
        keys.check(f"Bearer {_BARE}", Role.ADMIN)


@pytest.mark.parametrize("words", ["root", "predict another-key-of-length", "name=a/b"])
def test_other_words_after_a_key_are_refused(words: str, tmp_path: Path) -> None:
    """The message has the line and the roles, and quotes no word, which may be a key."""
    path = tmp_path / "keys"
    path.write_text(f"{_BARE}\n\n{_KEYS[Role.READ]} {words}\n")
    with pytest.raises(InvalidRequest, match=r"read, predict, feedback.* Line 3") as e:
        ApiKeys(str(path))

    assert "another-key" not in e.value.message


def test_the_document_names_the_roles() -> None:
    """Each operation names its role, and 403 where not every key has it."""
    shown = document(ROUTES, Settings(api_key_file="keys"))["paths"]
    for route in ROUTES:
        path = re.sub(r"<name:(\w+)>", r"{\1}", route.rule)
        operation, role = shown[path][route.method.lower()], route.operation.role
        wanted = [{"apiKey": [str(role)]}] if role else None
        assert wanted == operation.get("security")
        assert ("403" in operation["responses"]) == (role not in (None, Role.READ))


def test_pages_and_other_methods_have_roles() -> None:
    """Pages are open, as is another method at an open address; else any key is asked for."""
    for path in ("/", "/docs", "/page/page.js", "/livez"):
        assert role_of("GET", path) is role_of("HEAD", path) is None
    assert role_of("POST", "/livez") is None
    assert role_of("DELETE", "/v1/models") is Role.READ
    assert role_of("GET", "/nowhere") is Role.READ


@pytest.mark.parametrize("slashes", ["//", "///", "//////"])
@pytest.mark.parametrize("path", ["v1/models/mlp:classify", "v1/feedback"])
def test_slashes_before_an_address_change_no_role(
    slashes: str, path: str, over_http: http_server.Here
) -> None:
    """They lead to the same address, which asks for the same role."""
    headers = {"Authorization": f"Bearer {_KEYS[Role.READ]}"}

    for start in ("/", slashes):
        assert 403 == over_http.request("POST", start + path, b"x", headers).status
