# SPDX-License-Identifier: Apache-2.0
"""The log: its form, and that nobody waits for its reader."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

import inkling
from inkling_serving.runtime.logs import Log
from tests.support.gateway_process import get_json, serving, workers_of
from tests.support.machine import free_port, listens, until, within


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        for end in (reader, writer):
            os.close(end)


def _record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("a.name", logging.INFO, "", 0, message, arguments, None)


def test_lines_have_a_time_zone() -> None:
    """The time is ISO 8601 with milliseconds and the offset from UTC."""
    with _pipe() as (reader, writer):
        log = Log(writer)
        log.handle(_record("number %d and ü\udc80", 3))
        log.end()
        line = os.read(reader, 65536).decode()

    time_of, level, name, rest = line.split(" ", 3)
    assert datetime.fromisoformat(time_of).tzinfo is not None
    assert re.search(r"\.\d{3}[+-]\d\d:\d\d$", time_of)
    assert ("INFO", "a.name:", "number 3 and ü\\udc80\n") == (level, name, rest)


def test_json_lines_hold_one_object_each() -> None:
    """Line ends, quotes and errors stay inside the object, which any reader can parse."""
    with _pipe() as (reader, writer):
        log = Log(writer, form="json")
        log.handle(_record('two\nlines, "quoted" and \udc80'))
        try:
            raise ValueError("of a test")
        except ValueError:
            failed = _record("failed")
            failed.exc_info = sys.exc_info()
            failed.fields = {"request_id": "r1"}
            log.handle(failed)
        log.end()
        lines = os.read(reader, 65536).decode().splitlines()

    first, second = (json.loads(line) for line in lines)
    assert first["message"] == 'two\nlines, "quoted" and \udc80'
    assert (first["level"], first["logger"]) == ("INFO", "a.name")
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    assert second["request_id"] == "r1"
    assert "ValueError: of a test" in second["exception"]


def test_a_full_pipe_drops_lines_and_says_how_many() -> None:
    """No call waits; once somebody reads, the lines that are left and their loss come."""
    with _pipe() as (reader, writer):
        log = Log(writer, capacity=10)
        began = time.monotonic()
        for number in range(3000):
            log.handle(_record("x" * 100 + " %d", number))
        took = time.monotonic() - began
        dropped = log.dropped
        text, said = "", 0
        give_up = time.monotonic() + 20
        while said < dropped and time.monotonic() < give_up:
            text += os.read(reader, 65536).decode()
            found = re.findall(r"(\d+) log lines were dropped", text)
            said = sum(map(int, found))
        log.end()

    assert dropped > 1000
    assert dropped == said
    within(took, 2)


@pytest.mark.parametrize("is_full", [True, False])
def test_the_end_waits_a_moment_only(is_full: bool) -> None:
    """A reader gets the last lines; without one the process ends all the same."""
    with _pipe() as (reader, writer):
        log = Log(writer)
        for _ in range(900 if is_full else 3):
            log.handle(_record("x" * 200))
        began = time.monotonic()
        log.end(0.5)
        took = time.monotonic() - began
        assert os.read(reader, 65536).count(b"\n") >= 3

    within(took, 1.5)


def test_a_closed_log_is_passed_over() -> None:
    """Where the reader has gone for ever, lines are counted as dropped."""
    reader, writer = os.pipe()
    os.close(reader)
    log = Log(writer)
    log.handle(_record("x"))
    log.end()
    os.close(writer)

    assert 1 == log.dropped


def test_a_line_that_cannot_be_formatted_is_named() -> None:
    """A bug in a log call neither raises nor writes to the standard error."""
    with _pipe() as (reader, writer):
        log = Log(writer)
        log.handle(_record("%d", "three"))
        log.end()
        assert b"a line of a.name cannot be formatted" in os.read(reader, 65536)


@contextmanager
def _gateway_without_reader(
    models: Path, *flags: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a gateway whose log nobody reads."""
    port = free_port()
    command = [sys.executable, "-m", "inkling", "serve", "--models-dir", str(models)]
    command += ["--http-port", str(port), "--grpc-port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr
    try:
        until(lambda: get_json(port, "/readyz")[0] == 200)
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stderr.close()


def _refused(port: int, count: int) -> None:
    """Send requests that the gateway refuses, and of which it logs a line each."""
    for _ in range(count):
        assert 404 == get_json(port, f"/v1/models/{'x' * 60}")[0]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_a_log_that_nobody_reads_stops_nothing(published: Path, workers: int) -> None:
    """After thousands of refusals probes, requests, metrics and SIGTERM work."""
    flags = ("--workers", str(workers))
    with _gateway_without_reader(published, *flags) as (process, port):
        threads = [
            threading.Thread(target=_refused, args=(port, 500)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if workers == 2:
            # The supervisor has lines to write, too.
            for pid in workers_of(process.pid):
                os.kill(pid, signal.SIGKILL)
            until(lambda: get_json(port, "/livez")[0] == 200)
        assert 200 == get_json(port, "/readyz")[0]
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = process.wait(30)
        took = time.monotonic() - began

    assert 0 == code
    assert not listens(port)
    within(took, 8)


def test_dropped_lines_are_a_metric(
    published: Path, metric: Callable[[int, str], float]
) -> None:
    """The number of lines that were dropped is in /metrics."""
    with _gateway_without_reader(published, "--workers", "1") as (_, port):
        assert 0 == metric(port, "inkling_log_lines_dropped_total")
        _refused(port, 2000)
        assert metric(port, "inkling_log_lines_dropped_total") > 100


@pytest.fixture
def metric() -> Callable[[int, str], float]:
    """Read one figure of /metrics."""
    from urllib.request import urlopen

    def read(port: int, name: str) -> float:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            text = response.read().decode()
        [figure] = re.findall(rf"^{name} (\S+)$", text, re.M)
        return float(figure)

    return read


def test_a_gateway_logs_json_and_requests(
    published: Path, picture: bytes, tmp_path: Path
) -> None:
    """Each line of a serving gateway parses, and each request has one with its figures."""
    flags = ["--log-format", "json", "--access-log", "1", "--workers", "2"]
    with serving(published, *flags, log=tmp_path / "log") as gateway:
        for body in (picture, b"no picture"):
            head = {"X-Request-Id": f"id-{len(body)}"}
            gateway.request("POST", "/v1/models/mlp:classify", body, head)
        with inkling.connect(gateway.grpc_target, model="mlp") as classifier:
            classifier.classify(picture)
        gateway.request("GET", "/readyz")

    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    access = [line for line in lines if line["logger"] == "inkling_serving.access"]
    seen = [(line["protocol"], line["code"], line["model"]) for line in access]
    assert seen.count(("http", "ok", "mlp")) == 1
    assert ("grpc", "ok", "mlp") in seen
    assert [line["request_id"] for line in access if line["code"] != "ok"] == ["id-10"]
    [answered] = [line for line in access if line["request_id"] == f"id-{len(picture)}"]
    assert (answered["version"], answered["images"]) == (1, 1)
    assert 0 < sum(answered["phases_ms"].values()) <= answered["duration_ms"]
    assert any(
        line.get("request_id") == "id-10" for line in lines if line not in access
    )
