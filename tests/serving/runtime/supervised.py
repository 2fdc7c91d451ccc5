# SPDX-License-Identifier: Apache-2.0
"""A gateway of workers that do nothing but what a test wants of them.

`python -m tests.serving.runtime.supervised FOLDER HOW WORKERS DRAIN_S` supervises until
a signal comes. Each worker leaves a file with its number in FOLDER.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from inkling_serving.runtime.listeners import Ports, bound, reserved
from inkling_serving.runtime.supervisor import Worker, run

_NOT_STARTED = 3


def serve(settings: tuple[str, str], ports: Ports, worker: Worker) -> int:
    """Serve in a worker, in one of the ways that the module's tests need."""
    folder, how = Path(settings[0]), settings[1]
    signals: list[int] = []

    def told(number: int, frame: FrameType | None) -> None:
        del frame
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    (folder / f"{os.getpid()}.began").touch()
    if how == "cannot start":
        sys.exit(_NOT_STARTED)
    if how == "ends always":
        sys.exit(7)
    if how == "ends at once" and len(list(folder.glob("*.began"))) <= 2:
        sys.exit(7)
    worker.serving.set()
    (folder / f"{os.getpid()}.serves").touch()
    wanted = {"busy": 2, "deaf": 99}.get(how, 1)
    while signals.count(signal.SIGTERM) < wanted:
        time.sleep(0.01)
    (folder / f"{os.getpid()}.ended-{worker.ending.is_set()}").touch()
    del ports
    return 0


def main(folder: str, how: str, workers: str, drain_s: str) -> int:
    """Supervise; return the exit code."""
    logging.basicConfig(level="INFO")
    ports: Any = Ports(bound("127.0.0.1", 0, ""), reserved("127.0.0.1", 0, ""))
    (Path(folder) / "port").write_text(str(ports.http.getsockname()[1]))
    return run(
        serve,
        (folder, how),
        ports,
        workers=int(workers),
        end_s=float(drain_s),
        not_started=_NOT_STARTED,
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
