# SPDX-License-Identifier: Apache-2.0
"""Calls to several servers, in each form in which users name them, over loopback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import trustme

from inkling_serving.engines.channels import Channels
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire
from tests.serving.engines.engine_process import timed_engines
from tests.serving.engines.names import NameServer
from tests.support.machine import free_port, until, within

_METHOD = "/test.Service/Method"


class Server:
    """A gRPC server of one method, which answers with its own address."""

    def __init__(self, address: str, credentials: Any = None, **options: int) -> None:
        self.calls = 0
        self.abort: grpc.StatusCode | None = None
        self.delay_s = 0.0
        self.hosts: set[str] = set()
        self.address = address
        self._server = grpc.server(
            ThreadPoolExecutor(8),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", -1),
                *((f"grpc.{name}", value) for name, value in options.items()),
            ],
        )
        method = grpc.unary_unary_rpc_method_handler(self._answer)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Service", {"Method": method}),)
        )
        if credentials is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, credentials)
        self._server.start()

    def _answer(self, _: bytes, context: Any) -> bytes:
        self.calls += 1
        self.hosts.add(context._rpc_event.call_details.host.decode())
        time.sleep(self.delay_s)
        if self.abort is not None:
            context.abort(self.abort, "as the test wants it")
        return self.address.encode()

    def stop(self, grace_s: float | None = None) -> None:
        self._server.stop(grace_s).wait()


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Start a server: `start("127.0.0.1:8500")`."""
    made: list[Server] = []

    def started(address: str, credentials: Any = None, **options: int) -> Server:
        made.append(Server(address, credentials, **options))
        return made[-1]

    yield started
    for server in made:
        server.stop()


@pytest.fixture
def names() -> Iterator[NameServer]:
    """A name server that knows no names yet."""
    server = NameServer()
    yield server
    server.stop()


@contextmanager
def _channels(*addresses: str, credentials: Any = None) -> Iterator[Channels]:
    channels = Channels(addresses, 1 << 20, credentials)
    try:
        yield channels
    finally:
        channels.close()


def _call(channels: Channels, request: bytes = b"", timeout_s: float = 10.0) -> str:
    return channels.call(_METHOD, request, timeout_s).decode()


def _status(channels: Channels, timeout_s: float = 10.0) -> grpc.StatusCode:
    try:
        _call(channels, timeout_s=timeout_s)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


# Two servers as users name them. TLS and names have a channel each, IPs one for all.
_FORMS: dict[str, tuple[str, ...]] = {
    "two IPv4 addresses": ("127.0.0.1:{port}", "127.0.0.2:{port}"),
    "a name and an address": ("localhost:{port}", "127.0.0.2:{port}"),
    "a URI and an address": ("dns:///localhost:{port}", "127.0.0.2:{port}"),
    "one name of two addresses": ("two",),
    "two names": ("one", "other"),
}


def _addresses(form: str, port: int, names: NameServer) -> list[str]:
    names.addresses["two"] = ["127.0.0.1", "127.0.0.2"]
    names.addresses["one"], names.addresses["other"] = ["127.0.0.1"], ["127.0.0.2"]
    return [
        text.format(port=port) if ":" in text else names.target(text, port)
        for text in _FORMS[form]
    ]


def _both_answer(channels: Channels, servers: Sequence[Server]) -> None:
    """Wait until both are connected."""
    until(lambda: _call(channels) and all(server.calls for server in servers))


@pytest.mark.parametrize("form", _FORMS)
def test_each_form_of_two_servers_is_balanced(
    form: str, start: Callable[..., Server], names: NameServer
) -> None:
    """Both servers get half of the calls, however they are named."""
    port = free_port()
    servers = [start(f"127.0.0.1:{port}"), start(f"127.0.0.2:{port}")]
    with _channels(*_addresses(form, port, names)) as channels:
        _both_answer(channels, servers)
        found = [_call(channels) for _ in range(40)]

    assert {20} == {found.count(server.address) for server in servers}


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("ended", [0, 1])
def test_of_two_servers_one_may_end(
    form: str, ended: int, start: Callable[..., Server], names: NameServer
) -> None:
    """No call is lost when a server leaves, and the other gets them all."""
    port = free_port()
    servers = [start(f"127.0.0.1:{port}"), start(f"127.0.0.2:{port}")]
    with (
        _channels(*_addresses(form, port, names)) as channels,
        ThreadPoolExecutor(4) as pool,
    ):
        _both_answer(channels, servers)
        calls = [pool.submit(_call, channels) for _ in range(200)]
        servers[ended].stop(grace_s=5)
        calls += [pool.submit(_call, channels) for _ in range(200)]
        found = [call.result(30) for call in calls]

    assert {servers[1 - ended].address} == set(found[200:])


@pytest.mark.parametrize("form", ["two IPv4 addresses", "a name and an address"])
def test_of_two_servers_one_may_be_killed(form: str) -> None:
    """All calls under way in a killed server are answered by the other one."""
    port = free_port()
    method = "/tensorflow.serving.PredictionService/Predict"
    request = wire.PredictRequest()
    request.inputs["inputs"].tensor_shape.dim.add(size=1)
    body = request.SerializeToString()
    hosts = f"127.0.0.1:{port}", f"127.0.0.2:{port}"
    addresses = [text.format(port=port) for text in _FORMS[form]]
    with (
        timed_engines(*hosts, call_s=0.05) as [killed, _],
        _channels(*addresses) as channels,
        ThreadPoolExecutor(32) as pool,
    ):
        until(lambda: channels.call(method, body, 10.0))
        calls = [pool.submit(channels.call, method, body, 10.0) for _ in range(160)]
        until(lambda: sum(call.done() for call in calls) > 40)
        killed.kill()
        assert all(call.result(30) for call in calls)


def test_ipv6_addresses_are_balanced(start: Callable[..., Server]) -> None:
    """A list of IPv6 addresses is one of gRPC's own targets, too."""
    port = free_port()
    try:
        server = start(f"[::1]:{port}")
    except RuntimeError:
        pytest.skip("this machine has no IPv6 on its loopback; NOTHING was checked")
    with _channels(f"[::1]:{port}", f"[::1]:{port}") as channels:
        assert server.address == _call(channels)


def test_a_server_is_called_by_the_name_of_a_host(
    start: Callable[..., Server], names: NameServer
) -> None:
    """What a proxy sees as the host is one address or name, never a list of them."""
    port = free_port()
    servers = [start(f"127.0.0.1:{port}"), start(f"127.0.0.2:{port}")]
    names.addresses["one"] = ["127.0.0.1"]
    for addresses in (
        ["127.0.0.1:{port}", "127.0.0.2:{port}"],
        [names.target("one", port)],
    ):
        with _channels(*[text.format(port=port) for text in addresses]) as channels:
            for _ in range(10):
                _call(channels)

    assert servers[0].hosts | servers[1].hosts == {f"127.0.0.1:{port}", f"one:{port}"}


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    "status", ["UNAVAILABLE", "UNKNOWN", "CANCELLED", "INTERNAL", "NOT_FOUND"]
)
def test_a_lost_call_is_repeated_once(
    status: str, size: int, start: Callable[..., Server]
) -> None:
    """UNAVAILABLE and the like are tried again, large calls too; others are not."""
    server = start(f"127.0.0.1:{free_port()}")
    server.abort = grpc.StatusCode[status]
    with _channels(server.address) as channels, pytest.raises(grpc.RpcError) as caught:
        _call(channels, bytes(size))

    assert grpc.StatusCode[status] == caught.value.code()
    assert (1 if status in ("INTERNAL", "NOT_FOUND") else 2) == server.calls


@pytest.mark.parametrize("form", ["two IPv4 addresses", "two names"])
def test_repetitions_stay_few_in_an_outage(
    form: str, start: Callable[..., Server], names: NameServer
) -> None:
    """Of 200 calls that fail, 50 are repeated by a channel; names are tried in turn."""
    port = free_port()
    servers = [start(f"127.0.0.1:{port}"), start(f"127.0.0.2:{port}")]
    for server in servers:
        server.abort = grpc.StatusCode.UNAVAILABLE
    addresses = _addresses(form, port, names)
    with _channels(*addresses) as channels:
        assert {_status(channels) for _ in range(200)} == {grpc.StatusCode.UNAVAILABLE}

    tries = sum(server.calls for server in servers)
    assert 200 * len(_FORMS[form]) / (2 if form == "two IPv4 addresses" else 1) <= tries
    assert tries <= (250 if form == "two IPv4 addresses" else 500)


def test_a_name_that_moves_is_followed(
    start: Callable[..., Server], names: NameServer
) -> None:
    """A server that ends and comes back at another address is found within seconds."""
    port = free_port()
    names.addresses["engine"] = ["127.0.0.1"]
    first = start(f"127.0.0.1:{port}")
    with _channels(names.target("engine", port)) as channels:
        assert first.address == _call(channels)
        first.stop()
        until(lambda: _status(channels, 1.0) == grpc.StatusCode.UNAVAILABLE)
        time.sleep(1.0)
        second = start(f"127.0.0.2:{port}")
        names.addresses["engine"] = ["127.0.0.2"]
        took = until(lambda: _status(channels, 1.0) == grpc.StatusCode.OK)
        assert second.address == _call(channels)

    print(f"found {took:.2f} s after it was there")
    within(took, 4)


def test_a_replica_that_is_added_is_found(
    start: Callable[..., Server], names: NameServer
) -> None:
    """A name is resolved again when a connection ends, as with a maximum age."""
    port = free_port()
    names.addresses["engine"] = ["127.0.0.1"]
    age = {"max_connection_age_ms": 500, "max_connection_age_grace_ms": 5000}
    start(f"127.0.0.1:{port}", **age)
    with _channels(names.target("engine", port)) as channels:
        _call(channels)
        second = start(f"127.0.0.2:{port}")
        names.addresses["engine"] = ["127.0.0.1", "127.0.0.2"]
        took = until(lambda: _call(channels) == second.address)

    within(took, 4)


def test_a_call_ends_with_its_deadline(start: Callable[..., Server]) -> None:
    """Whatever is tried, a call takes no longer than it may."""
    server = start(f"127.0.0.1:{free_port()}")
    server.delay_s = 2.0
    with _channels(f"127.0.0.1:{free_port()}", server.address) as channels:
        started = time.monotonic()
        status = _status(channels, 0.3)
        took = time.monotonic() - started

    assert status in (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
    )
    within(took, 1)


# Encrypted.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Whoever signed the certificates."""
    return trustme.CA()


def _server_credentials(
    authority: trustme.CA, *hosts: str, mutual: bool = False
) -> Any:
    issued = authority.issue_cert(*hosts)
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    roots = authority.cert_pem.bytes() if mutual else None
    return grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), chain)], roots, require_client_auth=mutual
    )


def _client_credentials(authority: trustme.CA, *own: str) -> Any:
    roots = authority.cert_pem.bytes()
    if not own:
        return grpc.ssl_channel_credentials(roots)
    issued = authority.issue_cert(*own)
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    return grpc.ssl_channel_credentials(roots, issued.private_key_pem.bytes(), chain)


@pytest.mark.parametrize(
    "form", ["two IPv4 addresses", "a name and an address", "one name of two addresses"]
)
def test_each_form_may_be_encrypted(
    form: str, authority: trustme.CA, start: Callable[..., Server], names: NameServer
) -> None:
    """Each server shows a certificate for its own address or name."""
    port = free_port()
    hosts = {
        "two IPv4 addresses": ("127.0.0.1", "127.0.0.2"),
        "a name and an address": ("localhost", "127.0.0.2"),
        "one name of two addresses": ("two", "two"),
    }[form]
    servers = [
        start(f"127.0.0.{n}:{port}", _server_credentials(authority, host))
        for n, host in enumerate(hosts, start=1)
    ]
    credentials = _client_credentials(authority)
    addresses = _addresses(form, port, names)
    with _channels(*addresses, credentials=credentials) as channels:
        _both_answer(channels, servers)
        found = [_call(channels) for _ in range(20)]

    assert {10} == {found.count(server.address) for server in servers}


@pytest.mark.parametrize(
    "stranger", ["another authority", "another host", "in the clear"]
)
def test_a_server_that_cannot_prove_its_name_gets_no_call(
    stranger: str, authority: trustme.CA, start: Callable[..., Server]
) -> None:
    """A certificate of another authority or host, or none, is UNAVAILABLE."""
    address = f"127.0.0.1:{free_port()}"
    host = "elsewhere.test" if stranger == "another host" else "127.0.0.1"
    signed_by = trustme.CA() if stranger == "another authority" else authority
    shown = _server_credentials(signed_by, host)
    server = start(address, None if stranger == "in the clear" else shown)
    credentials = _client_credentials(authority)
    with _channels(server.address, credentials=credentials) as channels:
        found = _status(channels, 3.0)

    assert found in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert server.calls == 0


@pytest.mark.parametrize("shown", [True, False])
def test_a_server_may_ask_for_a_certificate(
    shown: bool, authority: trustme.CA, start: Callable[..., Server]
) -> None:
    """With a certificate of its own the gateway is let in, and without one it is not."""
    credentials = _server_credentials(authority, "127.0.0.1", mutual=True)
    server = start(f"127.0.0.1:{free_port()}", credentials)
    own = ("gateway.test",) if shown else ()
    with _channels(
        server.address, credentials=_client_credentials(authority, *own)
    ) as channels:
        found = _status(channels, 3.0)

    assert (found == grpc.StatusCode.OK) is shown


def test_a_proxy_never_leads_to_loopback(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With proxies in the environment, an engine on this machine is called directly."""
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    server = start(f"127.0.0.1:{free_port()}")
    for address in (server.address, server.address.replace("127.0.0.1", "localhost")):
        with _channels(address) as channels:
            assert server.address == _call(channels)


def test_a_proxy_to_the_engine_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls of engines elsewhere follow the conventions, and the log names the proxy."""
    port = free_port()
    monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "10.0.0.2")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with _channels("10.0.0.1:8500", "10.0.0.2:8500") as channels:
        assert 2 == len(channels._channels)

    assert f"10.0.0.1:8500 go through the proxy http://127.0.0.1:{port}" in caplog.text
    assert "10.0.0.2:8500 go" not in caplog.text
    assert "secret" not in caplog.text
