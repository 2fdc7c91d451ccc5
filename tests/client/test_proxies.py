# SPDX-License-Identifier: Apache-2.0
"""Proxies in the environment: when they are used, and that messages name them."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

import inkling
from inkling.errors import InvalidRequest, NotReady
from inkling.network.address import Address
from inkling.network.proxies import proxy_for
from tests.support.machine import free_port
from tests.support.raw_server import (
    RawServer,
    Request,
    answering,
    read_request,
    response,
)

_ANSWER = {
    "model": "cnn",
    "version": 3,
    "contract": "sha256:x",
    "results": [{"top": [{"label": "7", "index": 7, "probability": 0.5}]}],
}
_NAMES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "no_proxy")
_COLON = {"grpc": "gateway.example:8081", "http": "http://gateway.example:8080"}


class Proxy:
    """An HTTP proxy that leads every request to one port of the loopback.

    Attributes:
        port: The port where all tunnels lead.
        requests: What it was asked for.
    """

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Request] = []
        self.server = RawServer(self._handle)
        self.url = f"http://127.0.0.1:{self.server.port}"

    def _handle(self, sock: socket.socket) -> None:
        request = read_request(sock)
        if request is None:
            return
        self.requests.append(request)
        if request.method != "CONNECT":
            sock.sendall(response(200, _ANSWER, "Connection: close"))
            return
        if not self.port:
            sock.sendall(response(403, b""))
            return
        with socket.create_connection(("127.0.0.1", self.port)) as other:
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=_pump, args=(other, sock), daemon=True)
            back.start()
            _pump(sock, other)
            back.join(5)


def _pump(from_: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while piece := from_.recv(65536):
            to.sendall(piece)
    with suppress(OSError):
        to.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy that runs."""
    made = Proxy()
    yield made
    made.server.close()


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the variables of proxies, and no others."""
    for name in _NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def set_to(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_to


_P = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("target", "values", "variable"),
    [
        # Each protocol has its own variables, in small letters first.
        ("http://a", {"http_proxy": _P}, "http_proxy"),
        ("http://a", {"HTTP_PROXY": _P}, "HTTP_PROXY"),
        ("http://a", {"https_proxy": _P}, None),
        ("https://a", {"https_proxy": _P}, "https_proxy"),
        ("https://a", {"http_proxy": _P}, None),
        ("https://a", {"ALL_PROXY": _P}, "ALL_PROXY"),
        ("a:1", {"grpc_proxy": _P, "http_proxy": "http://b"}, "grpc_proxy"),
        ("a:1", {"HTTPS_PROXY": _P}, "HTTPS_PROXY"),
        ("grpcs://a", {"http_proxy": _P}, "http_proxy"),
        ("a:1", {"all_proxy": _P}, "all_proxy"),
        ("http://a", {"http_proxy": "", "HTTP_PROXY": _P}, None),
        ("http://a", {"http_proxy": "proxy.example:3128"}, "http_proxy"),
        # A header of a CGI script's request must not become its proxy.
        ("http://a", {"HTTP_PROXY": _P, "REQUEST_METHOD": "GET"}, None),
        # Loopback is never reached through a proxy.
        *(
            (target, {"http_proxy": _P, "https_proxy": _P, "all_proxy": _P}, None)
            for target in (
                *("localhost:1", "127.0.0.1:1", "127.9.9.9", "[::1]:1", "0.0.0.0:1"),
                *("http://localhost", "https://[::1]", "unix:/run/a", "a.localhost:1"),
            )
        ),
        # no_proxy: names, suffixes, ports, addresses, networks, all.
        ("http://a.b.example", {"http_proxy": _P, "no_proxy": "x, b.example"}, None),
        ("http://a.b.example", {"http_proxy": _P, "NO_PROXY": ".b.example"}, None),
        ("http://a.b.example", {"http_proxy": _P, "no_proxy": "*.b.example"}, None),
        ("http://A.B.example.", {"http_proxy": _P, "no_proxy": "a.b.EXAMPLE"}, None),
        (
            "http://ab.example",
            {"http_proxy": _P, "no_proxy": "b.example"},
            "http_proxy",
        ),
        ("http://a", {"http_proxy": _P, "no_proxy": "*"}, None),
        ("http://a:81", {"http_proxy": _P, "no_proxy": "a:81"}, None),
        ("http://a:82", {"http_proxy": _P, "no_proxy": "a:81"}, "http_proxy"),
        ("10.1.2.3:1", {"http_proxy": _P, "no_proxy": "10.1.2.3"}, None),
        ("10.1.2.3:1", {"http_proxy": _P, "no_proxy": "10.0.0.0/8"}, None),
        ("10.1.2.3:1", {"http_proxy": _P, "no_proxy": "10.1.2.3:1"}, None),
        ("11.1.2.3:1", {"http_proxy": _P, "no_proxy": "10.0.0.0/8,b"}, "http_proxy"),
        ("[fd00::1]:1", {"http_proxy": _P, "no_proxy": "fd00::/16"}, None),
        ("[fd00::1]:1", {"http_proxy": _P, "no_proxy": "[fd00::1]"}, None),
        ("10.1.2.3:1", {"http_proxy": _P, "no_grpc_proxy": "10.1.2.3"}, None),
        ("http://10.1.2.3", {"http_proxy": _P, "no_grpc_proxy": "*"}, "http_proxy"),
    ],
)
def test_conventions_decide(
    target: str, values: dict[str, str], variable: str | None
) -> None:
    """The variables of curl, Python and gRPC mean the same for every connection."""
    found = proxy_for(Address.parse(target), values)

    assert variable == (found.variable if found else None)
    if found:
        assert ("proxy.example", 3128) == (found.host, found.port)


@pytest.mark.parametrize("value", ["socks5://proxy.example:1", "https://proxy.example"])
def test_a_proxy_of_another_kind_is_refused(value: str) -> None:
    """The message names the variable and what to do; loopback goes on."""
    with pytest.raises(InvalidRequest, match="all_proxy names a proxy.*no_proxy"):
        proxy_for(Address.parse("gateway.example:1"), {"all_proxy": value})
    assert proxy_for(Address.parse("localhost:1"), {"all_proxy": value}) is None


def test_http_goes_through_a_proxy(proxy: Proxy, environ: Callable[..., None]) -> None:
    """It is told the whole URL, its password, and nothing else changes."""
    environ(http_proxy=proxy.url.replace("//", "//me:p%40ss@"))
    with inkling.connect("http://gateway.example:8080/prefix", api_key="k") as one:
        assert "7" == one.classify(b"x").label

    [request] = proxy.requests
    assert "http://gateway.example:8080/prefix/v1/models/cnn:classify" == request.path
    assert "gateway.example:8080" == request.headers["host"]
    assert "Basic bWU6cEBzcw==" == request.headers["proxy-authorization"]
    assert "Bearer k" == request.headers["authorization"]


def test_https_goes_through_a_tunnel(
    proxy: Proxy, environ: Callable[..., None], tmp_path: Path
) -> None:
    """The proxy sees the name of the host, and no header; the certificate counts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "roots.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("gateway.example").configure_cert(context)
    server = RawServer(answering(lambda _: response(200, _ANSWER)), tls=context)
    proxy.port = server.port
    environ(HTTPS_PROXY=proxy.url)
    options = {"root_certificates": tmp_path / "roots.pem", "api_key": "k"}
    with inkling.connect("https://gateway.example", **options) as one:
        assert ["7", "7"] == [one.classify(b"x").label for _ in range(2)]

    [request] = proxy.requests
    assert ("CONNECT", "gateway.example:443") == (request.method, request.path)
    assert "authorization" not in request.headers
    server.close()


def test_grpc_goes_through_a_tunnel(
    proxy: Proxy, environ: Callable[..., None], gateway: Any, picture: bytes
) -> None:
    """A name that only the proxy knows is answered."""
    proxy.port = gateway.grpc_port
    environ(grpc_proxy=proxy.url)
    with inkling.connect("gateway.example:8081", timeout_s=20) as one:
        assert "3" == one.classify(picture).label

    assert ["CONNECT"] == [request.method for request in proxy.requests]
    assert "gateway.example:8081" == proxy.requests[0].path


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_loopback_is_asked_directly(
    protocol: str,
    proxy: Proxy,
    environ: Callable[..., None],
    gateway: Any,
    picture: bytes,
) -> None:
    """With a proxy in every variable, this machine's gateway is asked without it."""
    environ(**{name: proxy.url for name in _NAMES if name != "no_proxy"})
    for host in ("127.0.0.1", "localhost"):
        port = gateway.grpc_port if protocol == "grpc" else gateway.port
        with inkling.connect(f"{protocol}://{host}:{port}", timeout_s=20) as one:
            assert "3" == one.classify(picture).label

    assert [] == proxy.requests


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_errors_name_the_proxy(protocol: str, environ: Callable[..., None]) -> None:
    """A proxy that is not there is named with its variable, without its password."""
    port = free_port()
    environ(http_proxy=f"http://me:secret@127.0.0.1:{port}")
    with (
        inkling.connect(_COLON[protocol], timeout_s=10) as one,
        pytest.raises(NotReady) as refused,
    ):
        one.classify(b"x")

    words = f"through the proxy http://127.0.0.1:{port} of http_proxy"
    assert words in refused.value.message
    assert "secret" not in refused.value.message


def test_a_tunnel_that_is_refused_is_said(
    proxy: Proxy, environ: Callable[..., None]
) -> None:
    """The status of the proxy's answer is in the message."""
    environ(https_proxy=proxy.url)
    with (
        inkling.connect("https://gateway.example") as one,
        pytest.raises(NotReady, match="the proxy answered 403"),
    ):
        one.classify(b"x")


def test_use_proxy_false_is_direct(proxy: Proxy, environ: Callable[..., None]) -> None:
    """The option overrides the environment; a load test sets it."""
    environ(http_proxy=proxy.url)
    for target in _COLON.values():
        with (
            inkling.connect(target, use_proxy=False, timeout_s=5) as one,
            pytest.raises(NotReady) as refused,
        ):
            one.classify(b"x")
        assert "proxy" not in refused.value.message
    assert [] == proxy.requests


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_commands_ask_loopback_directly(
    protocol: str,
    proxy: Proxy,
    environ: Callable[..., None],
    gateway: Any,
    picture: bytes,
    tmp_path: Path,
) -> None:
    """`inkling classify` with a proxy in the environment answers all the same."""
    (tmp_path / "digit.png").write_bytes(picture)
    environ(http_proxy=proxy.url, HTTPS_PROXY=proxy.url, all_proxy="socks5://a:1")
    target = gateway.grpc_target if protocol == "grpc" else gateway.url
    command = [sys.executable, "-m", "inkling", "classify", "--server", target]
    done = subprocess.run(
        [*command, str(tmp_path / "digit.png")], capture_output=True, text=True
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert [] == proxy.requests
