# SPDX-License-Identifier: Apache-2.0
"""A version whose TFLite file is in memory; it answers, and devices get the file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inkling.model.loading import load_version
from inkling.model.runner import TFLiteRunner
from inkling_serving.engines.base import DeviceFile

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling.model.repository import VersionFiles

__all__ = ["LoadedVersion"]

# The hand-over to a thread costs about 0.1 ms and waits for the interpreter lock. On
# the event loop, a slower model would delay all other requests of the process.
_QUICK_S = 0.002
_TRIALS = 5


@dataclass(frozen=True)
class LoadedVersion:
    """A version whose TFLite file is in memory."""

    model: str
    version: int
    runner: TFLiteRunner
    accuracy: float | None
    device_file: DeviceFile
    quick: bool = False

    @classmethod
    def read(cls, files: VersionFiles, tflite_format: str) -> LoadedVersion:
        """Verify a published version, and load its TFLite file of a format.

        Raises:
            BrokenVersion: As `load_version`.
            InvalidContract: As `load_version`.
        """
        tflite_format = files.offered(tflite_format)
        runner = load_version(files, tflite_format)
        digest = files.listed()[f"tflite/{tflite_format}.tflite"]
        return cls(
            files.model,
            files.version,
            runner,
            files.accuracy(tflite_format),
            DeviceFile(tflite_format, runner.model, digest),
            _is_quick(runner),
        )

    @property
    def contract(self) -> Contract:
        """The requirements of the version for an image."""
        return self.runner.contract

    def predict(
        self, inputs: npt.NDArray[np.float32], timeout_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """Return scores (n, classes), float32, for inputs (n, h, w, c), float32.

        A run of a model in this process cannot be interrupted: `timeout_s` is ignored.
        """
        del timeout_s
        return self.runner.run_prepared(inputs)


def _is_quick(runner: TFLiteRunner) -> bool:
    """Measure one prediction; the fastest of five, since others use the cores, too."""
    inputs = np.zeros((1, *runner.contract.input_shape), np.float32)
    times = []
    for _ in range(_TRIALS):
        started = time.perf_counter()
        runner.run_prepared(inputs)
        times.append(time.perf_counter() - started)
    return min(times) <= _QUICK_S
