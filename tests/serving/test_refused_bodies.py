# SPDX-License-Identifier: Apache-2.0
"""Bodies of refused requests are freed at once, and not when Python collects cycles."""

from __future__ import annotations

import gc
import io
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from PIL import Image

from inkling.contract import Contract
from inkling.v1 import classifier_pb2 as pb
from tests.serving.grpc_api import server_here as grpc_server
from tests.serving.http_api import server_here as http_server
from tests.support.machine import until

_BODY = b"hello" + bytes(4_000_000)
_FORM = {"Content-Type": "multipart/form-data; boundary=b"}
_PART = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
_REQUESTS = 10
# The last requests may not have been left yet, and their bodies are there twice.
_MAX_HELD = 4 * len(_BODY)
_CLASSIFY = "/v1/models/mlp:classify"


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


def _held(send: Callable[[], object]) -> int:
    """Return the bytes that are still held after some requests."""
    send()  # what is loaded once is loaded now
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(_REQUESTS):
        send()
    return tracemalloc.get_traced_memory()[0] - before


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", _CLASSIFY, _BODY, {}, 400),
        ("POST", _CLASSIFY, _PART + _BODY + b"\r\n--b--\r\n", _FORM, 400),
        ("POST", _CLASSIFY, _PART + _BODY, _FORM, 400),
        ("POST", _CLASSIFY, b'{"images": [{"b64": "%b!"}]}' % (b"A" * 4_000_000), {}, 400),
        ("POST", _CLASSIFY + "?topk=3", _BODY, {}, 400),
        ("POST", _CLASSIFY + "?partial=true", _BODY, {}, 200),
        ("POST", "/v1/models/mlp/versions/x:classify", _BODY, {}, 400),
        ("POST", "/v1/models/mlp:explain", _BODY, {}, 400),
        ("POST", "/nowhere", _BODY, {}, 404),
        ("PUT", _CLASSIFY, _BODY, {}, 405),
        ("POST", "/livez", _BODY, {}, 405),
    ],
)  # fmt: skip
def test_bodies_over_http_are_freed(
    digit_contract: Contract,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    """Whichever way a request takes, and wherever it is refused."""
    with http_server.served_here(digit_contract) as here:

        def send() -> None:
            assert status == here.request(method, path, body, headers).status

        assert _held(send) < _MAX_HELD


def test_bodies_that_waited_too_long_are_freed(digit_contract: Contract) -> None:
    """A request that is refused in the queue leaves nothing behind."""
    picture = _picture()
    with http_server.served_here(
        digit_contract, threads=1, queue_timeout_s=0.1
    ) as here:

        def send() -> None:
            here.engine.free.clear()
            before = len(here.engine.threads)
            first, _ = here.in_background("POST", _CLASSIFY, picture)
            until(lambda: len(here.engine.threads) > before)
            second, answers = here.in_background("POST", _CLASSIFY, _BODY)
            second.join()
            here.engine.free.set()
            first.join()
            assert answers[0].status == 503

        assert _held(send) < _MAX_HELD


def test_bodies_of_clients_that_left_are_freed(digit_contract: Contract) -> None:
    """A client that leaves the queue, and one that leaves before its body is whole."""
    head = (
        f"POST {_CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(_BODY)}\r\n\r\n"
    )
    with http_server.served_here(digit_contract, threads=1) as here:
        here.engine.free.clear()
        first, _ = here.in_background("POST", _CLASSIFY, _picture())
        until(lambda: here.engine.threads)

        def send(body: bytes = _BODY) -> None:
            with socket.create_connection(("127.0.0.1", here.port), 10) as leaving:
                leaving.sendall(head.encode() + body)
                time.sleep(0.1)
            time.sleep(0.2)

        assert _held(send) < _MAX_HELD
        assert _held(lambda: send(_BODY[:-1])) < _MAX_HELD
        here.engine.free.set()
        first.join()


def _picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("images", [[_BODY], [b"x", _BODY], []])
def test_bodies_over_grpc_are_freed(
    digit_contract: Contract, images: list[bytes]
) -> None:
    """A unary call and a call of a stream."""
    asked = pb.ClassifyRequest(model="mlp", images=images)
    more = pb.ClassifyStreamRequest(id="a", request=asked)
    with grpc_server.served_here(digit_contract) as here, here.stub() as stub:

        def call() -> None:
            with pytest.raises(grpc.RpcError):
                stub.Classify(asked)

        def stream() -> None:
            [answer] = stub.ClassifyStream(iter([more]))
            assert answer.error.code

        assert _held(call) < _MAX_HELD
        assert _held(stream) < _MAX_HELD
