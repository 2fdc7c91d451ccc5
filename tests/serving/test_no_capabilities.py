# SPDX-License-Identifier: Apache-2.0
"""A gateway without capabilities, as in containers; the tests themselves run with all."""

from __future__ import annotations

import contextlib
import http.client
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.callers import Callers, calling
from tests.support.gateway_process import Killable
from tests.support.machine import free_port, until

_WITHOUT = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]


class _Bare(Killable):
    """A gateway whose processes may do nothing that an ordinary user may not."""

    def start(self) -> Killable:
        command = [*_WITHOUT, sys.executable, "-m", "inkling", "serve", *self.flags]
        command += ["--models-dir", str(self.models_dir)]
        command += ["--http-port", str(self.port), "--grpc-port", str(self.grpc_port)]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, stderr=output)
        return self


@pytest.fixture(scope="module", autouse=True)
def setpriv() -> None:
    """Skip where this user has no capabilities that could be dropped."""
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is not installed; NOTHING was checked")
    done = subprocess.run([*_WITHOUT, "true"], capture_output=True)
    if done.returncode:
        pytest.skip("this user may not drop capabilities; NOTHING was checked")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_requests_under_way_are_answered_at_the_end(
    workers: str, published: Path, tmp_path: Path, picture: bytes
) -> None:
    """After SIGTERM the request that has begun gets 200, and the exit code is 0."""
    flags = ("--workers", workers, "--drain-timeout-s", "20")
    log = tmp_path / "log"
    gateway = _Bare(published, log, free_port(), free_port(), flags)
    gateway.start()
    assert gateway.process
    try:
        until(lambda: gateway.get("/readyz")[0] == 200, 120)
        status = Path(f"/proc/{gateway.process.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        callers = Callers(("127.0.0.1", gateway.port), gateway.target, picture)
        answer, code = _slow_answer(gateway, callers)
    finally:
        gateway.end(signal.SIGKILL)
    text = log.read_text()

    assert (200, 0) == (answer, code), text
    assert not re.search("Traceback|PermissionError", text)
    assert not {"500", "INTERNAL", "UNKNOWN"} & {each.outcome for each in callers.noted}


def _slow_answer(gateway: Killable, callers: Callers) -> tuple[int, int]:
    """End a gateway under load with a request under way; return its status and the code."""
    slow = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    slow.putrequest("POST", "/v1/models/mlp:classify")
    slow.putheader("Content-Length", str(len(callers.picture)))
    slow.endheaders(callers.picture[:10])
    with calling(callers, of_each=1), ThreadPoolExecutor() as pool:
        until(lambda: len(callers.noted) > 50)
        ended = pool.submit(gateway.end, signal.SIGTERM)
        # The ports are closed; the request that has begun is not complete yet.
        until(lambda: "none" in callers.outcomes()["http"])
        slow.send(callers.picture[10:])
        with contextlib.closing(slow.getresponse()) as answer:
            answer.read()
        slow.close()
        return answer.status, ended.result()
