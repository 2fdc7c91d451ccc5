# SPDX-License-Identifier: Apache-2.0
"""API keys and TLS, on both ports, as a caller meets them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

import inkling
from inkling.errors import InvalidRequest, NotReady, Unauthenticated
from inkling_serving.keys import ApiKeys
from inkling_serving.settings import Settings
from tests.support.http_bytes import whole_answer

_OLD, _NEW = "an-old-key-of-some-length", "a-new-key-of-some-length"


@pytest.fixture(scope="module")
def keyed(
    published: Path,
    serve_gateway: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """A gateway that asks for a key."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "keys").write_text(f"{_OLD}\n{_NEW}\n")
    flags = ("--api-key-file", str(folder / "keys"))
    with serve_gateway(published, *flags, log=folder / "log") as process:
        yield process


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", [_OLD, _NEW])
def test_either_key_opens_both_ports(keyed: Any, picture: bytes, key: str) -> None:
    """With two keys in the file, old and new both work, over HTTP and gRPC."""
    answer = keyed.request("POST", "/v1/models/mlp:classify", picture, _bearer(key))
    with inkling.connect(keyed.grpc_target, model="mlp", api_key=key) as classifier:
        prediction = classifier.classify(picture)

    assert answer.status == 200
    assert prediction.label == answer.json["results"][0]["label"]


@pytest.mark.parametrize("headers", [{}, _bearer("wrong"), {"Authorization": _OLD}])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/mlp:classify"),
        ("POST", "/v1/models/mlp:explain"),
        ("GET", "/v1/models"),
        ("GET", "/nowhere"),
    ],
)
def test_without_a_key_nothing_is_told_over_http(
    keyed: Any, headers: dict[str, str], method: str, path: str
) -> None:
    """No key or a wrong one is 401 with WWW-Authenticate, wherever the address is."""
    answer = keyed.request(method, path, b"x" if method == "POST" else None, headers)

    assert (answer.status, answer.json["error"]["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer" in answer.json["error"]["message"]
    assert _OLD not in answer.body.decode()


@pytest.mark.parametrize("options", [{}, {"api_key": "wrong"}])
def test_without_a_key_nothing_is_told_over_grpc(
    keyed: Any, picture: bytes, options: dict[str, str]
) -> None:
    """No key or a wrong one is UNAUTHENTICATED, with the same code word."""
    with (
        inkling.connect(keyed.grpc_target, model="mlp", **options) as classifier,
        pytest.raises(Unauthenticated, match="Authorization: Bearer"),
    ):
        classifier.classify(picture)
    with grpc.insecure_channel(keyed.grpc_target) as channel:
        for method in (
            "/tensorflow.serving.PredictionService/Predict",
            "/inkling.v1.Classifier/ClassifyStream",
            "/no.Such/Method",
        ):
            call: Any = channel.unary_unary(method)
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=5)
            assert grpc.StatusCode.UNAUTHENTICATED == refused.value.code(), method


def test_a_key_that_was_right_opens_nothing_for_another(
    keyed: Any, picture: bytes
) -> None:
    """On one connection, heads that were seen before with a key and without one."""

    def request(key: str) -> bytes:
        head = f"Host: x\r\nContent-Length: {len(picture)}\r\n"
        if key:
            head += f"Authorization: Bearer {key}\r\n"
        start = "POST /v1/models/mlp:classify HTTP/1.1\r\n"
        return f"{start}{head}\r\n".encode() + picture

    keys = [_OLD, "", _OLD, "wrong" + _OLD[5:], "", _NEW, "", _NEW, _OLD] * 3
    wanted = [200 if key in (_OLD, _NEW) else 401 for key in keys]

    with socket.create_connection(("127.0.0.1", keyed.port), timeout=10) as kept:
        found = []
        for key in keys:
            kept.sendall(request(key))
            found.append(int(whole_answer(kept)[9:12]))
    with grpc.insecure_channel(keyed.grpc_target) as channel:
        call: Any = channel.unary_unary("/inkling.v1.Classifier/ListModels")
        codes = []
        for key in keys:
            metadata = [("authorization", f"Bearer {key}")] if key else []
            try:
                call(b"", metadata=metadata, timeout=5)
                codes.append(200)
            except grpc.RpcError as error:
                refused = error.code() == grpc.StatusCode.UNAUTHENTICATED
                codes.append(401 if refused else 0)

    assert wanted == found
    assert wanted == codes


def test_probes_and_the_page_need_no_key(keyed: Any) -> None:
    """What says nothing of the models is open: probes, health, and the page's files."""
    for path in ("/livez", "/readyz", "/", "/page/page.js"):
        assert keyed.request("GET", path).status == 200, path
    with grpc.insecure_channel(keyed.grpc_target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=5)
    assert health_pb2.HealthCheckResponse.SERVING == answer.status


def test_both_ports_speak_tls(
    published: Path,
    start_gateway: Callable[..., Any],
    tmp_path: Path,
    picture: bytes,
) -> None:
    """With a certificate, both ports encrypt, and the client believes its authority."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key, roots = (tmp_path / name for name in ("chain", "key", "roots"))
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(roots)
    (tmp_path / "keys").write_text(_NEW)
    (tmp_path / "picture.png").write_bytes(picture)
    flags = ("--tls-certificate", str(chain), "--tls-key", str(key))

    with start_gateway(
        published, *flags, "--api-key-file", str(tmp_path / "keys")
    ) as g:
        context = ssl.create_default_context(cafile=roots)
        connection = http.client.HTTPSConnection("127.0.0.1", g.port, context=context)
        connection.request("POST", "/v1/models/mlp:classify", picture, _bearer(_NEW))
        over_http = json.loads(connection.getresponse().read())
        connection.close()
        command = [
            sys.executable,
            "-m",
            "inkling",
            "classify",
            "--server",
            g.grpc_target,
        ]
        command += ["--root-certificates", str(roots), "--json", "--model", "mlp"]
        command += ["--api-key-file", str(tmp_path / "keys"), tmp_path / "picture.png"]
        over_grpc = subprocess.run(command, capture_output=True, text=True, timeout=30)
        with (
            inkling.connect(g.grpc_target, model="mlp") as plain,
            pytest.raises(NotReady),
        ):
            plain.classify(picture)

    assert over_grpc.returncode == 0, over_grpc.stderr
    label = json.loads(over_grpc.stdout)["label"]
    assert over_http["results"][0]["label"] == label


@pytest.mark.parametrize("content", [None, "", "short\n", "a key of words\n", "é" * 20])
def test_files_without_good_keys_stop_the_start(
    tmp_path: Path, content: str | None
) -> None:
    """A missing or empty file, or keys that are too short, are named at the start."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidRequest, match="INKLING_API_KEY_FILE"):
        ApiKeys(str(path))


def test_certificates_that_cannot_be_used_stop_the_start(tmp_path: Path) -> None:
    """A certificate without its key, or files that hold none, are named at the start."""
    from inkling_serving.security import check_security

    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    with pytest.raises(InvalidRequest, match="go together"):
        check_security(Settings(tls_certificate=str(nonsense)))
    with pytest.raises(InvalidRequest, match="PEM"):
        check_security(Settings(tls_certificate=str(nonsense), tls_key=str(nonsense)))
    missing = str(tmp_path / "missing.key")
    with pytest.raises(InvalidRequest, match=r"No such file.*missing\.key"):
        check_security(Settings(tls_certificate=str(nonsense), tls_key=missing))


@pytest.mark.parametrize("with_key", [False, True])
def test_openness_is_said_at_the_start(
    published: Path,
    start_gateway: Callable[..., Any],
    tmp_path: Path,
    with_key: bool,
) -> None:
    """Beyond loopback, a missing key is warned of, and a key in the clear, too."""
    (tmp_path / "keys").write_text(_NEW)
    flags = ["--api-key-file", str(tmp_path / "keys")] if with_key else []
    with start_gateway(published, "--host", "0.0.0.0", *flags):
        log = (tmp_path / "gateway.log").read_text()

    assert "WARNING" in log
    assert ("--tls-certificate" if with_key else "--api-key-file") in log
