# SPDX-License-Identifier: Apache-2.0
"""A gateway without capabilities, as in containers; the tests themselves run with all."""

from __future__ import annotations

import http.client
import shutil
import signal
import subprocess
import sys
import threading
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
    log = tmp_path / "log"
    flags = ("--workers", workers, "--drain-timeout-s", "20")
    gateway = _Bare(published, log, free_port(), free_port(), flags)
    gateway.start().wait_ready()
    assert gateway.process
    try:
        status = Path(f"/proc/{gateway.process.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        slow = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        slow.putrequest("POST", "/v1/models/mlp:classify")
        slow.putheader("Content-Length", str(len(picture)))
        slow.endheaders(picture[:10])
        callers = Callers(
            ("127.0.0.1", gateway.port), gateway.target, picture, pause_s=0.0
        )
        with calling(callers, of_each=1):
            until(lambda: len(callers.noted) > 50)
            ended: list[int] = []
            end = threading.Thread(
                target=lambda: ended.append(gateway.end(signal.SIGTERM))
            )
            end.start()
            # The ports are closed; the request that has begun is not complete yet.
            until(lambda: "none" in callers.outcomes()["http"])
            slow.send(picture[10:])
            answer = slow.getresponse()
            found = answer.status, bool(answer.read())
            end.join()
    finally:
        gateway.end(signal.SIGKILL)

    text = log.read_text()
    assert (200, True) == found, text
    assert ended == [0], text
    assert "Traceback" not in text
    assert "PermissionError" not in text
    assert not {"500", "INTERNAL", "UNKNOWN"} & {each.outcome for each in callers.noted}
