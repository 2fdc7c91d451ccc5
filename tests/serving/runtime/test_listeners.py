# SPDX-License-Identifier: Apache-2.0
"""The ports of a gateway: who gets them, and that no connection is lost at their end."""

from __future__ import annotations

import errno
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import grpc
import pytest

from inkling.contract import Contract
from inkling.errors import InvalidRequest
from inkling_serving.client_address import client_of, client_of_peer
from inkling_serving.runtime.listeners import (
    ACCEPTS,
    Listener,
    Ports,
    bound,
    reserved,
)
from tests.serving.http_api.server_here import served_here
from tests.support.machine import within

_LOOPBACK = "127.0.0.1"
_CLIENTS = 8


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
_HOSTS = [_LOOPBACK, "0.0.0.0", *(pytest.param(h, marks=_ipv6) for h in ("::1", "::"))]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextmanager
def _reuseport(host: str, port: int) -> Iterator[socket.socket]:
    """Listen as grpcio does."""
    with socket.socket(_family(host)) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
        made.listen()
        yield made


# Who gets a port.


@pytest.mark.parametrize("host", _HOSTS)
def test_a_reserved_port_is_refused_to_another_gateway(host: str) -> None:
    """At once and by its number, whether the other wants it for gRPC or for HTTP."""
    with closing(reserved(host, 0, "--grpc-port")) as holder:
        port = holder.getsockname()[1]
        for take in (reserved, bound):
            started = time.monotonic()
            with pytest.raises(InvalidRequest, match=f"port {port}.*--other"):
                take(host, port, "--other")
            within(time.monotonic() - started, 2)
    closing(reserved(host, port, "--grpc-port")).__exit__(None, None, None)


@pytest.mark.parametrize("host", _HOSTS)
def test_a_reserved_port_lets_the_own_processes_in(host: str) -> None:
    """Several listen on it as grpcio does; connections go to them, not to the holder."""
    with closing(reserved(host, 0, "--grpc-port")) as holder, ExitStack() as stack:
        port = holder.getsockname()[1]
        own = [stack.enter_context(_reuseport(host, port)) for _ in range(2)]
        loopback = "::1" if ":" in host else _LOOPBACK
        for _ in range(20):
            stack.enter_context(socket.create_connection((loopback, port), 5))
        taken = 0
        for listener in own:
            listener.settimeout(0.2)
            try:
                while True:
                    stack.enter_context(listener.accept()[0])
                    taken += 1
            except TimeoutError:
                pass

    assert 20 == taken


@pytest.mark.parametrize("host", _HOSTS)
def test_grpcio_gets_the_reserved_port(host: str) -> None:
    """Its servers listen beside each other on the port, for this address and no other."""
    with closing(reserved(host, 0, "--grpc-port")) as holder:
        port = holder.getsockname()[1]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        servers = [
            grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 1)])
            for _ in range(2)
        ]
        assert [port] * 2 == [server.add_insecure_port(address) for server in servers]
        for server in servers:
            server.start()
        loopback = "[::1]" if ":" in host else _LOOPBACK
        with grpc.insecure_channel(f"{loopback}:{port}") as channel:
            grpc.channel_ready_future(channel).result(10)
        for server in servers:
            server.stop(0).wait(10)


def test_a_foreign_listener_stops_the_start() -> None:
    """A port on which somebody listens is neither reserved nor bound."""
    with socket.create_server((_LOOPBACK, 0)) as foreign:
        port = foreign.getsockname()[1]
        for take in (reserved, bound):
            with pytest.raises(InvalidRequest, match="port is taken"):
                take(_LOOPBACK, port, "--http-port")


def test_connections_of_the_past_do_not_stop_the_start() -> None:
    """A port whose last connections are in TIME_WAIT can be reserved and bound."""
    with socket.create_server((_LOOPBACK, 0)) as old:
        port = old.getsockname()[1]
        with socket.create_connection((_LOOPBACK, port)) as client:
            served, _ = old.accept()
            served.close()
            assert client.recv(1) == b""
    closing(reserved(_LOOPBACK, port, "")).__exit__(None, None, None)
    closing(bound(_LOOPBACK, port, "")).__exit__(None, None, None)


def test_an_address_of_another_machine_is_refused() -> None:
    """The message names the port and the option."""
    for take in (reserved, bound):
        with pytest.raises(InvalidRequest, match="not this machine's"):
            take("192.0.2.1", 0, "--grpc-port")


_RACER = """
import sys
from inkling.errors import InvalidRequest
from inkling_serving.runtime.listeners import reserved
for line in sys.stdin:
    try:
        holder = reserved("127.0.0.1", int(line), "")
        print("taken", flush=True)
        sys.stdin.readline()
        holder.close()
    except InvalidRequest:
        print("refused", flush=True)
        sys.stdin.readline()
    print("free", flush=True)
"""


def test_of_two_that_start_at_once_one_gets_the_port() -> None:
    """Two processes that reserve one port at the same moment do not both have it."""
    with ExitStack() as stack:
        racers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _RACER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )
            )
            for _ in range(2)
        ]
        both = 0
        with socket.create_server((_LOOPBACK, 0)) as free:
            port = free.getsockname()[1]
        for _ in range(200):
            both += _raced(racers, f"{port}\n") == ["taken\n", "taken\n"]
            assert ["free\n"] * 2 == _raced(racers, "\n")
        for racer in racers:
            racer.stdin.close()  # type: ignore[union-attr]

    assert 0 == both


def _raced(racers: list[subprocess.Popen[str]], line: str) -> list[str]:
    for racer in racers:
        racer.stdin.write(line)  # type: ignore[union-attr]
    return [racer.stdout.readline() for racer in racers]  # type: ignore[union-attr]


def test_ports_tell_the_address_of_grpc() -> None:
    """What the processes are told is what was reserved."""
    ports = Ports(bound(_LOOPBACK, 0, ""), reserved(_LOOPBACK, 0, ""))

    assert (_LOOPBACK, ports.grpc.getsockname()[1]) == ports.grpc_address
    ports.close()
    assert -1 == ports.http.fileno() == ports.grpc.fileno()


# The end.


class _Clients:
    """Clients that connect anew for each request, until nobody listens."""

    def __init__(self, host: str, port: int) -> None:
        loopback = {"0.0.0.0": _LOOPBACK, "::": "::1"}.get(host, host)
        self._address = (loopback, port)
        self.answered = 0
        self.lost: list[str] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _ask(self) -> None:
        while True:
            try:
                connection = socket.create_connection(self._address, 0.4)
            except OSError:
                return  # nobody listens any more
            with connection:
                outcome = self._asked(connection)
            with self._lock:
                self.answered += not outcome
                if outcome:
                    self.lost.append(outcome)

    def _asked(self, connection: socket.socket) -> str:
        """Return how a request was lost; nothing where it was answered."""
        connection.settimeout(10)
        # A port of its own is not left in TIME_WAIT for each of the many requests.
        linger = struct.pack("ii", 1, 0)
        try:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = connection.recv(4096)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, repr(error))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return "" if answer.startswith(b"HTTP/1.1 200 ") else f"heard {answer!r}"


@pytest.mark.parametrize(
    ("host", "times"),
    [
        pytest.param(_LOOPBACK, 10, id="10 times"),
        pytest.param("0.0.0.0", 2, id="all addresses"),
        pytest.param("::1", 2, id="IPv6", marks=_ipv6),
        pytest.param("::", 2, id="all of IPv6", marks=_ipv6),
        pytest.param(_LOOPBACK, 100, id="100 times", marks=pytest.mark.soak),
    ],
)
def test_an_end_loses_no_connection(
    digit_contract: Contract, host: str, times: int
) -> None:
    """Whoever got a connection gets an answer, at each of several ends under load."""
    answered, lost = 0, []
    for number in range(times):
        with served_here(digit_contract, host=host) as here:
            clients = _Clients(host, here.port)
            time.sleep(0.05 + 0.01 * number % 0.1)
            here.server.handle_exit(signal.SIGTERM, None)
        clients.join()
        answered += clients.answered
        lost += clients.lost

    print(f"{answered} answered, {len(lost)} lost at {times} ends")
    assert [] == lost
    assert answered > 10 * times


def test_connections_that_wait_are_accepted_at_the_end(
    digit_contract: Contract,
) -> None:
    """Also those that the event loop has not seen when the end begins."""
    import asyncio

    with closing(bound(_LOOPBACK, 0, "")) as made, ExitStack() as stack:
        listener = Listener(fileno=made.detach())
        stack.enter_context(listener)
        listener.setblocking(False)
        address = listener.getsockname()
        waiting = [
            stack.enter_context(socket.create_connection(address, 5))
            for _ in range(100)
        ]
        found = asyncio.run(listener.last())
        own = {one.getsockname() for one in waiting}
        came = [one.getpeername() for one in found if one.getpeername() in own]
        for one in found:
            one.close()
        late: list[Any] = []
        with pytest.raises(OSError, match=r"timed out|refused"):
            late.append(socket.create_connection(address, 0.3))

    assert 100 == len(set(came))
    assert [] == late


def test_a_slow_turn_accepts_more() -> None:
    """A quick turn of the event loop accepts one connection of a burst; a slow one, 32."""
    with ExitStack() as stack:
        bound_ = stack.enter_context(closing(bound(_LOOPBACK, 0, "--http-port")))
        listener = stack.enter_context(closing(Listener(fileno=bound_.detach())))
        listener.setblocking(False)
        for _ in range(60):
            stack.enter_context(socket.create_connection(listener.getsockname()))

        def turn() -> int:
            for count in range(ACCEPTS + 1):
                try:
                    stack.enter_context(listener.accept()[0])
                except BlockingIOError:
                    return count
            raise AssertionError("the turn did not end")

        first = turn()
        listener._turn_at = time.monotonic() - 0.1
        slow = turn()
        listener._turn_at = time.monotonic() - 60
        late = turn()

    assert (first, slow, late) == (1, ACCEPTS - 1, 1)


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_client_is_an_address_or_a_network(address: str, client: str) -> None:
    """A client of IPv6 may take any address of its network, over both protocols."""
    quoted = f"%5B{address}%5D" if ":" in address else address
    kind = "ipv6" if ":" in address else "ipv4"

    assert client == client_of(address)
    assert client == client_of_peer(f"{kind}:{quoted}:50123")
