# SPDX-License-Identifier: Apache-2.0
"""Fixtures that start a command, or a stand-in for TensorFlow Serving."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.gateway_process import Running, children_of

if TYPE_CHECKING:
    from tests.support.official_server import OfficialServer


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start `inkling WORDS`; what still runs when the test ends is killed."""
    running: list[Running] = []

    def started(*words: object, **options: Any) -> Running:
        log = tmp_path / f"log-{len(running)}"
        command = [sys.executable, "-m", "inkling", *map(str, words)]
        with log.open("wb") as file:
            now = time.monotonic()
            process = subprocess.Popen(command, stdout=file, stderr=file, **options)
        running.append(Running(process, log, now))
        return running[-1]

    yield started
    for one in running:
        children = children_of(one.process.pid)
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def serve(start: Callable[..., Running], published: Path) -> Callable[..., Running]:
    """Start `inkling serve` over the trained models on free ports."""

    def started(*flags: object, models_dir: Path = published) -> Running:
        ports = ["--http-port", 0, "--grpc-port", 0]
        return start("serve", "--models-dir", models_dir, *ports, *flags)

    return started


@pytest.fixture(scope="module")
def _official(published: Path) -> Iterator[OfficialServer]:
    from tests.support.official_server import OfficialServer

    server = OfficialServer(published)
    yield server
    server.stop()


@pytest.fixture
def official(_official: OfficialServer) -> OfficialServer:
    """The official servicers around the published SavedModels, well-behaved so far."""
    _official.reset()
    return _official


@pytest.fixture
def start_official(published: Path) -> Iterator[Callable[..., OfficialServer]]:
    """Start such servers of one's own."""
    from tests.support.official_server import OfficialServer

    servers: list[OfficialServer] = []

    def start(models_dir: Path = published, **options: Any) -> OfficialServer:
        servers.append(OfficialServer(models_dir, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
