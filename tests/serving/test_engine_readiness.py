# SPDX-License-Identifier: Apache-2.0
"""The readiness of a gateway with several processes, whose engine goes and comes back."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.support.callers import Callers, calling, watching
from tests.support.gateway_process import Killable, workers_of
from tests.support.machine import until


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_readiness_changes_once_each_way(
    how: int, killable: Callable[..., Killable], picture: bytes
) -> None:
    """No probe hears "ready" from one process after another one has said the opposite."""
    # A gateway stands in for TensorFlow Serving, whose protocol it speaks.
    engine = killable().start()
    until(lambda: engine.get("/readyz")[0] == 200, 120)
    flags = ("--engine", "tensorflow_serving", "--tensorflow-serving", engine.target)
    gateway = killable(*flags, "--workers", "2").start()
    until(lambda: gateway.get("/readyz")[0] == 200, 120)
    assert gateway.process
    pid = gateway.process.pid
    until(lambda: gateway.log.read_text().count("startup complete") == 2, 60)
    http = ("127.0.0.1", gateway.port)
    callers = Callers(http, gateway.target, picture)
    with calling(callers, of_each=1), watching(http) as readiness:
        until(lambda: len(callers.noted) > 20)
        engine.send(how)
        until(lambda: 503 in readiness.statuses)
        seen = len(callers.noted)
        until(lambda: len(callers.noted) > seen + 20, 120)
        if how == signal.SIGKILL:
            engine.end()
            engine.start()
        else:
            engine.send(signal.SIGCONT)
        until(lambda: readiness.statuses[-1] == 200, 120)
        seen = len(callers.noted)
        until(lambda: len(callers.noted) > seen + 200, 60)
    assert len(workers_of(pid)) == 2

    assert [200, 503, 200] == readiness.statuses
    for outcomes in callers.outcomes().values():
        assert set(outcomes) <= {"3", "503", "504", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
