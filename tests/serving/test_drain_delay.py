# SPDX-License-Identifier: Apache-2.0
"""The time after SIGTERM in which a gateway is not ready and serves all the same."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.gateway_process import Killable, workers_of
from tests.support.machine import until, within

_DELAY_S = 4.0
_FLAGS = ("--drain-delay-s", str(_DELAY_S))
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _health(gateway: Killable) -> Any:
    with grpc.insecure_channel(gateway.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            return stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status
        except grpc.RpcError as error:
            return error.code()


def _note_refusal(gateway: Killable, refusals: list[str]) -> bool:
    """Ask once and keep why: the next answer may come from a worker still ready."""
    status, answer = gateway.get("/readyz")
    if status == 503:
        refusals.append(answer["error"]["message"])
    return status == 503


@pytest.mark.parametrize("workers", ["1", "2"])
def test_readiness_falls_before_the_ports_close(
    workers: str, killable: Callable[..., Killable], picture: bytes
) -> None:
    """For the whole delay every request is served, new connections and kept ones."""
    gateway = killable(*_FLAGS, "--workers", workers).start().wait_ready()
    assert gateway.process
    until(lambda: workers == "1" or len(workers_of(gateway.process.pid)) == 2)
    kept = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    kept.request("GET", "/livez")
    kept.getresponse().read()
    gateway.send(signal.SIGTERM)
    began = time.monotonic()
    refusals: list[str] = []
    fell = until(lambda: _note_refusal(gateway, refusals))
    grpc_fell = until(lambda: _health(gateway) == _NOT_SERVING)
    statuses = []
    while time.monotonic() < began + _DELAY_S - 1:
        path = "/v1/models/mlp:classify"
        statuses.append(gateway.request("POST", path, picture)[0])
        kept.request("POST", path, picture)
        statuses.append(kept.getresponse().read() and 200)
        statuses.append(gateway.get("/livez")[0])
        time.sleep(0.05)
    kept.close()
    code = gateway.process.wait(30)
    took = time.monotonic() - began

    assert {200} == set(statuses)
    assert "another gateway" in refusals[0]
    assert 0 == code
    assert took >= _DELAY_S
    within(max(fell, grpc_fell), 1.5)
    within(took, _DELAY_S + 6)


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.soak), "2"])
def test_a_second_signal_ends_the_delay(
    workers: str, killable: Callable[..., Killable]
) -> None:
    """Whoever asks twice does not wait for load balancers."""
    flags = ("--drain-delay-s", "60", "--workers", workers)
    gateway = killable(*flags).start().wait_ready()
    gateway.send(signal.SIGTERM)
    until(lambda: gateway.get("/readyz")[0] == 503)
    time.sleep(0.6)  # sooner, it would be one signal to all processes
    began = time.monotonic()

    assert 0 == gateway.end(signal.SIGTERM)
    within(time.monotonic() - began, 8)


def test_a_signal_to_all_processes_is_one(killable: Callable[..., Killable]) -> None:
    """Systemd signals workers and supervisor at once; the delay is not cut short."""
    gateway = killable(*_FLAGS, "--workers", "2").start().wait_ready()
    assert gateway.process
    pid = gateway.process.pid
    until(lambda: gateway.log.read_text().count("startup complete") == 2)
    began = time.monotonic()
    for each in [*workers_of(pid), pid]:
        os.kill(each, signal.SIGTERM)
    until(lambda: gateway.get("/readyz")[0] == 503)

    assert 0 == gateway.process.wait(30)
    assert time.monotonic() - began >= _DELAY_S


def test_health_watchers_are_told_and_stay(killable: Callable[..., Killable]) -> None:
    """A watch hears NOT_SERVING at the signal, and ends with the process."""
    gateway = killable(*_FLAGS).start().wait_ready()
    with grpc.insecure_channel(gateway.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        began = time.monotonic()
        gateway.send(signal.SIGTERM)
        told = next(watch).status
        took = time.monotonic() - began
        rest = list(_until_end(watch))
        ended = time.monotonic() - began
    assert gateway.process
    assert 0 == gateway.process.wait(30)

    assert _NOT_SERVING == told
    assert set(rest) <= {_NOT_SERVING}
    assert ended >= _DELAY_S - 0.5
    within(took, 1.5)


def _until_end(watch: Any) -> Any:
    try:
        for response in watch:
            yield response.status
    except grpc.RpcError:
        return


def test_kept_connections_outlive_a_load_balancers_idle_time(
    killable: Callable[..., Killable],
) -> None:
    """A connection that has been idle for 7 s, longer than uvicorn's 5, is answered."""
    gateway = killable().start().wait_ready()
    kept = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    for pause_s in (0.0, 7.0):
        time.sleep(pause_s)
        kept.request("GET", "/livez")
        answer = kept.getresponse()
        assert (200, True) == (answer.status, bool(answer.read()))
    kept.close()


def test_the_idle_time_is_a_setting(killable: Callable[..., Killable]) -> None:
    """`--keep-alive-s` ends an idle connection after its time, and not before."""
    gateway = killable("--keep-alive-s", "2").start().wait_ready()
    with socket.create_connection(("127.0.0.1", gateway.port), 20) as kept:
        kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += kept.recv(65536)
        began = time.monotonic()
        assert b"" == kept.recv(65536)
    took = time.monotonic() - began

    assert took > 1.5
    within(took, 5)
