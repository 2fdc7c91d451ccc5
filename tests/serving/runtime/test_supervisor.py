# SPDX-License-Identifier: Apache-2.0
"""The supervisor: it keeps its workers, gives up where it must, and ends in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from tests.support.machine import listens, until, within

_ROOT = Path(__file__).parent.parent.parent.parent


class Supervised:
    """A supervisor process, and the files that its workers leave."""

    def __init__(
        self, folder: Path, log: IO[bytes], how: str, workers: int, drain_s: float
    ) -> None:
        self.folder = folder
        words = [str(folder), how, str(workers), str(drain_s)]
        command = [sys.executable, "-m", "tests.serving.runtime.supervised", *words]
        self.process = subprocess.Popen(command, cwd=_ROOT, stderr=log)

    def pids(self, state: str) -> set[int]:
        """Return the workers that have come so far: `began`, `serves`, `ended-True`."""
        return {int(path.stem) for path in self.folder.glob(f"*.{state}")}

    def serving(self, count: int) -> set[int]:
        """Wait until so many workers have served, and return them."""
        until(lambda: len(self.pids("serves")) >= count)
        return self.pids("serves")

    def send(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, float]:
        """Wait for the end; return the exit code and the seconds."""
        started = time.monotonic()
        return self.process.wait(30), time.monotonic() - started


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    """Start supervisors; nothing of theirs outlives the test."""
    made: list[Supervised] = []

    def start(how: str = "well", workers: int = 2, drain_s: float = 10) -> Supervised:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        with (tmp_path / "log").open("ab") as log:
            made.append(Supervised(folder, log, how, workers, drain_s))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        for pid in one.pids("began"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_dies_is_replaced(supervise: Callable[..., Supervised]) -> None:
    """However it dies; the other goes on, and all end well together.

    SIGHUP and SIGUSR1 change nothing.
    """
    here = supervise()
    first, second = here.serving(2)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        here.send(number)
    os.kill(first, signal.SIGKILL)
    took = until(lambda: len(here.pids("serves")) == 3)
    [third] = here.pids("serves") - {first, second}
    os.kill(third, signal.SIGTERM)  # one that ends well is replaced, too
    until(lambda: len(here.pids("serves")) == 4)
    here.send()
    code, _ = here.end()

    assert 0 == code
    assert not _is_there(second)
    # Who was ended alone was not told that all end.
    assert {third} == here.pids("ended-False")
    assert 2 == len(here.pids("ended-True"))
    within(took, 5)


def test_a_worker_that_fails_is_started_again(
    supervise: Callable[..., Supervised],
) -> None:
    """Any exit code but the one that means that it cannot start."""
    here = supervise("ends at once", workers=1)
    here.serving(1)
    here.send()

    assert 0 == here.end()[0]
    assert 3 == len(here.pids("began"))


def test_workers_that_end_again_and_again_are_started_ever_later(
    supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    """The pause doubles, the log says so, and SIGTERM does not wait for it."""
    here = supervise("ends always", workers=1)
    until(lambda: "replaces it in 4 s" in (tmp_path / "log").read_text())
    said = (tmp_path / "log").read_text()
    here.send()
    code, took = here.end()

    assert 0 == code
    assert 4 == len(here.pids("began"))
    shown = [
        said.index(f"replaces it in {pause} s") for pause in ("0.5", "1", "2", "4")
    ]
    assert sorted(shown) == shown
    assert "a worker ended with exit code 7 after" in said
    within(took, 3)


def test_workers_that_cannot_start_end_the_gateway(
    supervise: Callable[..., Supervised],
) -> None:
    """With exit code 1, and without trying again and again."""
    here = supervise("cannot start")
    code, took = here.end()

    assert 1 == code
    assert len(here.pids("began")) <= 2
    within(took, 15)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)]
)
def test_a_second_signal_is_passed_on(
    supervise: Callable[..., Supervised], number: int
) -> None:
    """Workers that are busy are told once, and at the second signal once more."""
    here = supervise("busy", workers=1, drain_s=60)
    here.serving(1)
    here.send(number)
    time.sleep(0.5)
    assert here.process.poll() is None
    here.send(number)
    code, took = here.end()

    assert 0 == code
    assert 1 == len(here.pids("ended-True"))
    within(took, 5)


@pytest.mark.soak
def test_a_worker_that_does_not_end_is_killed(
    supervise: Callable[..., Supervised],
) -> None:
    """After the drain time and a little more; the exit code says that it was."""
    here = supervise("deaf", workers=1, drain_s=0)
    here.serving(1)
    here.send()
    code, took = here.end()

    assert 1 == code
    within(took, 10)


def test_workers_do_not_outlive_their_supervisor(
    supervise: Callable[..., Supervised],
) -> None:
    """When it is killed, they end by themselves, and the port is free."""
    here = supervise(workers=1)
    pids = here.serving(1)
    port = int((here.folder / "port").read_text())
    assert listens(port)
    here.send(signal.SIGKILL)
    here.end()
    took = until(lambda: not any(map(_is_there, pids)) and not listens(port))

    assert pids == here.pids("ended-True")
    within(took, 4)


def test_a_signal_during_the_start_ends_it(
    supervise: Callable[..., Supervised],
) -> None:
    """At whatever moment it comes, no process stays behind."""
    for delay_s in (0.0, 0.3):
        here = supervise()
        until((here.folder / "port").exists)
        time.sleep(delay_s)
        here.send()
        code, _ = here.end()
        assert code in (0, -signal.SIGTERM)
        assert not any(map(_is_there, here.pids("began")))
