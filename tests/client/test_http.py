# SPDX-License-Identifier: Apache-2.0
"""The HTTP classifier: its connections, deadlines, retries, and answers of others."""

from __future__ import annotations

import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

import inkling
from inkling.errors import (
    DeadlineExceeded,
    ErrorCode,
    InklingError,
    InternalError,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    PermissionDenied,
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from inkling.gateway.error_classes import error_of
from inkling_serving.http_api.refusals import HTTP_STATUS
from tests.support.gateway_process import Killable
from tests.support.machine import listens, until, within
from tests.support.raw_server import (
    RawServer,
    Request,
    answering,
    read_request,
    response,
)

_KEY = "a-secret-key-of-some-length"
_ANSWER = {
    "model": "cnn",
    "version": 3,
    "contract": "sha256:x",
    "results": [
        {
            "label": "7",
            "index": 7,
            "probability": 0.5,
            "top": [{"label": "7", "index": 7, "probability": 0.5}],
        }
    ],
}
_RIGHT = response(200, _ANSWER)

Start = Callable[..., RawServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start servers; they stop with the test."""
    servers: list[RawServer] = []

    def started(handle: Callable[[socket.socket], None], **options: Any) -> RawServer:
        servers.append(RawServer(handle, **options))
        return servers[-1]

    yield started
    for server in servers:
        server.close()


def _refused(url: str, **options: Any) -> InklingError:
    with (
        inkling.connect(url, **options) as classifier,
        pytest.raises(InklingError) as caught,
    ):
        classifier.classify(b"x")
    return caught.value


def _label(classifier: Any, picture: bytes = b"x") -> str | None:
    try:
        found: str = classifier.classify(picture).label
    except InklingError:
        return None
    return found


# Answers and errors.


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_is_its_class_again(code: ErrorCode, start: Start) -> None:
    """The class that the server raised is raised here, with its words and no others."""
    error = {"code": code, "message": "Words of the server.", "request_id": "x"}
    answer = response(HTTP_STATUS[code], {"error": error}, "Retry-After: 60")
    server = start(answering(lambda _: answer))

    found = _refused(server.url)

    assert type(error_of(code, "")) is type(found)
    assert "Words of the server." == found.message


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (201, InternalError),
        (301, InternalError),
        (400, InvalidRequest),
        (401, Unauthenticated),
        (403, PermissionDenied),
        (404, NotFound),
        (405, NotFound),
        (408, DeadlineExceeded),
        (411, InvalidRequest),
        (413, TooLarge),
        (415, UnsupportedMediaType),
        (418, InternalError),
        (429, Overloaded),
        (500, InternalError),
        (501, NotFound),
        (502, NotReady),
        (503, NotReady),
        (504, DeadlineExceeded),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>proxy</html>",
        b'{"error": "proxy"}',
        b'{"error": {"code": 503, "message": "proxy"}}',
        b"[" * 100_000,
    ],
    ids=["nothing", "HTML", "another JSON", "another error", "deep JSON"],
)
def test_statuses_of_others_are_understood(
    status: int, kind: type, body: bytes, start: Start
) -> None:
    """A status without our error, as from a proxy, has a class and names the address."""
    server = start(answering(lambda _: response(status, body, "Retry-After: 60")))

    found = _refused(server.url)

    assert kind is type(found)
    assert server.url in found.message
    assert "is this its address" in found.message.lower()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(503, NotReady), (429, Overloaded), (504, DeadlineExceeded), (418, InternalError)],
)
def test_code_words_of_newer_servers_are_their_status(
    status: int, kind: type, start: Start
) -> None:
    """An unknown code word has the class of its status and the words of the server."""
    error = {"code": "draining", "message": "Words of tomorrow.", "details": [1]}
    answer = response(status, {"error": error, "hint": {}}, "Retry-After: 60")
    server = start(answering(lambda _: answer))

    found = _refused(server.url)

    assert (kind, "Words of tomorrow.") == (type(found), found.message)


def test_unknown_fields_of_an_answer_are_ignored(start: Start) -> None:
    """A newer gateway may say more than this client knows."""
    [result] = _ANSWER["results"]  # type: ignore[misc]
    more = {**_ANSWER, "cost": 3, "results": [{**result, "box": [1, 2]}]}
    server = start(answering(lambda _: response(200, more)))

    with inkling.connect(server.url) as classifier:
        assert "7" == _label(classifier)


def test_redirections_are_named_and_not_followed(start: Start) -> None:
    """A key never goes to an address that the caller did not give."""
    other: list[Request] = []
    elsewhere = start(answering(other.append))
    answer = response(307, b"", f"Location: {elsewhere.url}/there")
    server = start(answering(lambda _: answer))

    found = _refused(server.url, api_key=_KEY)

    assert f"{elsewhere.url}/there" in found.message
    assert not other


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"results": []}',
        b'{"results": [{"top": []}], "model": "a", "version": 1, "contract": ""}',
        b'{"results": [{"top": [{}]}]}',
        b'{"results": 7}',
    ],
)
def test_answers_of_another_form_are_an_error(body: bytes, start: Start) -> None:
    """What is no answer of Inkling's is InternalError, for pictures and the contract."""
    server = start(answering(lambda _: response(200, body)))

    assert InternalError is type(_refused(server.url))
    with inkling.connect(server.url) as classifier, pytest.raises(InternalError):
        classifier.contract()


# Requests.


def test_what_is_sent(start: Start) -> None:
    """The path with its prefix, the query where it is needed, the key, and the picture."""
    seen: list[Request] = []

    def answer(request: Request) -> bytes:
        seen.append(request)
        return _RIGHT

    server = start(answering(answer))
    with inkling.connect(f"{server.url}/in/front/", api_key=_KEY) as classifier:
        classifier.classify(b"picture")
    with inkling.connect(server.url, model="mlp", version=7) as classifier:
        classifier.classify(b"x", 3, abstain=True)
    with inkling.connect(server.url, version_label="st able") as classifier:
        classifier.classify(b"x")

    assert [
        "/in/front/v1/models/cnn:classify",
        "/v1/models/mlp/versions/7:classify?top_k=3&abstain=true",
        "/v1/models/cnn/labels/st%20able:classify",
    ] == [request.path for request in seen]
    assert {"POST"} == {request.method for request in seen}
    assert b"picture" == seen[0].body
    assert f"Bearer {_KEY}" == seen[0].headers["authorization"]
    assert f"127.0.0.1:{server.port}" == seen[0].headers["host"]
    assert "authorization" not in seen[1].headers


def test_ipv6_addresses_are_asked(start: Start) -> None:
    """`http://[::1]:port` is an address as any other."""
    try:
        server = start(answering(lambda _: _RIGHT), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6; nothing checked")
    with inkling.connect(server.url) as classifier:
        assert "7" == classifier.classify(b"x").label


# Connections.


def test_connections_are_kept(start: Start) -> None:
    """One caller has one connection; many pictures have as many as are under way."""
    server = start(answering(lambda _: _RIGHT))
    with inkling.connect(server.url) as classifier:
        for _ in range(20):
            classifier.classify(b"x")
        assert 1 == server.connections
        assert ["7"] * 100 == [p.label for p in classifier.classify_many([b"x"] * 100)]
        assert 8 == server.connections
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: _label(classifier), range(200)))

    assert ["7"] * 200 == found
    assert server.connections <= 16


def test_a_closed_connection_is_replaced(start: Start) -> None:
    """A server that closes what it kept, just as it is used, costs no call."""
    handle: Callable[[Any], None] = answering(lambda _: _RIGHT)
    server = start(lambda sock: handle(_Once(sock)))
    with inkling.connect(server.url) as classifier:
        found = [_label(classifier) for _ in range(10)]
        many = [p.label for p in classifier.classify_many([b"x"] * 40)]

    assert ["7"] * 10 == found
    assert ["7"] * 40 == many


class _Once:
    """A connection that ends with the head of its second request, and says nothing."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._answered = sock, False

    def recv(self, size: int) -> bytes:
        content = self._sock.recv(size)
        return b"" if self._answered else content

    def sendall(self, content: bytes) -> None:
        self._sock.sendall(content)
        self._answered = True


def test_idle_connections_that_were_closed_are_not_used(start: Start) -> None:
    """Of connections that the server closed while they were idle none is written to."""
    server = start(_answer_and_close)
    with inkling.connect(server.url) as classifier:
        for _ in range(5):
            assert "7" == classifier.classify(b"x").label
            time.sleep(0.05)

    assert 5 == server.connections


def _answer_and_close(sock: socket.socket) -> None:
    if read_request(sock):
        sock.sendall(_RIGHT)


def test_a_gateway_that_restarted_is_asked_again(
    killable: Callable[..., Killable], picture: bytes
) -> None:
    """The first call after a restart succeeds, and while it is away all are NotReady."""
    gateway = killable().start().wait_ready()
    with inkling.connect(f"http://127.0.0.1:{gateway.port}") as classifier:
        assert "3" == classifier.classify(picture).label
        gateway.end()
        with pytest.raises(NotReady):
            classifier.classify(picture)
        gateway.start()
        until(lambda: listens(gateway.port) and gateway.get("/readyz")[0] == 200)
        assert "3" == classifier.classify(picture).label


@pytest.mark.parametrize("read_bytes", [0, 1_000_000])
def test_an_early_refusal_is_read(read_bytes: int, start: Start) -> None:
    """A server may refuse a body before it is sent, and close; the refusal arrives."""

    def refuse(sock: socket.socket) -> None:
        left = read_bytes + 1
        while left > 0:
            left -= len(sock.recv(65536))
        sock.sendall(response(413, b"too long"))

    server = start(refuse)
    with inkling.connect(server.url) as classifier:
        for _ in range(2):  # what was cut off is not used again
            with pytest.raises(TooLarge):
                classifier.classify(bytes(50_000_000))


def test_a_broken_answer_is_not_ready(start: Start) -> None:
    """A connection that breaks within an answer is tried again, three times in all."""

    def break_off(sock: socket.socket) -> None:
        if read_request(sock):
            sock.sendall(_RIGHT[:-5])

    server = start(break_off)

    assert NotReady is type(_refused(server.url))
    assert 3 == server.connections


def test_another_protocol_is_not_ready(start: Start, gateway: Any) -> None:
    """What speaks no HTTP, as a gRPC port, is refused with a question for the address."""
    server = start(answering(lambda _: b"no HTTP\n"))

    found = _refused(server.url)

    assert NotReady is type(found)
    assert "does not speak HTTP" in found.message
    assert "a gRPC port" in _refused(f"http://{gateway.grpc_target}").message


# Deadlines.


def test_a_stopped_server_ends_with_the_deadline(
    killable: Callable[..., Killable], picture: bytes
) -> None:
    """SIGSTOP: DeadlineExceeded close to timeout_s; answers again after SIGCONT."""
    gateway = killable().start().wait_ready()
    url = f"http://127.0.0.1:{gateway.port}"
    with inkling.connect(url, timeout_s=0.5) as classifier:
        until(lambda: _label(classifier, picture) == "3")
        gateway.send(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            classifier.classify(picture)
        took = time.monotonic() - started
        gateway.send(signal.SIGCONT)
        back = until(lambda: _label(classifier, picture) == "3")

    assert took >= 0.45
    within(took, 1.0)
    within(back, 2)


def _dribble(sock: socket.socket) -> None:
    for place in range(len(_RIGHT)):
        sock.sendall(_RIGHT[place : place + 1])
        time.sleep(0.1)


def _never_read(_: socket.socket) -> None:
    time.sleep(5)


@pytest.mark.parametrize("handle", [_dribble, _never_read])
def test_the_whole_call_ends_with_the_deadline(
    handle: Callable[[socket.socket], None], start: Start
) -> None:
    """Neither an answer byte by byte nor a body that nobody reads takes longer."""
    server = start(handle)
    with inkling.connect(server.url, timeout_s=0.5) as classifier:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            classifier.classify(bytes(50_000_000))
        took = time.monotonic() - started

    assert took >= 0.45
    within(took, 1.0)


def test_an_answer_in_time_may_be_read_late(start: Start) -> None:
    """Whoever takes its time between answers loses none that had arrived."""
    server = start(answering(lambda _: _RIGHT))
    found = []
    with inkling.connect(server.url, timeout_s=0.3) as classifier:
        for prediction in classifier.classify_many([b"x"] * 10):
            found.append(prediction.label)
            time.sleep(0.1)

    assert ["7"] * 10 == found


# Retries.


def test_only_unavailable_is_tried_again(start: Start) -> None:
    """One call is three attempts for 429, 502 and 503, and one for other statuses."""
    attempts = {}
    for status in (400, 401, 404, 413, 429, 500, 502, 503, 504):
        seen: list[Request] = []

        def answer(
            request: Request, status: int = status, seen: list[Request] = seen
        ) -> bytes:
            seen.append(request)
            return response(status, b"")

        _refused(start(answering(answer)).url)
        attempts[status] = len(seen)

    assert {429, 502, 503} == {name for name, count in attempts.items() if count > 1}
    assert {3} == {attempts[status] for status in (429, 502, 503)}


def test_attempts_are_throttled_in_an_outage(start: Start) -> None:
    """200 calls to a server that is there and unavailable are at most 240 attempts."""
    seen: list[Request] = []

    def answer(request: Request) -> bytes:
        seen.append(request)
        return response(503, b"")

    with inkling.connect(start(answering(answer)).url) as classifier:
        found = [_label(classifier) for _ in range(200)]

    print(f"{len(seen)} attempts for 200 calls")
    assert [None] * 200 == found
    assert 200 < len(seen) <= 240


def test_retry_after_is_waited_for(start: Start) -> None:
    """A server that asks for a second gets it, if the call has that long."""
    seen: list[float] = []

    def answer(_: Request) -> bytes:
        seen.append(time.monotonic())
        return response(503, b"", "Retry-After: 1") if len(seen) == 1 else _RIGHT

    server = start(answering(answer))
    with inkling.connect(server.url) as classifier:
        assert "7" == classifier.classify(b"x").label
    assert 1.0 <= seen[1] - seen[0] < 2.0
    seen.clear()
    with inkling.connect(server.url, timeout_s=0.9) as classifier:
        with pytest.raises(NotReady):
            classifier.classify(b"x")
        assert 1 == len(seen)
    within(time.monotonic() - seen[0], 0.5)


@pytest.mark.parametrize("later_s", [2, -3600])
def test_retry_after_may_be_a_date(later_s: int, start: Start) -> None:
    """A date is waited for as seconds are; one that is past is no wait."""
    seen: list[float] = []
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=later_s), usegmt=True)

    def answer(_: Request) -> bytes:
        seen.append(time.time())
        return response(503, b"", f"Retry-After: {date}") if len(seen) == 1 else _RIGHT

    server = start(answering(answer))
    with inkling.connect(server.url) as classifier:
        assert "7" == classifier.classify(b"x").label
    due = parsedate_to_datetime(date).timestamp()
    assert seen[1] >= due
    within(seen[1] - max(due, seen[0]), 1.0)


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority, made anew."""
    return trustme.CA()


@pytest.fixture
def roots(authority: trustme.CA, tmp_path: Path) -> Path:
    """The PEM file of the authority."""
    path = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def _server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def _client_files(authority: trustme.CA, folder: Path) -> dict[str, Path]:
    """Write a client's certificate and key; return them as options."""
    found = authority.issue_cert("client.example")
    chain, key = folder / "client.pem", folder / "client.key"
    for place, pem in enumerate(found.cert_chain_pems):
        pem.write_to_path(str(chain), append=place > 0)
    found.private_key_pem.write_to_path(str(key))
    return {"client_certificate": chain, "client_key": key}


def test_tls_is_spoken_to_whom_is_trusted(
    authority: trustme.CA, roots: Path, start: Start
) -> None:
    """With its authority named a server is believed; without, or by another name, not."""
    answer = answering(lambda _: _RIGHT)
    server = start(answer, tls=_server_context(authority, "127.0.0.1"))
    other = start(answer, tls=_server_context(authority, "other.example"))
    plain = start(lambda sock: sock.sendall(response(400, sock.recv(1))))

    with inkling.connect(server.url, root_certificates=roots) as classifier:
        found = [classifier.classify(b"x").label for _ in range(3)]
        many = [p.label for p in classifier.classify_many([b"x"] * 20)]
    refusals = [
        _refused(server.url),
        _refused(other.url, root_certificates=roots),
        _refused(plain.url.replace("http", "https")),
        _refused(server.url.replace("https", "http")),
    ]

    assert ["7"] * 23 == found + many
    assert {NotReady} == {type(refusal) for refusal in refusals}
    for words, refusal in zip(
        ("not trusted", "another address", "does not speak TLS", "cannot be reached"),
        refusals,
        strict=True,
    ):
        assert words in refusal.message


def test_a_client_certificate_is_shown(
    authority: trustme.CA, roots: Path, tmp_path: Path, start: Start
) -> None:
    """A server that asks for a certificate answers who has one, over HTTP and gRPC."""
    context = _server_context(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    server = start(answering(lambda _: _RIGHT), tls=context)
    shown = _client_files(authority, tmp_path)

    options: dict[str, Any] = {"root_certificates": roots}
    with inkling.connect(server.url, **options, **shown) as classifier:
        assert "7" == classifier.classify(b"x").label
    assert NotReady is type(_refused(server.url, **options))
    for protocol in ("grpc", "asyncio"):
        found = _asked_over_grpc(authority, protocol, {**options, **shown})
        assert NotFound is type(found)  # it is reached, and has no such method
        found = _asked_over_grpc(authority, protocol, options)
        assert NotReady is type(found)


def _asked_over_grpc(
    authority: trustme.CA, protocol: str, options: dict[str, Any]
) -> InklingError:
    """Ask a gRPC server without methods that wants a certificate from its clients."""
    import asyncio

    issued = authority.issue_cert("127.0.0.1")
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), chain)],
        authority.cert_pem.bytes(),
        require_client_auth=True,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()

    async def asked() -> InklingError:
        async with inkling.AioClassifier(f"127.0.0.1:{port}", **options) as classifier:
            with pytest.raises(InklingError) as caught:
                await classifier.classify(b"x")
        return caught.value

    try:
        if protocol == "asyncio":
            return asyncio.run(asked())
        return _refused(f"127.0.0.1:{port}", **options)
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("target", ["https://localhost", "localhost:8081"])
def test_certificates_that_cannot_be_used_are_named(
    target: str, authority: trustme.CA, roots: Path, tmp_path: Path
) -> None:
    """A file that is no PEM, or a key that wants a password, is refused at once."""
    files = _client_files(authority, tmp_path)
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    locked = tmp_path / "locked.pem"
    _lock(files["client_key"], locked)

    for options, words in (
        ({"root_certificates": nonsense}, "root_certificates"),
        ({**files, "client_key": nonsense}, "client_key"),
        ({**files, "client_certificate": nonsense}, "client_certificate"),
        ({**files, "client_key": locked}, "without a password"),
        ({"root_certificates": roots, "client_key": locked}, "go together"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            inkling.connect(target, **options)


def _lock(key: Path, locked: Path) -> None:
    """Write a key anew, with a password."""
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
