# SPDX-License-Identifier: Apache-2.0
"""A load test as a process of its own; Locust patches the process that imports it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 300


@dataclass(frozen=True)
class Outcome:
    """A run that has ended."""

    code: int
    text: str
    directory: Path

    @property
    def report(self) -> Any:
        return json.loads((self.directory / "report.json").read_bytes())


class Run:
    """A run under way."""

    def __init__(self, directory: Path, *command: str) -> None:
        self.directory = directory
        self.log = directory.with_suffix(".log")
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, "--report", str(directory)],
                stdout=output,
                stderr=output,
                cwd=ROOT,
            )

    def outcome(self) -> Outcome:
        try:
            code = self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
        return Outcome(code, self.log.read_text(), self.directory)


def load(directory: Path, target: str, *arguments: str) -> Run:
    """Start a load test of the MLP."""
    command = ["inkling", "loadtest", "--target", target, "--model", "mlp"]
    return Run(directory, *command, "--warmup", "500ms", *arguments)
