# SPDX-License-Identifier: Apache-2.0
"""A volume that does not answer: its version has a reason, and nothing else waits.

A lease makes the system hold back whoever opens a file, as a dead mount does.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inkling.model.repository import MANIFEST_FILE, Repository
from inkling_serving.engines.base import State, VersionStatus
from inkling_serving.engines.embedded import EmbeddedEngine
from tests.support.gateway_process import serving
from tests.support.machine import until, within

_TFLITE = "tflite/float32.tflite"


@pytest.fixture
def hang() -> Iterator[Callable[[Path], Callable[[], None]]]:
    """Make the opening of a file wait; what is returned lets it go on."""
    held: list[int] = []
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)

    def hanging(path: Path) -> Callable[[], None]:
        held.append(os.open(path, os.O_RDWR))
        try:
            fcntl.fcntl(held[-1], fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            pytest.skip("this file system has no leases")
        return lambda: os.close(held.pop())

    yield hanging
    for descriptor in held:
        os.close(descriptor)
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def three(published: Path, tmp_path: Path) -> Path:
    """A repository with a model `m` in three versions, and a model `n`."""
    root = tmp_path / "models"
    for name in ("m/1", "m/2", "m/3", "n/1"):
        shutil.copytree(published / "mlp" / "1", root / name)
    return root


@pytest.fixture
def start() -> Iterator[Callable[[Path], EmbeddedEngine]]:
    """Start an engine, and close it at the end."""
    engines: list[EmbeddedEngine] = []

    def started(root: Path) -> EmbeddedEngine:
        engines.append(EmbeddedEngine(Repository(root), "float32", 0.05))
        return engines[-1]

    yield started
    for engine in engines:
        engine.close()


def _versions(engine: EmbeddedEngine, model: str = "m") -> dict[int, VersionStatus]:
    [found] = [one for one in engine.status() if one.name == model]
    return {one.version: one for one in found.versions}


@pytest.mark.parametrize("name", [_TFLITE, MANIFEST_FILE])
def test_one_version_that_hangs_stops_no_other(
    three: Path, start: Any, hang: Any, name: str
) -> None:
    """The others are served; the version has a reason, and joins once it is read."""
    let_go = hang(three / "m" / "3" / name)
    began = time.monotonic()

    engine = start(three)
    took = time.monotonic() - began

    until(lambda: {1, 2, 3} == set(_versions(engine)))
    found = _versions(engine)
    assert [State.AVAILABLE] * 2 == [found[version].state for version in (1, 2)]
    assert State.FAILED == found[3].state
    assert "does not answer" in str(found[3].reason)
    until(lambda: any(one.ready for one in engine.status() if one.name == "n"))
    let_go()
    until(lambda: _versions(engine)[3].state == State.AVAILABLE)
    assert _versions(engine)[3].reason is None
    within(took, 12)


def test_a_loaded_version_answers_while_its_volume_hangs(
    three: Path, start: Any, hang: Any
) -> None:
    """What is in memory needs no file; new versions are found meanwhile."""
    engine = start(three)
    let_go = hang(three / "m" / "3" / MANIFEST_FILE)
    until(lambda: _versions(engine)[3].reason)

    shutil.copytree(three / "m" / "2", three / "m" / "4")

    until(lambda: engine.select("m").version == 4)
    assert 3 == engine.select("m", 3).version
    let_go()
    until(lambda: _versions(engine)[3].reason is None)


def test_a_label_moves_once_its_version_is_read(
    three: Path, start: Any, hang: Any
) -> None:
    """While the new version of a label is being read, the old one answers for it."""
    labels = three / "m" / "labels.json"
    labels.write_text('{"stable": 1}')
    engine = start(three)
    shutil.copytree(three / "m" / "2", three / "m" / ".4")
    let_go = hang(three / "m" / ".4" / _TFLITE)
    (three / "m" / ".4").rename(three / "m" / "4")
    labels.write_text('{"stable": 4}')
    until(lambda: 4 in _versions(engine))

    for _ in range(20):
        assert 1 == engine.select("m", version_label="stable").version
        time.sleep(0.05)
    let_go()
    until(lambda: engine.select("m", version_label="stable").version == 4)


def test_an_engine_ends_while_a_volume_hangs(three: Path, hang: Any) -> None:
    """Closing does not wait for a read that never returns, and starts none anew."""
    hang(three / "m" / "3" / _TFLITE)
    engine = EmbeddedEngine(Repository(three), "float32", 0.05)
    time.sleep(0.5)
    names = [thread.name for thread in threading.enumerate()]
    began = time.monotonic()

    engine.close()

    took = time.monotonic() - began
    assert names.count("reading m version 3") == 1
    assert "reading the repository" not in [t.name for t in threading.enumerate()]
    within(took, 3)


def test_a_gateway_starts_and_ends_while_a_volume_hangs(
    three: Path, hang: Any, tmp_path: Path
) -> None:
    """A gateway over such a repository is ready, and SIGTERM ends it."""
    hang(three / "m" / "3" / _TFLITE)

    with serving(three, log=tmp_path / "log") as gateway:
        models = gateway.request("GET", "/v1/models/m").json
        began = time.monotonic()

    within(time.monotonic() - began, 12)
    assert "FAILED" in str(models)
