# SPDX-License-Identifier: Apache-2.0
"""A file of API keys that is replaced while the gateway serves."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import inkling
from inkling.errors import Unauthenticated
from inkling_serving.keys import ApiKeys
from tests.support.gateway_process import Killable, workers_of
from tests.support.machine import until, within

_OLD, _NEW = "the-old-key-of-some-length", "the-new-key-of-some-length"
# All processes look at the file once a second.
_SOON_S = 3.0


def _replaced(path: Path, text: str) -> None:
    """Replace a file by one rename, as deployments do."""
    made = path.with_suffix(".new")
    made.write_text(text)
    made.rename(path)


def _accepted(gateway: Killable, key: str) -> set[bool]:
    """Ask 20 times over HTTP and over gRPC, each time on a new connection."""
    found = set()
    for number in range(20):
        http = f"http://127.0.0.1:{gateway.port}"
        target = gateway.target if number % 2 else http
        with inkling.connect(target, model="mlp", api_key=key) as one:
            try:
                one.contract()
                found.add(True)
            except Unauthenticated:
                found.add(False)
    return found


def test_all_workers_take_the_new_keys(
    killable: Callable[..., Killable], tmp_path: Path
) -> None:
    """No worker goes on to take the old key, and none refuses the new one."""
    keys = tmp_path / "keys"
    keys.write_text(f"{_OLD}\n")
    flags = ("--workers", "2", "--api-key-file", str(keys))
    gateway = killable(*flags).start().wait_ready()
    assert gateway.process
    until(lambda: len(workers_of(gateway.process.pid)) == 2)
    until(lambda: _accepted(gateway, _OLD) == {True})

    _replaced(keys, f"{_NEW}\n")
    took = until(lambda: _accepted(gateway, _NEW) == {True})

    assert {False} == _accepted(gateway, _OLD)
    assert 0 == gateway.end(signal.SIGTERM)
    within(took, _SOON_S + 2)


def test_a_bad_file_keeps_the_keys_of_old_and_new_workers(
    killable: Callable[..., Killable], tmp_path: Path
) -> None:
    """Emptied after a change: a worker that is replaced takes the keys of the others."""
    keys = tmp_path / "keys"
    keys.write_text(f"{_OLD}\n")
    flags = ("--workers", "2", "--api-key-file", str(keys))
    gateway = killable(*flags).start().wait_ready()
    assert gateway.process
    pid = gateway.process.pid
    until(lambda: len(workers_of(pid)) == 2)
    _replaced(keys, f"{_NEW}\n")
    until(lambda: _accepted(gateway, _NEW) == {True})
    until(lambda: gateway.log.read_text().count("was replaced") == 3)
    _replaced(keys, "")
    until(lambda: gateway.log.read_text().count("stay as they were") == 3)
    before = workers_of(pid)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: len(set(workers_of(pid)) - set(before)) == 1)
    until(lambda: gateway.log.read_text().count("startup complete") == 3)

    assert {True} == _accepted(gateway, _NEW)
    assert {False} == _accepted(gateway, _OLD)
    # Each process says it once; the new worker knows the file already.
    assert 3 == gateway.log.read_text().count("stay as they were")
    assert 2 == len(workers_of(pid))
    assert 0 == gateway.end(signal.SIGTERM)
    assert "Traceback" not in gateway.log.read_text()


@pytest.mark.parametrize("content", [None, "", "short\n", "a key of words\n"])
def test_a_bad_file_is_said_once(
    content: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is gone, empty or wrong keeps the keys; the next good one counts."""
    path = tmp_path / "keys"
    path.write_text(_OLD)
    keys = ApiKeys(str(path))
    if content is None:
        path.unlink()
    else:
        _replaced(path, content)
    for _ in range(3):
        keys.renew()
    keys.check(f"Bearer {_OLD}")
    pickle.loads(pickle.dumps(keys)).check(f"Bearer {_OLD}")
    assert 1 == caplog.text.count("stay as they were")
    _replaced(path, _NEW)
    keys.renew()

    keys.check(f"Bearer {_NEW}")
    with pytest.raises(Unauthenticated):
        keys.check(f"Bearer {_OLD}")


def test_a_server_without_keys_needs_none() -> None:
    """Without a file there is nothing to look at."""
    keys = ApiKeys("")
    keys.renew()

    keys.check(None)
