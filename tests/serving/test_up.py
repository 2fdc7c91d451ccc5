# SPDX-License-Identifier: Apache-2.0
"""`inkling up` behind keys and TLS, on free ports and on every kind of address."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from inkling.errors import InklingError, NotReady
from inkling.gateway.probes import Probes, trusting_only
from inkling_serving.settings import Settings
from tests.support.gateway_process import Running, children_of, command_line_of
from tests.support.machine import free_port, until
from tests.support.raw_server import RawServer, answering, response

_KEY = "a-secret-key-of-some-length"
Start = Callable[..., Running]


@contextmanager
def _up(start: Start, published: Path, *flags: object) -> Iterator[str]:
    """Run `inkling up` until it serves; yields what it has printed, and ends it."""
    words = ["--models-dir", published, "--grpc-port", free_port(), "--workers", 1]
    running = start("up", *words, *flags, start_new_session=True)
    try:
        until(
            lambda: (
                "Serving mlp, cnn" in running.log.read_text()
                or running.process.poll() is not None
            )
        )
        assert running.process.poll() is None, running.log.read_text()
        lines = [command_line_of(pid) for pid in children_of(running.process.pid)]
        assert lines
        assert _KEY not in "".join([*lines, command_line_of(running.process.pid)])
        yield running.log.read_text()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGTERM)
        running.process.wait(30)


def _command(text: str) -> str:
    """Return the command that `inkling up` shows."""
    [command] = re.findall(r"^  (curl .*)$", text, re.MULTILINE)
    return str(command)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A file of two keys, with a name that a shell would take apart."""
    path = tmp_path / "two keys"
    path.write_text(f"{_KEY}\nanother-key-of-some-length\n")
    return path


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, Path]:
    """A certificate for a host that is not this one, by an authority nobody trusts."""
    issued = trustme.CA().issue_cert("inkling.example")
    files = {"--tls-certificate": tmp_path / "chain", "--tls-key": tmp_path / "key"}
    issued.cert_chain_pems[0].write_to_path(str(files["--tls-certificate"]))
    issued.private_key_pem.write_to_path(str(files["--tls-key"]))
    return files


def _run(command: str, folder: Path, picture: bytes) -> str:
    (folder / "picture.png").write_bytes(picture)
    done = subprocess.run(
        ["bash", "-c", command.replace("curl", "curl -sSf", 1)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_up_serves_behind_a_key(
    start: Start, published: Path, keys: Path, tmp_path: Path, picture: bytes
) -> None:
    """With --api-key-file it comes up, shows a command that works, and no key."""
    port = free_port()
    with _up(start, published, "--http-port", port, "--api-key-file", keys) as text:
        answer = _run(_command(text), tmp_path, picture)

    assert '"label":"3"' in answer
    assert _KEY not in text


def test_up_serves_over_tls(
    start: Start,
    published: Path,
    certificate: dict[str, Path],
    keys: Path,
    tmp_path: Path,
    picture: bytes,
) -> None:
    """It knows its gateway by the certificate, whatever name and authority that has."""
    port = free_port()
    flags = [word for pair in certificate.items() for word in pair]
    flags += ["--http-port", port, "--api-key-file", keys]
    with _up(start, published, *flags) as text:
        answer = _run(_command(text) + " --insecure", tmp_path, picture)

    assert f"https://127.0.0.1:{port}/" in text
    assert "only if its name is in the certificate" in text
    assert '"label":"3"' in answer


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("localhost", "localhost"),
        ("::1", "[::1]"),
        ("::", "[::1]"),
    ],
)
def test_up_takes_a_free_port(
    host: str,
    shown: str,
    start: Start,
    published: Path,
    tmp_path: Path,
    picture: bytes,
) -> None:
    """With --http-port 0 the address that it shows is the real one, on every host."""
    if ":" in host and not _has_ipv6():
        pytest.skip("this machine has no IPv6; nothing checked")
    flags = ["--http-port", 0, "--host", host, "--log-level", "error"]
    with _up(start, published, *flags) as text:
        assert re.search(rf"Draw at http://{re.escape(shown)}:[1-9]\d+/ or", text), text
        assert '"label":"3"' in _run(_command(text), tmp_path, picture)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--api-key-file", "missing"], "missing"),
        (["--tls-certificate", "missing", "--tls-key", "missing"], "missing"),
        (["--host", "192.0.2.1", "--http-port", "0"], "192.0.2.1"),
        (["--client-certificate", "x.pem"], "go together"),
    ],
)
def test_up_says_why_it_does_not_come_up(
    flags: list[str], words: str, start: Start, published: Path
) -> None:
    """It ends with 1 and the reason, and starts nothing that stays."""
    running = start("up", "--models-dir", published, "--grpc-port", 0, *flags)

    assert running.process.wait(30) == 1
    text = running.log.read_text()
    assert words in text
    assert "Traceback" not in text


def test_up_shows_a_client_certificate(
    start: Start, published: Path, certificate: dict[str, Path], tmp_path: Path
) -> None:
    """Where the gateway asks for one, `inkling up` needs one, too."""
    if "tls_client_ca" not in {item.name for item in dataclasses.fields(Settings)}:
        pytest.skip("this gateway asks for no client's certificate; nothing checked")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    shown = _client_files(authority, tmp_path)
    flags = [word for pair in certificate.items() for word in pair]
    flags += ["--tls-client-ca", str(tmp_path / "ca"), "--http-port", "0"]

    refused = start("up", "--models-dir", published, *flags)
    assert refused.process.wait(30) == 1
    assert "--client-certificate" in refused.log.read_text()
    files = ["--client-certificate", shown[0], "--client-key", shown[1]]
    with _up(start, published, *flags, *files) as text:
        assert "https://127.0.0.1:" in text


def _client_files(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    issued = authority.issue_cert("client.example")
    chain, key = folder / "client.pem", folder / "client.key"
    issued.cert_chain_pems[0].write_to_path(str(chain))
    issued.private_key_pem.write_to_path(str(key))
    return chain, key


# What it asks with.


def _server(
    issued: trustme.LeafCert, client_authority: trustme.CA | None = None
) -> RawServer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    if client_authority:
        context.verify_mode = ssl.CERT_REQUIRED
        client_authority.configure_trust(context)
    return RawServer(answering(lambda _: response(200, {"live": True})), context)


def test_only_the_certificate_itself_is_trusted(tmp_path: Path) -> None:
    """Another certificate of the same authority, and for the same name, is not."""
    authority = trustme.CA()
    own, other = (authority.issue_cert("127.0.0.1") for _ in range(2))
    chain = tmp_path / "chain"
    own.cert_chain_pems[0].write_to_path(str(chain))
    authority.cert_pem.write_to_path(str(chain), append=True)
    servers = [_server(own), _server(other)]
    try:
        with Probes(servers[0].url, trusting_only(chain)) as probes:
            assert probes.is_live()
        with (
            Probes(servers[1].url, trusting_only(chain)) as probes,
            pytest.raises(NotReady, match="certificate"),
        ):
            probes.is_live()
    finally:
        for server in servers:
            server.close()


def test_probes_show_a_client_certificate(tmp_path: Path) -> None:
    """With a certificate of the right authority they are answered, without refused."""
    authority = trustme.CA()
    own = authority.issue_cert("inkling.example")
    chain = tmp_path / "chain"
    own.cert_chain_pems[0].write_to_path(str(chain))
    server = _server(own, authority)
    shown = _client_files(authority, tmp_path)
    try:
        with Probes(server.url, trusting_only(chain, shown)) as probes:
            assert probes.is_live()
        with (
            Probes(server.url, trusting_only(chain)) as probes,
            pytest.raises(InklingError, match="client certificate"),
        ):
            probes.is_live()
    finally:
        server.close()
