# SPDX-License-Identifier: Apache-2.0
"""Processes of the command `inkling`: a gateway that serves, one to kill, any command."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.machine import until

_START_TIMEOUT_S = 30
# The exit codes of a command that a signal ended, early or in order.
STOPPED_BY_SIGNAL = (0, -signal.SIGTERM, -signal.SIGINT, 130)


@dataclass(frozen=True)
class Answer:
    """A complete HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class GatewayProcess:
    """A running `inkling serve`."""

    process: subprocess.Popen[str]
    port: int
    grpc_port: int

    @property
    def grpc_target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()


@contextmanager
def serving(models_dir: Path, *flags: str, log: Path) -> Iterator[GatewayProcess]:
    """Run a gateway on a free port until the block ends; it must exit with 0."""
    command = [sys.executable, "-m", "inkling", "serve", "--http-port", "0"]
    command += ["--grpc-port", "0"]
    if "--workers" not in flags:
        command += ["--workers", "1"]
    command += ["--models-dir", str(models_dir), *flags]
    with log.open("w") as output:
        process = subprocess.Popen(command, stderr=output, text=True)
    try:
        port = _port(process, log)
        grpc = re.search(r"listening on grpcs?://[^:]+:(\d+)", log.read_text())
        assert grpc, log.read_text()
        yield GatewayProcess(process, port, int(grpc.group(1)))
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(_START_TIMEOUT_S)
    assert code == 0, log.read_text()


def _port(process: subprocess.Popen[str], log: Path) -> int:
    give_up = time.monotonic() + _START_TIMEOUT_S
    port = None
    while time.monotonic() < give_up and process.poll() is None:
        match = re.search(r"listening on https?://[^:]+:(\d+)/", log.read_text())
        if match:
            port = int(match.group(1))
            break
        time.sleep(0.02)
    assert port, log.read_text()
    while time.monotonic() < give_up:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", "/livez")
            connection.getresponse()
            return port
        except http.client.BadStatusLine:
            return port  # it wants TLS
        except OSError:
            time.sleep(0.02)
        finally:
            connection.close()
    raise AssertionError(log.read_text())


@dataclass
class Killable:
    """An `inkling serve` on ports that stay its own, to be killed and started again."""

    models_dir: Path
    log: Path
    port: int
    grpc_port: int
    flags: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def start(self) -> Killable:
        """Start without waiting."""
        command = [sys.executable, "-m", "inkling", "serve", *self.flags]
        if "--workers" not in self.flags:
            command += ["--workers", "1"]
        command += ["--models-dir", str(self.models_dir)]
        command += ["--http-port", str(self.port), "--grpc-port", str(self.grpc_port)]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, stderr=output)
        return self

    def get(self, path: str) -> tuple[int, Any]:
        """GET over a connection of its own; status 0 where nobody answers."""
        return self.request("GET", path)

    def request(
        self, method: str, path: str, body: bytes | None = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()

    def wait_ready(self) -> Killable:
        until(lambda: self.get("/readyz")[0] == 200)
        return self

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(40)


@dataclass
class Running:
    """A process of the command `inkling`, with its log."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float

    @property
    def port(self) -> int:
        """The port for HTTP, once the log says it."""
        until(lambda: self._listening() or self.process.poll() is not None)
        listening = self._listening()
        assert listening, self.log.read_text()
        return int(listening.group(1))

    def _listening(self) -> re.Match[str] | None:
        return re.search(r"listening on http://[^ ]+:(\d+)/", self.log.read_text())

    def get(self, path: str) -> tuple[int, Any]:
        """GET over a connection of its own; status 0 where nobody answers."""
        return get_json(self.port, path)

    def wait_ready(self) -> float:
        """Wait for /readyz; return the seconds since the process was started."""
        until(lambda: self.get("/readyz")[0] == 200 or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        return time.monotonic() - self.started

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


def get_json(port: int, path: str) -> tuple[int, Any]:
    """GET over a connection of its own; status 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()


def children_of(pid: int) -> list[int]:
    """Return the ids of the processes that a process started."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def workers_of(pid: int) -> list[int]:
    """Return the ids of a gateway's workers, without Python's own resource tracker."""
    return [
        child for child in children_of(pid) if "spawn_main" in command_line_of(child)
    ]


def command_line_of(pid: int) -> str:
    """Return the command line of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
