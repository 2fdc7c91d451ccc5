# SPDX-License-Identifier: Apache-2.0
"""Version labels that are moved over HTTP and gRPC, by keys with the role `admin`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from inkling.cli.main import main
from inkling.contract import Contract
from inkling.model.repository import Repository
from inkling.v1 import admin_pb2 as pb
from inkling.v1.admin_pb2_grpc import AdminStub
from tests.serving.grpc_api import server_here as grpc_server
from tests.serving.http_api import server_here as http_server

_ADMIN, _PREDICT = "the-key-of-an-admin", "the-key-of-a-caller"
_SENT = {"Authorization": f"Bearer {_ADMIN}"}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository whose model `m` has three versions of one small file."""
    made = Repository(tmp_path / "models")
    for _ in range(3):
        with made.publishing("m") as publication:
            (publication.path / "file").write_text("content")
            publication.commit()
    return made


@pytest.fixture
def settings(repository: Repository, tmp_path: Path) -> dict[str, Any]:
    """The settings of a gateway of this repository, with two keys."""
    path = tmp_path / "keys"
    path.write_text(f"{_ADMIN} admin name=anna\n{_PREDICT}\n")
    return {"models_dir": repository.root, "api_key_file": str(path)}


@pytest.fixture
def over_http(
    digit_contract: Contract, settings: dict[str, Any]
) -> Iterator[http_server.Here]:
    """The gateway's HTTP port."""
    with http_server.served_here(digit_contract, **settings) as here:
        yield here


@pytest.fixture
def over_grpc(
    digit_contract: Contract, settings: dict[str, Any]
) -> Iterator[grpc_server.Here]:
    """The gateway's gRPC port."""
    with grpc_server.served_here(digit_contract, **settings) as here:
        yield here


def test_labels_move_over_http(
    over_http: http_server.Here, repository: Repository
) -> None:
    """A promotion, a label of one's own, a rollback, and who did it, are in the files."""

    def post(path: str, body: bytes = b"") -> Any:
        answer = over_http.request("POST", "/v1/models/m" + path, body, _SENT)
        assert answer.status == 200, answer.body
        return answer.json

    assert post(":promote", b'{"version": 1}')["before"] == 3
    moved = post("/labels/canary:promote", b'{"version": 2}')
    assert ("anna", "promote", 2) == (moved["who"], moved["by"], moved["after"])
    assert {"stable": 1, "canary": 2} == repository.version_labels("m")
    assert post(":rollback")["after"] == 3
    assert post("/labels/canary:promote", b'{"version": null}')["after"] is None
    assert {"stable": 3} == repository.version_labels("m")

    told = over_http.request("GET", "/v1/models/m/labels", None, _SENT).json
    assert ({"stable": 3}, "m") == (told["version_labels"], told["model"])
    assert [("canary", None), ("stable", 3), ("canary", 2), ("stable", 1)] == [
        (move["label"], move["after"]) for move in told["moves"]
    ]
    logged = (repository.root / "m" / "labels.log").read_text()
    assert 4 == logged.count('"who": "anna"')
    assert _ADMIN not in logged


def test_labels_move_over_grpc(
    over_grpc: grpc_server.Here, repository: Repository
) -> None:
    """The service of gRPC does the same, with the name of the key in the log."""
    sent = [("authorization", f"Bearer {_ADMIN}")]
    with over_grpc.channel() as channel:
        stub: Any = AdminStub(channel)  # type: ignore[no-untyped-call]
        request = pb.PromoteRequest(model="m", version=1)
        first = stub.Promote(request, metadata=sent, timeout=20)
        request = pb.PromoteRequest(model="m", label="canary", version=2)
        assert not stub.Promote(request, metadata=sent, timeout=20).HasField("before")
        rolled = stub.RollBack(pb.RollBackRequest(model="m"), metadata=sent, timeout=20)
        request = pb.PromoteRequest(model="m", label="canary")
        gone = stub.Promote(request, metadata=sent, timeout=20)
        told = stub.ListLabels(
            pb.ListLabelsRequest(model="m"), metadata=sent, timeout=20
        )

    assert (3, 1) == (first.before, first.after)
    assert ("anna", "rollback", 3) == (rolled.who, rolled.by, rolled.after)
    assert not gone.HasField("after")
    assert [("stable", 3)] == [(one.label, one.version) for one in told.labels]
    assert 4 == len(told.moves)
    assert {"stable": 3} == repository.version_labels("m")


def test_the_commands_ask_a_gateway(
    over_http: http_server.Here,
    over_grpc: grpc_server.Here,
    settings: dict[str, Any],
    repository: Repository,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`inkling promote --server` and `rollback --server` work on both ports."""

    def run(server: str, *words: str) -> int:
        flags = ["--server", server, "--api-key-file", settings["api_key_file"]]
        return main([*words, *flags])

    for server in (f"http://127.0.0.1:{over_http.port}", f"127.0.0.1:{over_grpc.port}"):
        assert run(server, "promote", "m", "2") == 0
        assert "m: stable is version 2 now" in capsys.readouterr().out
        assert run(server, "promote", "m", "1", "--label", "x") == 0
        assert {"stable": 2, "x": 1} == repository.version_labels("m")
        assert run(server, "promote", "m", "none", "--label", "x") == 0
        assert run(server, "rollback", "m") == 0
        assert {"stable": 3} == repository.version_labels("m")
        capsys.readouterr()
        assert run(server, "promote", "m", "7") == 1
        assert "has no version 7; it has: 3, 2, 1" in capsys.readouterr().err
        assert run(server, "rollback", "nobody") == 1
        assert "does not have the model" in capsys.readouterr().err
    Path(settings["api_key_file"]).write_text(_PREDICT)
    assert run(server, "promote", "m", "2") == 1
    assert "needs a key with the role admin" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"[1]", "not an object"),
        (b"{}", "no key"),
        (b'{"version": 1, "label": "x"}', "label, version"),
        (b'{"version": "1"}', "version is '1'"),
        (b'{"version": true}', "version is True"),
    ],
)
def test_other_bodies_are_refused(
    body: bytes, words: str, over_http: http_server.Here, repository: Repository
) -> None:
    """A body of another form moves nothing, and the message shows the right form."""
    answer = over_http.request("POST", "/v1/models/m:promote", body, _SENT)

    assert (400, "invalid_request") == (answer.status, answer.json["error"]["code"])
    assert words in answer.json["error"]["message"]
    assert '{"version": 4}' in answer.json["error"]["message"]
    assert {} == repository.version_labels("m")


def test_without_keys_nobody_moves_labels(
    digit_contract: Contract, repository: Repository
) -> None:
    """A gateway without a file of keys refuses over both protocols, and says why."""
    settings: Any = {"models_dir": repository.root}
    with http_server.served_here(digit_contract, **settings) as here:
        for method, path in (
            ("POST", ":promote"),
            ("POST", ":rollback"),
            ("GET", "/labels"),
        ):
            body = json.dumps({"version": 1}).encode() if method == "POST" else None
            answer = here.request(method, "/v1/models/m" + path, body)
            assert (403, "permission_denied") == (
                answer.status,
                http_server.code_of(answer),
            )
            assert b"--api-key-file" in answer.body
    with (
        grpc_server.served_here(digit_contract, **settings) as served,
        served.channel() as channel,
    ):
        stub: Any = AdminStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as caught:
            stub.Promote(pb.PromoteRequest(model="m", version=1), timeout=20)
    assert grpc.StatusCode.PERMISSION_DENIED == caught.value.code()
    assert {} == repository.version_labels("m")
