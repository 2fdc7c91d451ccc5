# SPDX-License-Identifier: Apache-2.0
"""The addresses of gateways in all their spellings, and what stands there instead."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

import inkling
from inkling.errors import InklingError, InvalidRequest, NotReady
from inkling.gateway.connection import Connection
from inkling.network.address import Address, is_loopback
from tests.support.machine import free_port
from tests.support.raw_server import RawServer, response


@pytest.mark.parametrize(
    ("text", "url", "grpc_target"),
    [
        ("localhost:8081", "grpc://localhost:8081", "localhost:8081"),
        ("localhost", "grpc://localhost:8081", "localhost:8081"),
        ("my_gateway:9", "grpc://my_gateway:9", "my_gateway:9"),
        ("grpc://10.0.0.1:9", "grpc://10.0.0.1:9", "10.0.0.1:9"),
        ("GRPC://host:9/", "grpc://host:9", "host:9"),
        ("grpcs://host", "grpcs://host:8081", "host:8081"),
        ("[::1]:9", "grpc://[::1]:9", "[::1]:9"),
        ("::1", "grpc://[::1]:8081", "[::1]:8081"),
        ("[::1]", "grpc://[::1]:8081", "[::1]:8081"),
        ("fe80::1", "grpc://[fe80::1]:8081", "[fe80::1]:8081"),
        ("dns:///host:9", "grpc://host:9", "dns:///host:9"),
        ("dns://10.0.0.53/host:9", "grpc://host:9", "dns://10.0.0.53/host:9"),
        (
            "ipv4:10.0.0.1:9,10.0.0.2:9",
            "grpc://10.0.0.1:9",
            "ipv4:10.0.0.1:9,10.0.0.2:9",
        ),
        ("ipv6:[fd00::1]:9", "grpc://[fd00::1]:9", "ipv6:[fd00::1]:9"),
        ("http://localhost:8080", "http://localhost:8080", ""),
        ("HTTP://localhost:8080/", "http://localhost:8080", ""),
        ("https://host/prefix/", "https://host:443/prefix", ""),
        ("http://[::1]:8080", "http://[::1]:8080", ""),
    ],
)
def test_every_spelling_is_understood(text: str, url: str, grpc_target: str) -> None:
    """One parser reads what the log prints, what gRPC takes, and bare hosts."""
    address = Address.parse(text)

    assert (url, grpc_target) == (address.url, address.grpc_target)
    assert bool(grpc_target) == address.is_grpc
    assert text.lower().startswith(("grpcs", "https")) == address.is_encrypted
    assert url == Address.parse(url).url


@pytest.mark.parametrize(
    "text",
    [
        *("", ":8081", "host:", "host:http", "host:0", "host:65536", "host:-1"),
        *("ftp://host:8081", "models/cnn/3", "cnn.tflite", "a b:1", "[::1", "1::2::3"),
        *("http://", "http://a..b", "grpc://host/path", "dns:///", "http:/host"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """The message has both forms of an address."""
    with pytest.raises(
        InvalidRequest, match="host:port.*http://localhost:8080|names no"
    ):
        Address.parse(text)


@pytest.mark.parametrize("text", ["grpc://key@host:1", "host:1?a=b", "http://h/#x"])
def test_an_address_has_no_more_parts(text: str) -> None:
    """A key in an address would be seen in process lists and logs."""
    with pytest.raises(InvalidRequest, match="api_key"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((h, True) for h in ("localhost", "LOCALHOST.", "a.localhost", "127.0.0.1")),
        *(
            (h, True)
            for h in ("127.8.9.1", "127.1", "::1", "[::1]", "::ffff:127.0.0.1")
        ),
        *(
            (h, False)
            for h in ("localhost.example", "128.0.0.1", "::2", "", "10.0.0.1")
        ),
        *((h, False) for h in ("0.0.0.0", "::", "127.example", "notlocalhost")),
    ],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    """By name, by each form of an IPv4 or IPv6 address, and nothing else."""
    assert expected == is_loopback(host)


def test_aio_names_the_other_port() -> None:
    """The asyncio client asks over gRPC only, and says so at once."""
    with pytest.raises(InvalidRequest, match="gRPC port, such as localhost:8081"):
        inkling.AioClassifier("http://localhost:8080")


# Servers of another kind than the client takes them for.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that nobody trusts by default."""
    return trustme.CA()


@pytest.fixture(scope="module")
def pair(authority: trustme.CA) -> trustme.LeafCert:
    """A certificate for this machine."""
    return authority.issue_cert("127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def grpc_ports(pair: trustme.LeafCert) -> Iterator[dict[bool, str]]:
    """GRPC servers without methods: with TLS, and without."""
    secret = grpc.ssl_server_credentials(
        [(pair.private_key_pem.bytes(), pair.cert_chain_pems[0].bytes())]
    )
    server = grpc.server(ThreadPoolExecutor(2))
    ports = {
        True: server.add_secure_port("127.0.0.1:0", secret),
        False: server.add_insecure_port("127.0.0.1:0"),
    }
    server.start()
    yield {tls: f"127.0.0.1:{port}" for tls, port in ports.items()}
    server.stop(None).wait()


@pytest.fixture(scope="module")
def http_ports(pair: trustme.LeafCert) -> Iterator[dict[bool, str]]:
    """HTTP servers: with TLS, and without."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pair.configure_cert(context)
    servers = {
        tls: RawServer(_refuse, tls=context if tls else None) for tls in (True, False)
    }
    yield {tls: f"127.0.0.1:{server.port}" for tls, server in servers.items()}
    for server in servers.values():
        server.close()


def _refuse(sock: socket.socket) -> None:
    """Answer the first bytes, whatever they are, as HTTP servers do."""
    sock.recv(65536)
    sock.sendall(response(400, {}, "Connection: close"))


def _message(target: str, **options: Any) -> str:
    with (
        inkling.connect(target, timeout_s=10, **options) as classifier,
        pytest.raises(InklingError) as refused,
    ):
        classifier.classify(b"x")
    assert isinstance(refused.value, NotReady)
    return refused.value.message


@pytest.mark.parametrize(
    ("scheme", "port", "words"),
    [
        ("grpc", "grpc tls", "it speaks TLS; use grpcs://"),
        ("grpc", "http", "it is an HTTP port; give it as http://"),
        ("grpc", "http tls", "it speaks TLS; use grpcs://"),
        ("grpcs", "grpc", "it does not speak TLS"),
        ("grpcs", "grpc tls", "authority that is not trusted"),
        ("http", "grpc", "it is a gRPC port; give it as 127.0.0.1"),
        ("http", "grpc tls", "it speaks TLS; use https://"),
        ("http", "http tls", "it speaks TLS; use https://"),
        ("https", "http", "it does not speak TLS; use http://"),
        ("https", "grpc", "it does not speak TLS"),
        ("https", "http tls", "authority that is not trusted"),
    ],
)
def test_a_port_of_another_kind_is_named(
    scheme: str,
    port: str,
    words: str,
    grpc_ports: dict[bool, str],
    http_ports: dict[bool, str],
) -> None:
    """TLS or none, HTTP or gRPC: the message says which, and what to write."""
    ports = grpc_ports if port.startswith("grpc") else http_ports

    assert words in _message(f"{scheme}://{ports['tls' in port]}")


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_certificate_for_another_host_is_named(
    scheme: str, authority: trustme.CA, tmp_path: Path
) -> None:
    """Its authority is trusted, so the name in it is the reason."""
    authority.cert_pem.write_to_path(tmp_path / "roots.pem")
    strange = authority.issue_cert("elsewhere.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    strange.configure_cert(context)
    server = RawServer(_refuse, tls=context)

    target, roots = f"{scheme}://127.0.0.1:{server.port}", tmp_path / "roots.pem"
    assert "its certificate is for another" in _message(target, root_certificates=roots)
    server.close()


def test_aio_says_the_same(grpc_ports: dict[bool, str]) -> None:
    """The asyncio client names TLS, too, and its loop goes on meanwhile."""

    async def asked() -> str:
        async with inkling.AioClassifier(grpc_ports[True]) as classifier:
            with pytest.raises(NotReady) as refused:
                await classifier.classify(b"x")
        return refused.value.message

    assert "it speaks TLS" in asyncio.run(asked())


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_refused_connection_is_said(scheme: str) -> None:
    """Nobody listens there: the message says so, and how to start a gateway."""
    message = _message(f"{scheme}://127.0.0.1:{free_port()}")

    assert "refused" in message
    assert "inkling serve" in message


def test_options_and_address_agree_about_tls(tmp_path: Path) -> None:
    """`http://` with certificates is refused; `grpcs://` needs no option."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "roots.pem")
    with pytest.raises(InvalidRequest, match="https://"):
        Connection("http://localhost", root_certificates=tmp_path / "roots.pem")

    assert Connection("grpcs://localhost").is_encrypted
    assert Connection("localhost", tls=True).is_encrypted
    assert not Connection("localhost").is_encrypted
