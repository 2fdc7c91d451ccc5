# SPDX-License-Identifier: Apache-2.0
"""The commands that ask a gateway which requires a key, TLS and a client certificate."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

import inkling
from inkling.errors import InklingError, NotReady, Unauthenticated
from inkling_serving.settings import Settings
from tests.support.gateway_process import GatewayProcess

_KEY = "a-secret-key-of-some-length"


@dataclass(frozen=True)
class Secured:
    """A gateway that requires a key and TLS, and what its callers need."""

    gateway: GatewayProcess
    options: dict[str, Path]

    def target(self, protocol: str) -> str:
        """Its address."""
        if protocol == "gRPC":
            return self.gateway.grpc_target
        return f"https://127.0.0.1:{self.gateway.port}"

    @property
    def flags(self) -> list[str]:
        """The options of a command."""
        return [
            word for name, path in self.options.items() for word in (name, str(path))
        ]

    @property
    def arguments(self) -> dict[str, Any]:
        """The same for `inkling.connect`."""
        given = {name[2:].replace("-", "_"): p for name, p in self.options.items()}
        del given["api_key_file"]
        return {"api_key": _KEY, **given}


@pytest.fixture(scope="module")
def secured(
    published: Path,
    serve_gateway: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Secured]:
    """Serve with a certificate, a key, and client certificates where they can be asked."""
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "roots.pem"))
    for name, host in (("server", "127.0.0.1"), ("client", "client.example")):
        issued = authority.issue_cert(host)
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    (folder / "keys").write_text(f"{_KEY}\nanother-key-of-some-length\n")
    flags = ["--tls-certificate", folder / "server.pem", "--tls-key"]
    flags += [folder / "server.key", "--api-key-file", folder / "keys"]
    if "tls_client_ca" in {item.name for item in dataclasses.fields(Settings)}:
        flags += ["--tls-client-ca", folder / "roots.pem"]
    options = {
        "--root-certificates": folder / "roots.pem",
        "--client-certificate": folder / "client.pem",
        "--client-key": folder / "client.key",
        "--api-key-file": folder / "keys",
    }
    with serve_gateway(published, *map(str, flags), log=folder / "log") as gateway:
        yield Secured(gateway, options)


@pytest.fixture(scope="module")
def digit(tmp_path_factory: pytest.TempPathFactory, picture: bytes) -> Path:
    """A three, in a folder that says so."""
    path = tmp_path_factory.mktemp("pictures") / "3" / "digit.png"
    path.parent.mkdir()
    path.write_bytes(picture)
    return path


def _inkling(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "inkling", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("protocol", ["gRPC", "HTTP"])
def test_commands_have_keys_and_certificates(
    protocol: str, secured: Secured, digit: Path
) -> None:
    """`inkling classify` and `inkling evaluate` have the same options, and show no key."""
    server = ["--server", secured.target(protocol), *secured.flags]
    classified = _inkling("classify", digit, *server, "--json")
    evaluated = _inkling(
        "evaluate", "--pictures", digit.parent.parent, *server, "--json"
    )

    for done in (classified, evaluated):
        assert 0 == done.returncode, done.stderr
        assert _KEY not in done.stdout + done.stderr
    assert "3" == json.loads(classified.stdout)["label"]
    assert 1 == json.loads(evaluated.stdout)["accuracy"]["right"]


@pytest.mark.parametrize("protocol", ["gRPC", "HTTP"])
def test_python_has_keys_and_certificates(
    protocol: str, secured: Secured, digit: Path
) -> None:
    """`inkling.connect` has them, too; without one of them a call is refused."""
    target = secured.target(protocol)
    with inkling.connect(target, **secured.arguments) as classifier:
        assert "3" == classifier.classify(digit).label
        assert "ink-3" == classifier.contract().finder

    kinds = {}
    for name in ("api_key", "root_certificates"):
        left = {key: path for key, path in secured.arguments.items() if key != name}
        with (
            inkling.connect(target, **left) as classifier,
            pytest.raises(InklingError) as refused,
        ):
            classifier.classify(digit)
        kinds[name] = type(refused.value)
    assert {"api_key": Unauthenticated, "root_certificates": NotReady} == kinds


def test_options_for_a_gateway_need_one(secured: Secured, digit: Path) -> None:
    """Keys and certificates are refused where the model runs on this device."""
    done = _inkling("evaluate", "--pictures", digit.parent.parent, *secured.flags)

    assert 1 == done.returncode
    assert "--server" in done.stderr
