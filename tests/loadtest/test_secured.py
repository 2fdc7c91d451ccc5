# SPDX-License-Identifier: Apache-2.0
"""Load tests of a gateway that asks for a key and speaks TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from inkling.cli.main import main
from inkling_loadtest.load.pictures import drawn_digits
from tests.support.gateway_process import GatewayProcess, children_of, command_line_of
from tests.support.load_run import PATIENCE_S, Run, load
from tests.support.machine import until

_KEY = "a-secret-key-of-some-length"


@dataclass(frozen=True)
class Secured:
    """A gateway with a key and TLS, and the files that a caller needs."""

    gateway: GatewayProcess
    folder: Path

    @property
    def flags(self) -> list[str]:
        """The options that make a caller welcome."""
        keys, roots = self.folder / "keys", self.folder / "roots.pem"
        return ["--api-key-file", str(keys), "--root-certificates", str(roots)]

    def target(self, protocol: str) -> str:
        """Its address."""
        if protocol == "grpc":
            return f"grpc://{self.gateway.grpc_target}"
        return f"https://127.0.0.1:{self.gateway.port}"


@pytest.fixture(scope="module")
def secured(
    published: Path,
    serve_gateway: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Secured]:
    """Serve both models behind a key and a certificate of an authority of our own."""
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(folder / "chain.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    authority.cert_pem.write_to_path(str(folder / "roots.pem"))
    (folder / "keys").write_text(f"{_KEY}\n")
    for picture in drawn_digits()[:7:6]:
        path = folder / "pictures" / picture.label / "digit.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture.image)
    flags = ["--tls-certificate", folder / "chain.pem", "--tls-key", folder / "key.pem"]
    flags += ["--api-key-file", folder / "keys"]
    with serve_gateway(published, *map(str, flags), log=folder / "log") as gateway:
        yield Secured(gateway, folder)


def _command_lines(run: Run) -> str:
    """Return the command lines of a run and of its processes, once these are there."""
    pid = run.process.pid
    until(lambda: children_of(pid) or run.process.poll() is not None, PATIENCE_S)
    return "".join(command_line_of(one) for one in (pid, *children_of(pid)))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_keys_and_certificates_work(
    protocol: str, secured: Secured, tmp_path: Path
) -> None:
    """Every kind of request of two processes is answered right, and the key is secret."""
    arguments = [*secured.flags, "--users", "4", "--duration", "3s", "--processes", "2"]
    arguments += ["--pictures", str(secured.folder / "pictures"), "--batch", "2"]
    if protocol == "grpc":
        # The metrics of this gateway are on another port than the usual one.
        arguments += ["--metrics-url", f"{secured.target('http')}/metrics"]

    run = load(tmp_path / protocol, secured.target(protocol), *arguments)
    shown = _command_lines(run)
    outcome = run.outcome()

    assert 0 == outcome.code, outcome.text
    report = outcome.report
    assert 4 == len(report["kinds"]) + (protocol == "grpc")
    assert report["total"]["counts"]["right"] == report["total"]["counts"]["offered"]
    assert "phases" in report["server"]
    assert str(secured.folder / "keys") == report["options"]["api_key_file"]
    for path in (*outcome.directory.iterdir(), run.log):
        assert _KEY not in path.read_text()
    assert "--api-key-file" in shown
    assert _KEY not in shown


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(
    ("left_out", "words"),
    [("--api-key-file", "API key"), ("--root-certificates", "cannot be reached")],
)
def test_without_them_nothing_is_loaded(
    left_out: str,
    words: str,
    protocol: str,
    secured: Secured,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A missing key, or an authority that is not known, is said before the load."""
    place = secured.flags.index(left_out)
    flags = secured.flags[:place] + secured.flags[place + 2 :]
    flags += ["--tls"] if protocol == "grpc" else []

    words_given = ["--target", secured.target(protocol), "--rate", "1", *flags]
    assert 1 == main(["loadtest", *words_given])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "http://127.0.0.1:1", "--tls"], "https://"),
        (["--target", "http://key@127.0.0.1:1"], "api_key"),
        (["--target", "grpc://127.0.0.1:1", "--api-key-file", "none"], "none cannot"),
        (["--target", "grpc://127.0.0.1:1", "--client-key", "none"], "go together"),
        (["--target", "grpc://127.0.0.1:1", "--metrics-url", "ftp://x"], "ftp://x"),
    ],
)
def test_what_secures_a_connection_is_checked(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong files and addresses are refused with 2 before anything is sent."""
    assert 2 == main(["loadtest", *arguments, "--rate", "1"])
    assert words in capsys.readouterr().err
