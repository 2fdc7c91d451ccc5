# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

import pytest

from inkling_serving.runtime.poller import Repeating

_LONG_S = 30.0


class Steps:
    """A function that the test lets end, call by call, and pauses that it lets pass."""

    def __init__(self, fail: bool = False) -> None:
        self.began = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.calls = 0
        self.pauses: list[int] = []
        self._fail = fail

    def __call__(self) -> None:
        self.calls += 1
        self.began.release()
        assert self.go_on.acquire(timeout=_LONG_S)
        if self._fail:
            raise ZeroDivisionError

    def pause_s(self) -> float:
        self.pauses.append(self.calls)
        return 0.0

    def step(self) -> None:
        """Let a call begin and end."""
        assert self.began.acquire(timeout=_LONG_S)
        self.go_on.release()


def _ended(steps: Steps, poller: Repeating) -> None:
    """Stop a poller whose function is let end."""
    steps.go_on.release(1000)
    poller.stop()


def test_it_calls_again_and_again() -> None:
    """Each call follows the last, and the pause is asked before each, the first too."""
    steps = Steps()
    poller = Repeating("steps", steps, steps.pause_s)
    for _ in range(3):
        steps.step()
    assert steps.began.acquire(timeout=_LONG_S)

    assert steps.pauses == [0, 1, 2, 3]
    _ended(steps, poller)


def test_it_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """An error is logged with the name of the poller, and the next call comes."""
    steps = Steps(fail=True)
    poller = Repeating("reading", steps, steps.pause_s)
    steps.step()
    steps.step()
    assert steps.began.acquire(timeout=_LONG_S)

    assert "reading failed" in caplog.records[0].getMessage()
    assert caplog.records[0].exc_info is not None
    _ended(steps, poller)


def test_it_stops_once_the_call_under_way_has_ended() -> None:
    """`stop` waits for the call, and no other follows."""
    steps = Steps()
    poller = Repeating("steps", steps, steps.pause_s)
    assert steps.began.acquire(timeout=_LONG_S)
    stopping = threading.Thread(target=poller.stop)
    stopping.start()
    stopping.join(0.05)

    assert stopping.is_alive()
    steps.go_on.release()
    stopping.join(_LONG_S)
    assert not stopping.is_alive()
    assert steps.calls == 1


def test_it_stops_in_the_middle_of_a_pause() -> None:
    """A long pause does not hold up the end."""
    steps = Steps()
    poller = Repeating("steps", steps, lambda: 3600.0)
    poller.stop()

    assert steps.calls == 0
