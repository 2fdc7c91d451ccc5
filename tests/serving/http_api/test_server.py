# SPDX-License-Identifier: Apache-2.0
"""The HTTP server under pipelines, upgrades, slow clients, and at its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import trustme

from inkling.contract import Contract
from tests.serving.http_api.server_here import Here, served_here
from tests.support.http_bytes import converse, whole_answer
from tests.support.machine import memory_bytes, until, within

_LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
_MODELS = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
_CLOSE = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
_UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
)


@pytest.fixture(scope="module")
def here(digit_contract: Contract) -> Iterator[Here]:
    """A server that waits for a body for one second."""
    with served_here(digit_contract, body_timeout_s=1.0) as server:
        yield server


def _post(
    body: bytes, headers: bytes = b"", path: bytes = b"/v1/models/mlp:classify"
) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST %b HTTP/1.1\r\nHost: x\r\n" % path + length + headers + b"\r\n" + body


# Pipelines.


def test_200_pipelined_requests_keep_their_order(here: Here, picture: bytes) -> None:
    """Slow and quick ones in one piece are answered in order, each with its own id."""
    explain = b"/v1/models/mlp:explain"
    sent, ids = b"", [f"n{number}" for number in range(200)]
    for number, name in enumerate(ids):
        own = f"X-Request-Id: {name}\r\n".encode()
        kinds = [
            _post(picture, own),
            _post(b"hello", own),
            _post(picture, own, explain),
            _LIVE[:-2] + own + b"\r\n",
        ]
        sent += kinds[number % 4]

    heard = converse(here.port, sent + _CLOSE)

    assert (200, 400, 200, 200) * 50 + (200,) == heard.statuses
    places = [heard.text.find(f"x-request-id: {name}\r\n".encode()) for name in ids]
    assert -1 not in places
    assert sorted(places) == places


def test_a_flood_of_pipelined_requests_waits_in_the_client(here: Here) -> None:
    """250,000 requests in one go are answered in turn; most of them are not even read."""
    pid = os.getpid()
    converse(here.port, _LIVE * 200 + _CLOSE)
    before, started = memory_bytes(pid), time.monotonic()
    answers, others, held = 0, [], []
    with socket.create_connection(("127.0.0.1", here.port), 10) as connection:
        flood = _LIVE * 250_000
        sending = threading.Thread(target=_sent, args=(connection, flood))
        sending.start()
        while time.monotonic() < started + 2:
            answers += connection.recv(65_536).count(b"HTTP/1.1 200 ")
            began = time.monotonic()
            assert here.request("GET", "/livez").status == 200
            others.append(time.monotonic() - began)
            held.append(here.held.total)
        connection.shutdown(socket.SHUT_RDWR)
        sending.join()
    until(lambda: here.held.total == 0, 5)
    grown = (memory_bytes(pid) - before - len(flood)) / 2**20

    print(f"{answers} answers; others {max(others):.3f} s; {grown:+.1f} MiB")
    assert answers >= 20
    assert 0 < max(held) <= 512 * 1024
    assert grown < 16
    within(sorted(others)[int(0.95 * len(others))], 0.1)


def _sent(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:
        return


# Upgrades.


def test_an_upgrade_is_not_taken(here: Here, picture: bytes) -> None:
    """A request to go on with HTTP/2 is answered like any other, and what follows too."""
    heard = converse(here.port, _post(picture, _UPGRADE) + _CLOSE)

    assert (200, 200) == heard.statuses


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_body_is_never_taken_for_a_request(here: Here, pieces: int) -> None:
    """Nor where it belongs to a request for an upgrade behind another request."""
    hidden = _post(_MODELS, _UPGRADE)
    parts = [_LIVE + hidden, _CLOSE]
    if pieces == 2:
        head = hidden.index(b"\r\n\r\n") + 4
        parts = [_LIVE + hidden[:head], hidden[head:] + _CLOSE]

    heard = converse(here.port, *parts)

    assert (200, 400, 200) == heard.statuses
    assert b'"models"' not in heard.text


def test_connect_is_refused(here: Here) -> None:
    """The parser would hand over the connection; what follows is no request."""
    for front in (b"", _LIVE):
        connect = b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
        heard = converse(here.port, front + connect + _MODELS)
        assert heard.statuses in ((400,), (200,), (200, 400))
        assert b'"models"' not in heard.text


# Slow clients.


def test_slow_bodies_are_ended_and_disturb_nobody(here: Here, picture: bytes) -> None:
    """A body has the time that is set, in whatever form; others are answered."""
    drips = {
        "body": (_post(bytes(1000))[:-1000], b"x", 504, 1.0),
        "chunks": (
            b"POST /v1/models/mlp:classify HTTP/1.1\r\nHost: x\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
            504,
            1.0,
        ),
    }
    found: dict[tuple[str, int], tuple[int, float]] = {}

    def drip(name: str, number: int) -> None:
        first, more, _, _ = drips[name]
        with socket.create_connection(("127.0.0.1", here.port), 20) as slow:
            slow.sendall(first)
            slow.settimeout(0.1)
            started, answer = time.monotonic(), b""
            while not answer and time.monotonic() - started < 10:
                try:
                    answer = slow.recv(4096)
                except TimeoutError:
                    slow.sendall(more)
            found[name, number] = int(answer[9:12]), time.monotonic() - started

    threads = [
        threading.Thread(target=drip, args=(name, number))
        for name in drips
        for number in range(10)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    started = time.monotonic()
    for _ in range(20):
        assert here.request("POST", "/v1/models/mlp:classify", picture).status == 200
    took = time.monotonic() - started
    for thread in threads:
        thread.join()

    within(took, 2)
    for (name, _), (status, seconds) in found.items():
        assert drips[name][2] == status, name
        within(seconds, drips[name][3] + 1.5)


# The end.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The authority of the server's certificate."""
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Settings with a certificate."""
    folder, pair = tmp_path_factory.mktemp("tls"), authority.issue_cert("127.0.0.1")
    pair.cert_chain_pems[0].write_to_path(folder / "crt")
    pair.private_key_pem.write_to_path(folder / "key")
    return {"tls_certificate": str(folder / "crt"), "tls_key": str(folder / "key")}


def test_a_client_that_agrees_late_on_tls_is_answered_once(
    digit_contract: Contract, authority: trustme.CA, tls: dict[str, str]
) -> None:
    """A connection that was accepted before the end does not delay it by asking on."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with served_here(digit_contract, **tls) as here, ExitStack() as stack:
        address = ("127.0.0.1", here.port)
        busy = context.wrap_socket(
            socket.create_connection(address, 10), server_hostname="127.0.0.1"
        )
        stack.enter_context(busy)
        # This request is under way until the end, which waits for it.
        busy.sendall(_post(bytes(10))[:-5])
        late = stack.enter_context(socket.create_connection(address, 10))
        time.sleep(0.2)  # until it is accepted
        here.server.handle_exit(signal.SIGTERM, None)
        time.sleep(0.5)
        with context.wrap_socket(late, server_hostname="127.0.0.1") as agreed:
            agreed.sendall(_LIVE)
            answer = whole_answer(agreed)
            agreed.sendall(_LIVE)
            rest = agreed.recv(4096)
        busy.sendall(bytes(5))
        assert whole_answer(busy).startswith(b"HTTP/1.1 400 ")

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer
    assert b"" == rest


def test_who_does_not_agree_on_tls_is_not_waited_for(
    digit_contract: Contract, tls: dict[str, str]
) -> None:
    """A client that has connected and says nothing does not delay the end."""
    with ExitStack() as stack:
        with served_here(digit_contract, drain_timeout_s=15.0, **tls) as here:
            address = ("127.0.0.1", here.port)
            stack.enter_context(socket.create_connection(address, 10))
            time.sleep(0.2)  # until it is accepted
            started = time.monotonic()
        took = time.monotonic() - started

    within(took, 5)


@pytest.mark.parametrize("busy", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("in_pieces", [False, True], ids=["together", "in pieces"])
def test_a_client_of_tls_that_sends_no_more_is_answered(
    digit_contract: Contract,
    picture: bytes,
    authority: trustme.CA,
    tls: dict[str, str],
    busy: bool,
    in_pieces: bool,
) -> None:
    """`close_notify` behind a request ends the connection after the answer."""
    with served_here(digit_contract, **tls) as here:
        if busy:
            here.engine.free.clear()
        with _Tls(authority, here.port) as client:
            client.send(_post(picture), then_flush=in_pieces)
            client.close_notify()
            if busy:
                until(lambda: here.engine.threads)
                here.engine.free.set()
            answer = client.heard()
        until(lambda: not here.server.server_state.connections)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"contract" in answer


def test_a_client_of_tls_that_leaves_is_not_kept(
    digit_contract: Contract, picture: bytes, authority: trustme.CA, tls: dict[str, str]
) -> None:
    """`close_notify` and the end of TCP behind it end the connection at once."""
    with served_here(digit_contract, **tls) as here:
        here.engine.free.clear()
        with _Tls(authority, here.port) as client:
            client.send(_post(picture))
            client.close_notify()
            until(lambda: here.engine.threads)
        until(lambda: not here.server.server_state.connections)
        assert not here.engine.free.is_set()


class _Tls:
    """A client that may close its sending half, which Python's sockets cannot."""

    def __init__(self, authority: trustme.CA, port: int) -> None:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        self._tcp = socket.create_connection(("127.0.0.1", port), 20)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="127.0.0.1")
        while not self._done(self._tls.do_handshake):
            self._in.write(self._tcp.recv(65_536))
        self._flush()

    def __enter__(self) -> _Tls:
        return self

    def __exit__(self, *_: object) -> None:
        self._tcp.close()

    def send(self, request: bytes, then_flush: bool = False) -> None:
        self._tls.write(request)
        if then_flush:
            self._flush()

    def close_notify(self) -> None:
        self._done(self._tls.unwrap)

    def heard(self) -> bytes:
        """Return what the server says until it closes."""
        text = b""
        with suppress(ssl.SSLZeroReturnError):
            while True:
                with suppress(ssl.SSLWantReadError):
                    text += self._tls.read(65_536)
                    continue
                received = self._tcp.recv(65_536)
                if not received:
                    break
                self._in.write(received)
        return text

    def _done(self, step: Callable[[], object]) -> bool:
        try:
            step()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._flush()
        return True

    def _flush(self) -> None:
        self._tcp.sendall(self._out.read())


def test_the_end_answers_what_was_asked(
    digit_contract: Contract, picture: bytes
) -> None:
    """What is under way, half sent, or comes on a kept connection is answered."""
    with served_here(digit_contract) as here, ExitStack() as stack:
        address = ("127.0.0.1", here.port)
        half, kept = (
            stack.enter_context(socket.create_connection(address, 10)) for _ in range(2)
        )
        half.sendall(_post(picture)[:-20])
        kept.sendall(_LIVE)
        assert whole_answer(kept)
        here.engine.free.clear()
        running, answers = here.in_background(
            "POST", "/v1/models/mlp:classify", picture
        )
        until(lambda: here.engine.threads)
        here.server.handle_exit(signal.SIGTERM, None)
        time.sleep(0.3)
        kept.sendall(_LIVE)
        last = whole_answer(kept)
        here.engine.free.set()
        half.sendall(picture[-20:])
        halved = whole_answer(half)
        running.join()

    assert answers[0].status == 200
    assert (b"200", b"200") == (last[9:12], halved[9:12])
    assert b"connection: close" in last
    assert b"connection: close" in halved


def test_refusals_are_told_in_one_form(here: Here) -> None:
    """What is no request, and what is one but wrong, say code, message and id alike."""
    heard = converse(here.port, b"nonsense\r\n\r\n")
    body: Any = json.loads(heard.text.partition(b"\r\n\r\n")[2])
    other = here.request("GET", "/nowhere").json

    assert body["error"].keys() == other["error"].keys()
