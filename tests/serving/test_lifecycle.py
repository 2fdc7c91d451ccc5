# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from tests.support.gateway_process import (
    STOPPED_BY_SIGNAL,
    Running,
    children_of,
    command_line_of,
    get_json,
    workers_of,
)
from tests.support.machine import free_port, memory_bytes, until, within

_CLASSIFY = "/v1/models/mlp:classify"


@pytest.fixture(scope="session")
def slow_body(sample: np.ndarray, encode: Callable[..., bytes]) -> bytes:
    """A body of 12 large pictures: the most that one request may ask for."""
    large = encode(np.kron(255 - sample, np.ones((20, 20), np.uint8)))
    image = {"b64": base64.b64encode(large).decode()}
    return json.dumps({"images": [image] * 12}).encode()


def test_ready_soon_after_the_start(serve: Callable[..., Running]) -> None:
    """The gateway is ready in 1.5 s on a machine of its own; here it may take 5 s."""
    seconds = sorted(serve().wait_ready() for _ in range(2))
    print("ready after", ", ".join(f"{s:.2f} s" for s in seconds))

    within(seconds[0], 5)


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_are_light(
    serve: Callable[..., Running], picture: bytes, workers: int
) -> None:
    """A gateway process holds no TensorFlow, and at most 120 MB after 100 requests."""
    gateway = serve("--workers", workers)
    gateway.wait_ready()
    until(lambda: workers == 1 or len(workers_of(gateway.process.pid)) == workers)
    for _ in range(100):
        assert _post(gateway.port, picture)[0] == 200

    pids = [gateway.process.pid, *workers_of(gateway.process.pid)]
    figures = [memory_bytes(pid) / 1e6 for pid in pids]
    print(f"{workers} workers, resident", ", ".join(f"{mb:.0f} MB" for mb in figures))
    for pid in pids:
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "/tensorflow/" not in maps
        assert "/keras/" not in maps
    assert max(figures) <= 120
    assert gateway.stop() == 0


def _post(port: int, body: bytes, timeout_s: float = 20) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("POST", _CLASSIFY, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_answers_leave_at_once(serve: Callable[..., Running], picture: bytes) -> None:
    """Over a kept connection no answer waits 40 ms for the client's acknowledgement.

    That is what Nagle's algorithm does to an answer that is written in two parts.
    """
    gateway = serve()
    gateway.wait_ready()
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    seconds = []
    for _ in range(100):
        started = time.perf_counter()
        connection.request("POST", _CLASSIFY, picture)
        assert connection.getresponse().read()
        seconds.append(time.perf_counter() - started)
    connection.close()
    median = sorted(seconds)[50]
    print(f"median of an answer: {median * 1e3:.1f} ms")

    within(median, 0.02)


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        (1, signal.SIGINT),
        (2, signal.SIGTERM),
        pytest.param(1, signal.SIGTERM, marks=pytest.mark.soak),
        pytest.param(2, signal.SIGINT, marks=pytest.mark.soak),
    ],
)
def test_signals_end_the_gateway_with_0(
    serve: Callable[..., Running], number: int, workers: int
) -> None:
    """S1: SIGTERM and SIGINT end the gateway and its workers; the exit code is 0."""
    gateway = serve("--workers", workers)
    gateway.wait_ready()
    workers_pids = workers_of(gateway.process.pid)
    started = time.monotonic()

    assert gateway.stop(number) == 0, gateway.log.read_text()
    took = time.monotonic() - started
    print(f"ended after {took:.2f} s")
    assert "Traceback" not in gateway.log.read_text()
    assert [""] * len(workers_pids) == [command_line_of(pid) for pid in workers_pids]
    within(took, 5)


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        (1, signal.SIGHUP),
        (1, signal.SIGUSR1),
        (1, signal.SIGPIPE),
        pytest.param(2, signal.SIGHUP, marks=pytest.mark.soak),
        pytest.param(2, signal.SIGUSR1, marks=pytest.mark.soak),
    ],
)
def test_other_signals_do_not_kill(
    serve: Callable[..., Running], workers: int, number: int
) -> None:
    """S5: a closed terminal or a stray signal does not end the gateway."""
    gateway = serve("--workers", workers)
    gateway.wait_ready()

    gateway.process.send_signal(number)

    with pytest.raises(subprocess.TimeoutExpired):
        gateway.process.wait(0.5)
    until(lambda: gateway.get("/readyz")[0] == 200)
    assert gateway.stop() == 0


def _opened(port: int, body: bytes, send: int) -> socket.socket:
    """Send the head of a request and the first bytes of its body."""
    head = (
        f"POST {_CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(head.encode() + body[:send])
    return connection


def test_idle_connections_do_not_delay_the_end(serve: Callable[..., Running]) -> None:
    """Connections that wait for nothing are closed at once."""
    gateway = serve()
    gateway.wait_ready()
    idle = [
        http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        for _ in range(10)
    ]
    for connection in idle:
        connection.request("GET", "/livez")
        connection.getresponse().read()
    started = time.monotonic()

    assert gateway.stop() == 0
    took = time.monotonic() - started
    for connection in idle:
        connection.close()
    within(took, 2)


def test_second_signal_ends_at_once(
    serve: Callable[..., Running], picture: bytes
) -> None:
    """S2: whoever asks twice does not wait for requests under way."""
    gateway = serve()
    gateway.wait_ready()
    with _opened(gateway.port, picture, 10):
        until(lambda: gateway.get("/livez")[0] == 200)
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: gateway.get("/livez")[0] == 0)
        again = time.monotonic()
        gateway.stop()
    within(time.monotonic() - again, 2)


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 4])
def test_signals_right_after_the_port_is_bound(
    serve: Callable[..., Running], delay_ms: int
) -> None:
    """S3: nor is a SIGTERM lost between binding the port and serving on it."""
    gateway = serve()
    assert gateway.port
    time.sleep(delay_ms / 1000)  # the moment is the test

    signalled = time.monotonic()
    assert gateway.stop() in STOPPED_BY_SIGNAL
    within(time.monotonic() - signalled, 5)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)]
)
def test_two_workers_serve_and_are_replaced(
    serve: Callable[..., Running], picture: bytes, number: int
) -> None:
    """`--workers 2` is two processes; one that ends is replaced, and requests go on."""
    gateway = serve("--workers", 2)
    gateway.wait_ready()
    until(lambda: len(workers_of(gateway.process.pid)) == 2)
    before = workers_of(gateway.process.pid)

    os.kill(before[0], number)
    answered = [_post(gateway.port, picture)[0] for _ in range(100)]
    took = until(
        lambda: (
            len(set(workers_of(gateway.process.pid)) - set(before)) == 1
            and len(workers_of(gateway.process.pid)) == 2
        )
    )

    # A connection that a killed process had accepted is lost with it; see below.
    assert [200] * len(answered) == answered or number == signal.SIGKILL
    print(f"replaced after {took:.2f} s")
    assert before[1] in workers_of(gateway.process.pid)
    for _ in range(50):
        assert _post(gateway.port, picture)[0] == 200
    assert gateway.stop() == 0


def test_workers_do_not_outlive_their_parent(serve: Callable[..., Running]) -> None:
    """S6: when the parent is killed, the port is free within 2 s."""
    gateway = serve("--workers", 2)
    gateway.wait_ready()
    until(lambda: len(workers_of(gateway.process.pid)) == 2)
    port, workers = gateway.port, workers_of(gateway.process.pid)
    gateway.process.kill()
    gateway.process.wait()
    try:
        took = until(lambda: not any(command_line_of(pid) for pid in workers))
    finally:
        for pid in filter(command_line_of, workers):
            os.kill(pid, signal.SIGKILL)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
    within(took, 2)


@pytest.mark.parametrize("flag", ["--http-port", "--grpc-port"])
@pytest.mark.parametrize("workers", [1, 2])
def test_taken_ports_are_named(
    serve: Callable[..., Running], flag: str, workers: int
) -> None:
    """A port that is taken is one clear line and exit code 1."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        gateway = serve(flag, port, "--workers", workers)
        code = gateway.process.wait(15)

    lines = gateway.log.read_text().splitlines()
    assert code == 1
    assert f"port {port}" in lines[-1]
    assert flag in lines[-1]
    assert "Traceback" not in gateway.log.read_text()


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--host", "192.0.2.1"], "192.0.2.1"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--http-port", "70000"], "70000"),
        (["--grpc-port", "-1"], "-1"),
    ],
)
def test_impossible_addresses_are_named(
    serve: Callable[..., Running], flags: list[str], word: str
) -> None:
    """An address that cannot be listened on is one clear line and exit code 1."""
    gateway = serve(*flags)

    assert gateway.process.wait(60) == 1
    assert "Traceback" not in gateway.log.read_text()
    assert word in gateway.log.read_text()


def test_two_gateways_at_once_do_not_share_a_port(
    serve: Callable[..., Running],
) -> None:
    """Of two that start at the same moment one serves, and the other says why not."""
    port = free_port()
    both = [serve("--http-port", port) for _ in range(2)]
    until(lambda: get_json(port, "/readyz")[0] == 200)
    until(lambda: any(one.process.poll() is not None for one in both))
    ended = [one for one in both if one.process.poll() is not None]
    serving = [one for one in both if one.process.poll() is None]

    assert [one.process.returncode for one in ended] == [1]
    assert f"port {port}" in ended[0].log.read_text().splitlines()[-1]
    assert "Traceback" not in ended[0].log.read_text()
    assert [one.stop() for one in serving] == [0]


@pytest.mark.parametrize("exists", [True, False])
def test_starting_without_models(
    serve: Callable[..., Running], tmp_path: Path, published: Path, exists: bool
) -> None:
    """Without a model the gateway lives, is not ready, and serves what comes later."""
    models_dir = tmp_path / "models"
    if exists:
        models_dir.mkdir()
    gateway = serve("--poll-s", 0.1, models_dir=models_dir)
    until(lambda: gateway.get("/livez")[0] == 200)

    status, answer = gateway.get("/readyz")
    assert (status, answer["error"]["code"]) == (503, "not_ready")
    assert "inkling train" in answer["error"]["message"]
    assert gateway.get("/v1/models") == (200, {"models": []})

    shutil.copytree(published, tmp_path / "copy")
    (tmp_path / "copy").rename(models_dir)
    until(lambda: gateway.get("/readyz")[0] == 200)
    assert gateway.stop() == 0


def test_restart_on_the_same_port(serve: Callable[..., Running]) -> None:
    """S4: after SIGKILL the gateway starts again on the same port at once."""
    port = free_port()
    for _ in range(2):
        gateway = serve("--http-port", port)
        gateway.wait_ready()
        assert get_json(port, "/livez")[0] == 200
        gateway.process.kill()
        gateway.process.wait()


@contextmanager
def _up(
    start: Callable[..., Running], published: Path
) -> Iterator[tuple[Running, int]]:
    """Run `inkling up` with all models there; yields it and its gateway's process."""
    port = free_port()
    flags = ["--http-port", port, "--grpc-port", free_port()]
    running = start("up", "--models-dir", published, *flags, start_new_session=True)
    gateway = 0
    try:
        until(lambda: "Serving mlp, cnn" in running.log.read_text())
        assert get_json(port, "/readyz")[0] == 200
        [gateway] = children_of(running.process.pid)
        yield running, gateway
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.soak),
        pytest.param(signal.SIGHUP, marks=pytest.mark.soak),
    ],
)
def test_up_takes_its_gateway_with_it(
    start: Callable[..., Running], published: Path, number: int
) -> None:
    """`inkling up` ends its gateway whatever signal ends it."""
    with _up(start, published) as (running, gateway):
        signalled = time.monotonic()
        running.stop(number)
        took = time.monotonic() - signalled
        left = until(lambda: not command_line_of(gateway))

        assert "Traceback" not in running.log.read_text()
    within(took, 15)
    within(left, 5)


def test_interrupting_up_in_a_terminal(
    start: Callable[..., Running], published: Path
) -> None:
    """Ctrl-C, which reaches both processes, ends `inkling up` without a traceback."""
    with _up(start, published) as (running, gateway):
        os.killpg(running.process.pid, signal.SIGINT)
        code = running.process.wait(15)

        assert code in (0, 130)
        assert command_line_of(gateway) == ""
        assert "Traceback" not in running.log.read_text()
