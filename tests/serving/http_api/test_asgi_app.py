# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: in which thread a request is answered, and who waits for whom."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from inkling.contract import Contract
from tests.serving.http_api.server_here import LOOP, Here, code_of, served_here
from tests.support.http_bytes import whole_answer
from tests.support.machine import until, within

_CLASSIFY = "/v1/models/mlp:classify"
_EXPLAIN = "/v1/models/mlp:explain"


@pytest.fixture(scope="module")
def here(digit_contract: Contract) -> Iterator[Here]:
    """A server whose model is quick."""
    with served_here(digit_contract, quick=True) as server:
        yield server


@pytest.fixture
def photo(encode: Callable[..., bytes]) -> bytes:
    """A picture that is not of the model's size."""
    return encode(np.full((64, 64), 255, np.uint8))


def test_a_quick_classification_is_answered_on_the_loop(
    here: Here, picture: bytes, photo: bytes
) -> None:
    """A sample for a small model is; a larger picture, and `:explain`, are not."""
    for path, body in ((_CLASSIFY, picture), (_CLASSIFY, photo), (_EXPLAIN, picture)):
        assert here.request("POST", path, body).status == 200

    quick, pooled, explained = here.engine.threads[-3:]
    assert quick == LOOP
    assert pooled.startswith("inkling-pool")
    assert explained.startswith("inkling-pool")


def test_what_is_refused_is_not_handed_over(here: Here) -> None:
    """Each way says the same of the same mistake, with the caller's id."""
    headers = {"X-Request-Id": "mine"}
    found = []
    for path in (_CLASSIFY, _EXPLAIN):
        answer = here.request("POST", path, b"hello", headers)
        assert answer.headers["x-request-id"] == "mine"
        found.append((answer.status, answer.json["error"]))

    assert found[0] == found[1]
    assert (400, "invalid_image") == (found[0][0], found[0][1]["code"])


def test_status_never_waits_for_pictures(
    digit_contract: Contract, picture: bytes
) -> None:
    """With every thread busy and no room to wait, all that only reads is answered."""
    with served_here(digit_contract, threads=2, queue=0) as here:
        here.engine.free.clear()
        waiting = [here.in_background("POST", _CLASSIFY, picture) for _ in range(2)]
        until(lambda: len(here.engine.threads) == 2)
        started = time.monotonic()
        for path in (
            "/livez",
            "/readyz",
            "/metrics",
            "/v1/models",
            "/v1/models/mlp",
            "/",
        ):
            assert here.request("GET", path).status == 200, path
        took = time.monotonic() - started
        refused = [
            here.request("POST", path, picture) for path in (_CLASSIFY, _EXPLAIN)
        ]
        here.engine.free.set()
        for thread, answers in waiting:
            thread.join()
            assert answers[0].status == 200

    within(took, 2)
    assert [(503, "overloaded")] * 2 == [(r.status, code_of(r)) for r in refused]
    assert "1" == refused[0].headers["retry-after"]


def test_a_client_that_leaves_the_queue_frees_its_place(
    digit_contract: Contract, picture: bytes
) -> None:
    """What nobody waits for is not worked on once a thread is free."""
    with served_here(digit_contract, threads=1, queue=1) as here:
        here.engine.free.clear()
        first, answers = here.in_background("POST", _CLASSIFY, picture)
        until(lambda: here.engine.threads)
        head = f"POST {_CLASSIFY} HTTP/1.1\r\nHost: x\r\n".encode()
        length = f"Content-Length: {len(picture)}\r\n\r\n".encode()
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", here.port)) as leaving:
                leaving.sendall(head + length + picture)
                time.sleep(0.05)
            time.sleep(0.15)  # until it is noticed
        last = here.in_background("POST", _CLASSIFY, picture)
        time.sleep(0.2)
        here.engine.free.set()
        for thread, found in ((first, answers), last):
            thread.join()
            assert found[0].status == 200

    assert 2 == len(here.engine.threads)


def test_timings_and_id_go_through_flask(
    digit_contract: Contract, picture: bytes
) -> None:
    """`:explain?timing=true` tells how long the body took, and the wait for a thread."""
    with served_here(digit_contract, threads=1) as here:
        here.engine.free.clear()
        first, _ = here.in_background("POST", _CLASSIFY, picture)
        until(lambda: here.engine.threads)
        with socket.create_connection(("127.0.0.1", here.port), 10) as connection:
            head = f"POST {_EXPLAIN}?timing=true HTTP/1.1\r\nHost: x\r\n"
            head += f"X-Request-Id: abc\r\nContent-Length: {len(picture)}\r\n\r\n"
            connection.sendall(head.encode() + picture[:50])
            time.sleep(0.1)
            connection.sendall(picture[50:])
            time.sleep(0.1)
            here.engine.free.set()
            answer = whole_answer(connection).decode("latin-1").lower()
        first.join()

    lines = answer.split("\r\n")
    [timing] = [line for line in lines if line.startswith("server-timing: ")]
    phases = {
        name: float(duration)
        for name, duration in (
            one.split(";dur=") for one in timing.partition(": ")[2].split(", ")
        )
    }
    assert "x-request-id: abc" in lines
    assert phases["receive"] >= 90
    assert phases["queue"] >= 90
    assert phases["preprocess"] > 0


def test_each_request_has_one_id(here: Here, picture: bytes) -> None:
    """The id in the header is the id in the body, another for each request."""
    ids = set()
    for path in ("/nowhere", _EXPLAIN, _CLASSIFY):
        answer = here.request("POST", path, b"hello")
        body = json.loads(answer.body)["error"]["request_id"]
        assert answer.headers["x-request-id"] == body
        ids.add(body)

    assert 3 == len(ids)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/%E2%82%AC", 400),
        ("/v1/models/%FF%FE", 400),
        ("/v1/models/mlp%2F..", 404),
        ("/v1/models//mlp", 404),
        ("//v1/models", 200),  # Werkzeug takes these for one slash
        ("/page/%2e%2e/flask_app.py", 404),
        ("/page/..%2f..%2fsettings.py", 404),
        ("/v1/models/mlp?top_k=%00", 400),
        ("/%00", 404),
    ],
)
def test_odd_addresses_reach_flask_unharmed(here: Here, path: str, status: int) -> None:
    """Percent-decoded letters of any kind are looked up, and nothing else happens."""
    answer = here.request("GET", path)

    assert status == answer.status, answer.body


def test_a_file_of_the_page_is_not_sent_twice(here: Here) -> None:
    """Headers that Flask needs reach it, by the way of the ASGI application."""
    first = here.request("GET", "/page/page.js")
    same = {"If-None-Match": first.headers["etag"]}
    again = here.request("GET", "/page/page.js", headers=same)

    assert (200, 304) == (first.status, again.status)
    assert first.body
    assert not again.body


def test_many_quick_requests_are_bounded(here: Here, picture: bytes) -> None:
    """Requests beyond 512 under way are refused; each of the others is answered."""
    head = f"POST {_CLASSIFY} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    whole = head.encode() + b"Content-Length: %d\r\n\r\n" % len(picture) + picture
    address = ("127.0.0.1", here.port)
    connections = [socket.create_connection(address, 20) for _ in range(700)]
    for one in connections:
        one.sendall(whole)
    statuses: list[Any] = []
    for one in connections:
        statuses.append(int(whole_answer(one)[9:12]))
        one.close()

    assert {200, 503} >= set(statuses)
    assert statuses.count(200) >= 512
