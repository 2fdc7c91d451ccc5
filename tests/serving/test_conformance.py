# SPDX-License-Identifier: Apache-2.0
"""HTTP as it is spoken on the wire, row by row (H1 to H24), and the gateway's end.

Each row of the table goes every way through the gateway: answered where its bytes
arrive, handed to the application because it comes in pieces, and through Flask.
"""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import numpy as np
import pytest
from PIL import Image

from tests.support import slow_clients
from tests.support.described import DescribedGateway
from tests.support.gateway_process import STOPPED_BY_SIGNAL, Running
from tests.support.http_bytes import converse, whole_answer
from tests.support.machine import until, within

Serve = Callable[..., Running]
_CLASSIFY = b"/v1/models/mlp:classify"
_EXPLAIN = b"/v1/models/mlp:explain"
_MAX_BODY = 10 * 1024 * 1024
_CLOSE = b"Connection: close\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_AS_JSON = b"Content-Type: application/json\r\n"
_AS_FORM = b"Content-Type: multipart/form-data; boundary=frontier\r\n"
_AS_FIELDS = b"Content-Type: application/x-www-form-urlencoded\r\n"
_LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def _png() -> bytes:
    """Return a picture of the models' own size, so that it may be answered at once."""
    file = io.BytesIO()
    Image.new("L", (28, 28)).save(file, "PNG")
    return file.getvalue()


_PNG = _png()


@dataclass(frozen=True)
class Row:
    """An exchange: what is sent, and what is to come back before the server closes.

    Attributes:
        name: The row of the list, and which case of it.
        sent: The bytes.
        statuses: All that are to be heard, in order.
        code: The error's code word in the last answer, where that is a refusal.
        also: What else the answers have, in this order.
    """

    name: str
    sent: bytes
    statuses: tuple[int, ...]
    code: str = ""
    also: tuple[bytes, ...] = ()


def _post(
    headers: bytes = _CLOSE,
    body: bytes = _PNG,
    *,
    line: bytes = b"POST %b HTTP/1.1\r\nHost: x\r\n" % _CLASSIFY,
    length: bool = True,
) -> bytes:
    announced = b"Content-Length: %d\r\n" % len(body) if length else b""
    return line + headers + announced + b"\r\n" + body


def _line(method: bytes, version: bytes = b"1.1", query: bytes = b"") -> bytes:
    return b"%b %b%b HTTP/%b\r\nHost: x\r\n" % (method, _CLASSIFY, query, version)


def _chunks(body: bytes, size: int = 65_536) -> bytes:
    pieces = [body[place : place + size] for place in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n"


def _sized(length: int) -> bytes:
    """Return a picture with so many bytes behind its end that it has this length."""
    return _PNG.ljust(length, b"\0")


def _parts(count: int, content: bytes, options: bytes = b"") -> bytes:
    head = b'--frontier\r\nContent-Disposition: form-data; name="f"' + options
    return (head + b"\r\n\r\n" + content + b"\r\n") * count


def _json_of(text: bytes) -> bytes:
    return json.dumps({"images": [{"b64": text.decode()}]}).encode()


_DATA_URL = b"data:image/png;base64," + base64.b64encode(_PNG)
_FILE = _parts(1, _PNG, b'; filename="f.png"')
_END = b"--frontier--\r\n"
_NO_HOST = b"POST %b HTTP/1.1\r\n" % _CLASSIFY
_INVALID: tuple[tuple[int, ...], str] = ((400,), "invalid_request")
_TOO_LARGE: tuple[tuple[int, ...], str] = ((413,), "too_large")
_FIELDS: tuple[tuple[int, ...], str] = ((431,), "invalid_request")
_FOREIGN: tuple[tuple[int, ...], str] = ((415,), "unsupported_media_type")
_METHOD: tuple[tuple[int, ...], str] = ((405,), "method_not_allowed")
_OK = (200,)

_TABLE = [
    Row("picture", _post(), _OK, also=(b"connection: close", b'"results"')),
    Row("H1 body of the limit", _post(_CLOSE, _sized(_MAX_BODY)), _OK),
    Row("H1 one byte over", _post(b"", _sized(_MAX_BODY + 1)), *_TOO_LARGE),
    Row(
        "H2 in 100,000 chunks",
        _post(_CLOSE + _CHUNKED, _chunks(_sized(100_000), 1), length=False),
        _OK,
    ),
    Row(
        "H2 in one chunk more",
        _post(_CHUNKED, _chunks(_sized(100_001), 1), length=False),
        *_INVALID,
    ),
    Row(
        "H2 chunked, of the limit",
        _post(_CLOSE + _CHUNKED, _chunks(_sized(_MAX_BODY)), length=False),
        _OK,
    ),
    Row(
        "H2 chunked, one byte over",
        _post(_CHUNKED, _chunks(_sized(_MAX_BODY + 1)), length=False),
        *_TOO_LARGE,
    ),
    Row(
        "H2 trailers are no headers",
        _post(
            _CLOSE + _CHUNKED + b"X-Request-Id: one\r\n",
            _chunks(_PNG)[:-2] + b"Content-Encoding: gzip\r\nX-Request-Id: two\r\n\r\n",
            length=False,
        ),
        _OK,
        also=(b"x-request-id: one",),
    ),
    # Where a body's end is in doubt, nothing after it is taken for a request.
    *[
        Row(name, _line(b"POST") + head + b"\r\nhello" + _LIVE, *_INVALID)
        for name, head in {
            "H5 negative length": b"Content-Length: -1\r\n",
            "H5 length with a sign": b"Content-Length: +5\r\n",
            "H5 length in words": b"Content-Length: five\r\n",
            "H5 length in hexadecimal": b"Content-Length: 0x5\r\n",
            "H5 length beyond measure": b"Content-Length: %b\r\n" % (b"9" * 30),
            "H5 two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n",
            "H5 the same length twice": b"Content-Length: 5\r\n" * 2,
            "H5 two numbers": b"Content-Length: 5 5\r\n",
            "H5 space before the colon": b"Content-Length : 5\r\n",
            "H6 length and chunks": b"Content-Length: 5\r\n" + _CHUNKED,
            "H6 chunks and length": _CHUNKED + b"Content-Length: 5\r\n",
            "H6 chunked, but not at last": b"Transfer-Encoding: chunked, identity\r\n",
            "H6 unknown coding": b"Transfer-Encoding: xchunked\r\n",
            "H6 folded header": b"X: a\r\n b\r\nContent-Length: 5\r\n",
            "H6 NUL in a name": b"X\x00: a\r\nContent-Length: 5\r\n",
        }.items()
    ],
    *[
        Row(name, _post(_CHUNKED, body + _LIVE, length=False), *_INVALID)
        for name, body in {
            "H3 size in letters": b"zz\r\nhello\r\n0\r\n\r\n",
            "H3 negative size": b"-5\r\nhello\r\n0\r\n\r\n",
            "H3 chunk longer than its size": b"5\r\nhelloX\r\n0\r\n\r\n",
            "H3 size beyond measure": b"%b\r\nhello\r\n0\r\n\r\n" % (b"f" * 17),
        }.items()
    ],
    Row("H7 GET of HTTP/1.0", b"GET /livez HTTP/1.0\r\n\r\n", _OK),
    Row("H7 POST of HTTP/1.0", _post(b"", line=_line(b"POST", b"1.0")), _OK),
    Row("H8 no host", _post(line=_NO_HOST), *_INVALID),
    Row("H8 two hosts", _post(b"Host: y\r\n" + _CLOSE), *_INVALID),
    Row(
        "H9 three in one piece",
        _post(b"X-Request-Id: a\r\n")
        + _post(b"X-Request-Id: b\r\n")
        + _post(b"X-Request-Id: c\r\n" + _CLOSE),
        (200, 200, 200),
        also=(b"x-request-id: a", b"x-request-id: b", b"x-request-id: c"),
    ),
    Row(
        "H9 slow and quick by turns",
        (
            _post(b"X-Request-Id: a\r\n").replace(_CLASSIFY, _EXPLAIN)
            + _post(b"X-Request-Id: b\r\n")
            + _LIVE
        )
        * 4
        + _post(b"X-Request-Id: c\r\n" + _CLOSE),
        (200,) * 13,
        also=(b"x-request-id: a", b"x-request-id: b") * 4 + (b"x-request-id: c",),
    ),
    Row("H10 100 headers", _post(b"X: a\r\n" * 97 + _CLOSE), _OK),
    Row("H10 101 headers", _post(b"X: a\r\n" * 98 + _CLOSE), *_FIELDS),
    Row("H10 10,000 headers", _post(b"X: a\r\n" * 10_000), *_FIELDS),
    Row(
        "H10 101 headers behind empty lines",
        b"\r\n\r\n" + _post(b"X: a\r\n" * 98 + _CLOSE),
        *_FIELDS,
    ),
    Row("H11 9 kB header", _post(b"X: %b\r\n" % (b"a" * 9_000) + _CLOSE), _OK),
    Row("H11 40 kB header", _post(b"X: %b\r\n" % (b"a" * 40_000)), *_FIELDS),
    Row("H11 1 MB header", _post(b"X: %b\r\n" % (b"a" * 1_000_000)), *_FIELDS),
    Row(
        "H11 5 kB URL",
        _post(_CLOSE, line=_line(b"POST", query=b"?a=" + b"x" * 5_000)),
        *_INVALID,
        also=(b"the unknown key 'a'",),
    ),
    Row(
        "H11 20 kB URL",
        _post(line=_line(b"POST", query=b"?a=" + b"x" * 20_000)),
        (414,),
        "invalid_request",
    ),
    Row(
        "H11 1 MB URL",
        _post(line=_line(b"POST", query=b"?a=" + b"x" * 1_000_000)),
        *_FIELDS,
    ),
    *[
        Row(
            f"H12 {method!r}",
            _post(line=_line(method)),
            *_METHOD,
            (b"allow: options, post",),
        )
        for method in (b"GET", b"TRACE", b"PUT", b"PROPFIND")
    ],
    # These are no methods of any kind of HTTP, and so this is none.
    Row("H12 unknown word", _post(line=_line(b"BREW")), *_INVALID),
    Row("H12 small letters", _post(line=_line(b"post")), *_INVALID),
    Row("H13 TLS", b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4" + bytes(190), *_INVALID),
    Row("H13 lines without CR", _post().replace(b"\r\n", b"\n"), *_INVALID),
    Row("H13 one line without CR", _post().replace(b"\r\n", b"\n", 1), *_INVALID),
    Row("H13 HTTP/2.0", _post(line=_line(b"POST", b"2.0")), *_INVALID),
    Row("H13 HTTP/1.2", _post(line=_line(b"POST", b"1.2")), *_INVALID),
    Row("H13 HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", *_INVALID),
    Row("H14 Expect", _post(b"Expect: 100-continue\r\n" + _CLOSE), (100, 200)),
    Row("H15 no gzip", _post(b"Content-Encoding: gzip\r\n" + _CLOSE), *_INVALID),
    Row("H15 br", _post(b"Content-Encoding: br\r\n" + _CLOSE), *_FOREIGN),
    Row("H16 2,000 files", _post(_CLOSE + _AS_FORM, _FILE * 2000 + _END), *_TOO_LARGE),
    Row(
        "H16 2,000 fields",
        _post(_CLOSE + _AS_FORM, _parts(2000, b"x") + _END),
        *_TOO_LARGE,
    ),
    Row(
        "H16 600 kB field",
        _post(_CLOSE + _AS_FORM, _FILE + _parts(1, bytes(600_000)) + _END),
        *_TOO_LARGE,
    ),
    *[
        Row(f"H23 {name}", _post(_CLOSE + head, body), _OK, also=(b'"results"',))
        for name, head, body in (
            (
                "form, type in capitals",
                b'Content-Type: Multipart/Form-Data; Boundary="frontier"\r\n',
                _FILE + _END,
            ),
            (
                "form, picture without a file name",
                _AS_FORM,
                _parts(1, _PNG, b"\r\nContent-Type: image/png") + _END,
            ),
            (
                "form, text around it",
                _AS_FORM,
                b"preamble\r\n" + _FILE + _END + b"epilogue",
            ),
            (
                "form, lines without CR",
                _AS_FORM,
                _PNG.join(
                    _parts(1, b"#", b"; filename=f").replace(b"\r\n", b"\n").split(b"#")
                )
                + _END,
            ),
            ("form, data: URL", _AS_FORM, _parts(1, _DATA_URL) + _END),
            ("JSON, data: URL", _AS_JSON, _json_of(_DATA_URL)),
            ("JSON, lines", _AS_JSON, _json_of(base64.encodebytes(_PNG))),
            ("JSON, url alphabet", _AS_JSON, _json_of(base64.urlsafe_b64encode(_PNG))),
            (
                "JSON, byte order mark",
                _AS_JSON,
                b"\xef\xbb\xbf" + _json_of(base64.b64encode(_PNG)),
            ),
            (
                "JSON, another type",
                b"Content-Type: application/x+JSON\r\n",
                _json_of(base64.b64encode(_PNG)),
            ),
            ("fields", _AS_FIELDS, b"top_k=2&image=" + quote_plus(_DATA_URL).encode()),
            ("bare data: URL", b"Content-Type: text/plain\r\n", _DATA_URL),
        )
    ],
    Row(
        "H23 UTF-16",
        _post(
            _AS_JSON + _CLOSE,
            _json_of(base64.b64encode(_PNG)).decode().encode("utf-16"),
        ),
        *_INVALID,
        (b"utf-8",),
    ),
    Row(
        "H24 unknown key",
        _post(_CLOSE, line=_line(b"POST", query=b"?topk=3")),
        *_INVALID,
        (b"did you mean top_k",),
    ),
    Row(
        "H24 unknown key in JSON",
        _post(_CLOSE + _AS_JSON, b'{"images": [], "topk": 3}'),
        *_INVALID,
        (b"did you mean top_k",),
    ),
    Row(
        "H24 unknown key in a form",
        _post(
            _CLOSE + _AS_FORM, _FILE + _parts(1, b"3").replace(b'"f"', b'"topk"') + _END
        ),
        *_INVALID,
        (b"did you mean top_k",),
    ),
    Row(
        "H24 two values",
        _post(
            _CLOSE + _AS_JSON,
            _json_of(_DATA_URL)[:-1] + b', "top_k": 2}',
            line=_line(b"POST", query=b"?top_k=3"),
        ),
        *_INVALID,
        (b"two values for top_k",),
    ),
    Row(
        "H24 in the body",
        _post(
            _CLOSE + _AS_JSON,
            _json_of(_DATA_URL)[:-1] + b', "top_k": 2}',
            line=_line(b"POST", query=b"?timing=true"),
        ),
        _OK,
        also=(b"server-timing",),
    ),
    Row("upgrade is not taken", _post(b"Upgrade: h2c\r\n" + _CLOSE), _OK),
]
_WAYS: dict[str, Callable[[bytes], list[bytes]]] = {
    "at once": lambda sent: [sent],
    "in pieces": lambda sent: [sent[:10], sent[10:-5], sent[-5:]],
    "by Flask": lambda sent: [sent.replace(_CLASSIFY, _EXPLAIN)],
}


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("row", _TABLE, ids=lambda row: row.name)
def test_exchange(
    gateway: Any, described: DescribedGateway, row: Row, way: str
) -> None:
    """H1 to H16, H23, H24: each exchange is answered alike whichever way it takes, and closed.

    The last answer has the form that the OpenAPI document gives.
    """
    heard = converse(gateway.port, *_WAYS[way](row.sent))

    assert row.statuses == heard.statuses
    place = 0
    for words in row.also:
        assert words in heard.text[place:].lower()
        place = heard.text.lower().index(words, place) + 1
    if row.code:
        error = json.loads(heard.text.rpartition(b"\r\n\r\n")[2])["error"]
        assert row.code == error["code"]
    described.described.check_text(b"".join(_WAYS[way](row.sent)), heard.text)


def test_small_limit_holds_every_way(
    start_gateway: Callable[..., Any], published: Path
) -> None:
    """H1: a small limit holds, whether a body comes with its head or after it."""
    with start_gateway(published, "--max-body-bytes", str(len(_PNG) - 1)) as own:
        for way in _WAYS.values():
            heard = converse(own.port, *way(_post()))
            assert (413,) == heard.statuses


def test_heads_behind_a_request_are_bounded(gateway: Any) -> None:
    """A head that comes in one piece with the request before has bounds, too.

    It is refused once that request is answered.
    """
    heard = converse(gateway.port, _post(b"") + _post(b"X: a\r\n" * 99))

    assert (200, 431) == heard.statuses


def test_refusal_does_not_overtake_an_answer(gateway: Any, slow_body: bytes) -> None:
    """H9: what is no request is not answered before the request in front of it."""
    heard = converse(gateway.port, _post(b"", slow_body) + b"garbage\r\n\r\n")

    assert (200, 400) == heard.statuses


def test_body_over_the_limit_is_refused_when_it_is_there(gateway: Any) -> None:
    """H2: who has sent all of a chunked body does not wait until no more comes."""
    body = _chunks(bytes(_MAX_BODY + 1))
    took = []
    for _ in range(3):
        started = time.monotonic()
        heard = converse(gateway.port, _post(_CHUNKED, body, length=False))
        took.append(time.monotonic() - started)
        assert (413,) == heard.statuses

    within(min(took), 1.5)


# Slow clients.


@pytest.fixture(scope="module")
def slow_body() -> bytes:
    """A body that takes some tenths of a second: a few large photos."""
    rng, file = np.random.default_rng(0), io.BytesIO()
    pixels = rng.integers(0, 256, (1500, 1500, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    image = {"b64": base64.b64encode(file.getvalue()).decode()}
    return json.dumps({"images": [image] * 2}).encode()


@dataclass
class Client:
    """Asks for a classification again and again, and notes how it went.

    Attributes:
        port: Where.
        kept: Whether on one connection, or on a new one each time.
        request: What is sent.
        ends: How the requests ended. "lost" was sent whole on an open connection and
            got no whole answer; "unsent" is a connection that was closed before.
        seconds: How long each answer took.
    """

    port: int
    kept: bool = True
    request: bytes = field(default_factory=lambda: _post(b""))
    ends: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def run(self, end: Callable[[], bool] = lambda: False) -> None:
        """Ask until `end` says so, or until nobody listens any more."""
        while not end():
            try:
                connection = socket.create_connection(("127.0.0.1", self.port), 60)
            except ConnectionError:
                return
            with connection:
                while self._ask(connection) and self.kept and not end():
                    pass

    def _ask(self, connection: socket.socket) -> bool:
        """Ask once; return whether the connection may be used again."""
        started = time.perf_counter()
        try:
            if _is_closed(connection):
                raise ConnectionError
            connection.sendall(self.request)
        except ConnectionError:
            self.ends["unsent"] += 1
            return False
        answer = b""
        with suppress(ConnectionError):
            answer = whole_answer(connection)
        self.seconds.append(time.perf_counter() - started)
        self.ends[answer[9:12].decode() or "lost"] += 1
        return bool(answer) and b"\r\nconnection: close\r\n" not in answer


def _is_closed(connection: socket.socket) -> bool:
    timeout = connection.gettimeout()
    connection.setblocking(False)
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(timeout)


@contextmanager
def _asking(clients: list[Client], end: threading.Event) -> Iterator[None]:
    threads = [threading.Thread(target=one.run, args=[end.is_set]) for one in clients]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def _p99_s(clients: list[Client]) -> float:
    seconds = [one for client in clients for one in client.seconds]
    return float(np.percentile(seconds, 99))


def _ends(clients: list[Client]) -> dict[str, int]:
    return dict(sum((client.ends for client in clients), Counter[str]()))


def _asked_for(port: int, seconds: float) -> list[Client]:
    """Return clients that asked for some seconds, two on new connections."""
    clients = [Client(port, kept) for kept in (True, True, False, False)]
    end = threading.Event()
    with _asking(clients, end):
        end.wait(seconds)
        end.set()
    return clients


@pytest.mark.parametrize(
    "count", [100, pytest.param(1000, marks=pytest.mark.soak)], ids=str
)
def test_slow_clients(
    start_gateway: Callable[..., Any], published: Path, count: int
) -> None:
    """H4, H17 to H20, F10: slow clients do no harm to others, and are shown the door.

    As many clients that drip headers, that drip bodies or stall in them, and that say
    nothing: classifications beside them all succeed, with a p99 of at most twice what
    it was, and the slow ones are gone after their time.
    """
    flags = ("--body-timeout-s", "5", "--keep-alive-s", "5")
    flags += ("--max-connections", "5000")
    with start_gateway(published, *flags) as own:
        command = [sys.executable, slow_clients.__file__, str(own.port), str(count)]
        _asked_for(own.port, 0.5)
        before = _asked_for(own.port, 3)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as slow:
            assert slow.stdout is not None
            assert slow.stdout.readline() == "open\n"
            beside = _asked_for(own.port, 3)
            assert slow.poll() is None
            ends = json.loads(slow.stdout.read())

    print(f"before: {_ends(before)}, p99 {_p99_s(before):.4f} s")
    print(f"beside: {_ends(beside)}, p99 {_p99_s(beside):.4f} s; slow ones: {ends}")
    assert {"200"} == set(_ends(before)) == set(_ends(beside))
    bodies = ends["bodies"]["statuses"]
    # A byte that is under way when the connection closes may take the answer with it.
    bodies["504"] += bodies.pop("reset", 0)
    assert {
        "headers": {"408": count},
        "bodies": {"504": count * 9 // 10},
        "stalled": {"504": count // 10},
        "idle": {"": count // 2},
        "kept": {"200": count // 2},
    } == {kind: end["statuses"] for kind, end in ends.items()}
    within(max(end["last_s"] for end in ends.values()), 30)
    within(_p99_s(beside), 2 * _p99_s(before) + 0.05)


# The end.


@pytest.mark.parametrize(
    "moment",
    [0, 3, *[pytest.param(n, marks=pytest.mark.soak) for n in range(50) if n % 3]],
)
def test_end_under_load_loses_nothing(
    serve: Serve, slow_body: bytes, moment: int
) -> None:
    """F6: whenever SIGTERM comes, every request that was sent is answered whole.

    Half of the clients keep their connection, half take a new one for each request;
    some ask for what takes long. By turns there are one and two workers.
    """
    # Nothing is refused here for having waited.
    gateway = serve("--workers", 1 + moment % 2, "--queue-timeout-s", 60)
    gateway.wait_ready()
    clients = [Client(gateway.port, kept) for kept in (True, False) * 6]
    slow = _post(b"", slow_body)
    clients += [Client(gateway.port, kept, slow) for kept in (True, False) * 2]
    with _asking(clients, threading.Event()):
        until(lambda: all(client.seconds for client in clients))
        time.sleep(0.037 * moment)  # the moment is the test
        signalled = time.monotonic()
        code = gateway.stop()
        took = time.monotonic() - signalled

    ends = _ends(clients)
    print(f"{ends['200']} answered, {ends.get('unsent', 0)} connections closed unused")
    assert {"200"} == set(ends) - {"unsent"}
    assert code == 0, gateway.log.read_text()
    assert "Traceback" not in gateway.log.read_text()
    within(took, 20)


def test_end_waits_for_what_is_under_way(serve: Serve, slow_body: bytes) -> None:
    """H21: of 12 requests under way and 6 half sent at SIGTERM, 18 are answered.

    A kept connection on which a long request is sent after the signal is no exception;
    a new connection is refused.
    """
    flags = ["--workers", 1, "--threads", 4, "--queue-timeout-s", 60]
    gateway = serve(*flags, "--max-held-bytes", 2**28)
    gateway.wait_ready()
    address, request = ("127.0.0.1", gateway.port), _post(b"", slow_body)
    kept = socket.create_connection(address, 60)
    kept.sendall(_post(b""))
    assert whole_answer(kept)
    sockets = [socket.create_connection(address, 60) for _ in range(18)]
    for connection in sockets:
        connection.sendall(request[: -1000 if connection in sockets[12:] else None])
    until(lambda: gateway.get("/livez")[0] == 200)

    def accepts() -> bool:
        try:
            socket.create_connection(address, 0.05).close()
        except OSError:
            return False
        return True

    gateway.process.send_signal(signal.SIGTERM)
    until(lambda: not accepts())
    kept.sendall(request)
    for connection in sockets[12:]:
        connection.sendall(request[-1000:])
    answers = [whole_answer(connection)[9:12] for connection in [*sockets, kept]]

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 5)
    assert [b"200"] * 19 == answers
    for connection in [*sockets, kept]:
        connection.close()
    assert gateway.process.wait(20) == 0
    assert "Traceback" not in gateway.log.read_text()


@pytest.mark.parametrize(
    "offsets_ms",
    [range(0, 2250, 250), pytest.param(range(0, 3100, 50), marks=pytest.mark.soak)],
    ids=["9", "62"],
)
def test_end_during_the_start(serve: Serve, offsets_ms: range) -> None:
    """H22, S3: SIGTERM at any moment of the start ends the gateway within 5 s.

    By turns there are one and two workers, and three gateways start at a time.
    """
    for first in range(0, len(offsets_ms), 3):
        started = [
            (serve("--workers", 1 + offset % 100 // 50), offset / 1000)
            for offset in offsets_ms[first : first + 3]
        ]
        for gateway, offset in started:
            time.sleep(max(0.0, gateway.started + offset - time.monotonic()))
            gateway.process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        for gateway, _ in started:
            code = gateway.process.wait(30)
            assert code in STOPPED_BY_SIGNAL, gateway.log.read_text()
        within(time.monotonic() - signalled, 5)


# Heads that come again, and are not read again.

_HEADS = {
    "plain": b"",
    "query": b"?top_k=3&timing=true",
    "bad query": b"?top_k=zero",
    "id": b"X-Request-Id: mine\r\n",
    "wrong type": b"Content-Type: text/html\r\n",
    "packed": b"Content-Encoding: gzip\r\n",
}


def _kept(name: str, body: bytes) -> bytes:
    extra = _HEADS[name]
    query, headers = (extra, b"") if extra.startswith(b"?") else (b"", extra)
    return _post(headers, body, line=_line(b"POST", query=query))


def _same(answer: bytes) -> bytes:
    """Return an answer without what differs from one to the next."""
    # A refusal by the way of all requests leaves the body unread, and so hangs up.
    varying = (
        rb"(?i)(date|x-request-id|server-timing): [^\r]*|[0-9a-f]{32}|"
        rb"connection: close\r\n"
    )
    return re.sub(varying, b"", answer)


def _in_two_pieces(gateway: Any, request: bytes) -> bytes:
    """Return the answer by the way of all requests."""
    address = ("127.0.0.1", gateway.port)
    with socket.create_connection(address, timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request[:-1])
        time.sleep(0.02)
        connection.sendall(request[-1:])
        return whole_answer(connection)


@pytest.mark.parametrize("name", _HEADS)
def test_heads_that_come_again(gateway: Any, name: str) -> None:
    """Each of five requests with one head is answered like alone, whatever its body is."""
    digit = Image.fromarray(np.full((28, 28), 200, np.uint8))
    file = io.BytesIO()
    digit.save(file, "PNG")
    noise = _PNG[:-30] + bytes(30)
    bodies = [_PNG, noise, _PNG, b"x" * len(_PNG), _PNG, file.getvalue()]
    alone = [_same(_in_two_pieces(gateway, _kept(name, body))) for body in bodies]

    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as kept:
        together = []
        for body in bodies:
            kept.sendall(_kept(name, body))
            together.append(_same(whole_answer(kept)))

    assert alone == together


def test_known_heads_with_another_end(gateway: Any) -> None:
    """A known head whose body comes in pieces, too long or with more behind it."""
    request = _kept("plain", _PNG)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as kept:
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(3):
            kept.sendall(request)
            wanted = _same(whole_answer(kept))
        for cut in (1, 20, request.index(b"\r\n\r\n") + 4, len(request) - 1):
            kept.sendall(request[:cut])
            time.sleep(0.02)
            kept.sendall(request[cut:])
            assert wanted == _same(whole_answer(kept))
        kept.sendall(request * 3 + _LIVE)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 4 or not received.endswith(b"}"):
            received += kept.recv(65_536)
        assert 3 == received.count(b'"results"')
        kept.sendall(request)
        assert wanted == _same(whole_answer(kept))


def test_kept_connections_end_after_their_last_answer(
    start_gateway: Callable[..., Any], published: Path
) -> None:
    """The time for the next request counts from the last answer, not from the first."""
    with (
        start_gateway(published, "--keep-alive-s", "5") as own,
        socket.create_connection(("127.0.0.1", own.port), timeout=10) as kept,
    ):
        for pause_s in (2, 2, 0):
            kept.sendall(_kept("plain", _PNG))
            assert whole_answer(kept)
            answered = time.monotonic()
            time.sleep(pause_s)
        assert b"" == kept.recv(100)
        waited = time.monotonic() - answered
    assert waited > 4
    within(waited, 6)
