# SPDX-License-Identifier: Apache-2.0
"""Two gateways behind a real HAProxy and a real nginx, with the configurations shipped."""

from __future__ import annotations

import http.client
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.callers import Callers, calling
from tests.support.gateway_process import Killable
from tests.support.machine import free_port, listens, until

ROOT = Path(__file__).parent.parent.parent
_HAPROXY, _NGINX = "haproxy", "nginx"
_BALANCERS = (_HAPROXY, _NGINX)
_DRAIN = ("--drain-delay-s", "5")

Gateways = tuple[Killable, Killable]


@dataclass
class Balancer:
    """A load balancer in front of two gateways.

    Attributes:
        name: Which program it is.
        http: Its address for HTTP.
        grpc: Its target for gRPC.
    """

    name: str
    http: tuple[str, int]
    grpc: str
    log: Path

    def status(self, path: str = "/livez") -> int:
        connection = http.client.HTTPConnection(*self.http, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


def _configuration(name: str, gateways: Gateways, ports: tuple[int, int]) -> str:
    """Return the file that is shipped, with this machine's addresses in it."""
    suffix = {"haproxy": "cfg", "nginx": "conf"}[name]
    text = (ROOT / "deploy" / name / f"{name}.{suffix}").read_text()
    changes = {}
    for number, gateway in enumerate(gateways, 1):
        changes[f"gateway-{number}:8080"] = f"127.0.0.1:{gateway.port}"
        changes[f"gateway-{number}:8081"] = f"127.0.0.1:{gateway.grpc_port}"
        if name == _HAPROXY:
            at_grpc = f"127.0.0.1:{gateway.grpc_port} proto h2 check-proto h1 port "
            changes[at_grpc + "8080"] = f"{at_grpc}{gateway.port}"
    for before, after in zip((8000, 8001), ports, strict=True):
        verb, host = ("bind ", "127.0.0.1") if name == _HAPROXY else ("listen ", "")
        old = f"{verb}:{before}" if name == _HAPROXY else f"{verb}{before}"
        changes[old] = f"{verb}{host or '127.0.0.1'}:{after}"
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def _command(name: str, file: Path) -> list[str]:
    if name == _HAPROXY:
        return ["haproxy", "-W", "-f", str(file)]
    place = file.parent
    # Where a distribution would put its files; this one runs without root's folders.
    own = f"daemon off; pid {place}/pid; error_log {place}/errors;"
    return ["nginx", "-p", str(place), "-c", str(file), "-g", own]


@contextmanager
def _balancing(name: str, gateways: Gateways, place: Path) -> Iterator[Balancer]:
    """Run a load balancer until the block ends; skip where it is not installed."""
    if not (shutil.which(name) or Path("/usr/sbin", name).exists()):
        pytest.skip(
            f"{name} is not installed; NOTHING was checked behind it. On Debian: "
            f"apt-get install --no-remove --no-install-recommends {name}"
        )
    ports = free_port(), free_port()
    place.mkdir()
    text = _configuration(name, gateways, ports)
    if name == _NGINX:
        folders = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        own = "".join(f"{each}_temp_path {place}/{each};\n" for each in folders)
        text = text.replace("http {\n", f"http {{\n{own}", 1)
    file, log = place / "configuration", place / "log"
    file.write_text(text)
    with log.open("w") as output:
        process = subprocess.Popen(
            _command(name, file), stdout=output, stderr=output, cwd=place
        )
    found = Balancer(name, ("127.0.0.1", ports[0]), f"127.0.0.1:{ports[1]}", log)
    try:
        until(lambda: process.poll() is not None or all(map(listens, ports)))
        assert process.poll() is None, log.read_text()
        until(lambda: found.status("/readyz") == 200)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _two(killable: Callable[..., Killable], *flags: str) -> Gateways:
    first, second = (killable(*_DRAIN, *flags).start() for _ in range(2))
    return first.wait_ready(), second.wait_ready()


def _restart(gateway: Killable) -> None:
    """Restart a gateway in order, as an update does."""
    assert 0 == gateway.end(signal.SIGTERM)
    gateway.start().wait_ready()


def _callers(balancer: Balancer, picture: bytes) -> Callers:
    """Return callers; nginx asks no readiness, so over gRPC the callers try again.

    A server of gRPC that ends answers CANCELLED to calls that cross its GOAWAY.
    """
    retries = balancer.name == _NGINX
    return Callers(balancer.http, balancer.grpc, picture, retries=retries)


def _counts(callers: Callers) -> Counter[str]:
    return sum(callers.outcomes().values(), Counter())


@pytest.mark.parametrize("name", _BALANCERS)
def test_a_restart_is_not_noticed(
    name: str, killable: Callable[..., Killable], tmp_path: Path, picture: bytes
) -> None:
    """While one of two gateways is updated, every request over both ports is answered."""
    gateways = _two(killable)
    with _balancing(name, gateways, tmp_path / name) as balancer:
        callers = _callers(balancer, picture)
        with calling(callers, of_each=1):
            until(lambda: len(callers.noted) > 50)
            _restart(gateways[0])
            asked = len(callers.noted)
            until(lambda: len(callers.noted) > asked + 50)

    for protocol, outcomes in callers.outcomes().items():
        assert {"3"} == set(outcomes), (protocol, outcomes, balancer.log.read_text())


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", _BALANCERS)
def test_rolling_restarts_lose_nothing(
    name: str, killable: Callable[..., Killable], tmp_path: Path, picture: bytes
) -> None:
    """0 of 20,000 requests are lost while two gateways are restarted in turn."""
    gateways = _two(killable, "--grpc-max-connection-age-s", "3")
    restarts = 0
    began = time.monotonic()
    with _balancing(name, gateways, tmp_path / name) as balancer:
        callers = _callers(balancer, picture)
        with calling(callers, of_each=3):
            until(lambda: len(callers.noted) > 200)
            while restarts < 4 or len(callers.noted) < 20_000:
                _restart(gateways[restarts % 2])
                restarts += 1
                # Until the load balancer has noticed that it is back.
                asked = len(callers.noted)
                until(lambda before=asked: len(callers.noted) > before + 500)
                time.sleep(2)
    took = time.monotonic() - began
    print(f"{name}: {restarts} restarts, {callers.outcomes()} in {took:.0f} s")

    assert _counts(callers)["3"] >= 20_000
    for protocol, outcomes in callers.outcomes().items():
        assert {"3"} == set(outcomes), (protocol, outcomes, balancer.log.read_text())


@pytest.mark.soak
@pytest.mark.parametrize("name", _BALANCERS)
def test_a_killed_gateway_costs_no_answer(
    name: str, killable: Callable[..., Killable], tmp_path: Path, picture: bytes
) -> None:
    """Requests that a dying gateway had go to the other one; over gRPC the caller may see it."""
    gateways = _two(killable)
    with _balancing(name, gateways, tmp_path / name) as balancer:
        callers = Callers(balancer.http, balancer.grpc, picture)
        with calling(callers):
            until(lambda: len(callers.noted) > 200)
            gateways[0].end(signal.SIGKILL)
            gateways[0].start().wait_ready()
            asked = len(callers.noted)
            until(lambda: len(callers.noted) > asked + 200)
    found = callers.outcomes()
    print(f"{name}: killed once, {found}")

    assert set(found["http"]) <= {"3"}
    # A call whose answer had begun cannot be sent again by any load balancer.
    assert set(found["grpc"]) <= {"3", "UNAVAILABLE", "CANCELLED"}
    assert sum(found["grpc"].values()) - found["grpc"]["3"] <= 4


@pytest.mark.soak
@pytest.mark.parametrize("name", _BALANCERS)
def test_an_idle_minute_breaks_nothing(
    name: str, killable: Callable[..., Killable], tmp_path: Path, picture: bytes
) -> None:
    """After 60 s without a request, kept connections on both sides still answer."""
    gateways = _two(killable)
    with _balancing(name, gateways, tmp_path / name) as balancer:
        kept = http.client.HTTPConnection(*balancer.http, timeout=10)
        answers = []
        for pause_s in (0, 60, 62):
            time.sleep(pause_s)
            kept.request("POST", "/v1/models/mlp:classify", picture)
            answers.append(kept.getresponse().read() and 200)
            callers = Callers(balancer.http, balancer.grpc, picture)
            with calling(callers, of_each=4):
                until(lambda made=callers: len(made.noted) > 200)
            for outcomes in callers.outcomes().values():
                assert {"3"} == set(outcomes)
        kept.close()

    assert [200] * 3 == answers
