# SPDX-License-Identifier: Apache-2.0
"""An engine without a model, whose predictions can be held up."""

from __future__ import annotations

import threading

import numpy as np

from inkling.contract import Contract
from inkling_serving.engines.base import (
    DeviceFile,
    ModelStatus,
    State,
    VersionStatus,
)

__all__ = ["HeldEngine"]

_PATIENCE_S = 20.0


class HeldEngine:
    """Says 3 to every picture, and is its own one version of each model.

    Attributes:
        free: While it is not set, predictions wait.
        models: Whether each model can answer, by its name.
        timeouts: The time that each prediction was given, in seconds.
        threads: The names of the threads in which predictions were asked for.
        device_file: The file that devices get.
    """

    model, version = "mlp", 1

    def __init__(self, contract: Contract, *, quick: bool = False) -> None:
        self.contract = contract
        self.quick = quick
        self.device_file: DeviceFile | None = None
        self.models = {"mlp": True}
        self.free = threading.Event()
        self.free.set()
        self.timeouts: list[float | None] = []
        self.threads: list[str] = []

    def select(
        self,
        model: str,
        version: int | None = None,
        version_label: str | None = None,
        caller: str | None = None,
    ) -> HeldEngine:
        """Return the one version there is."""
        del model, version, version_label, caller
        return self

    def predict(self, inputs: np.ndarray, timeout_s: float | None = None) -> np.ndarray:
        """Return scores once it may."""
        self.timeouts.append(timeout_s)
        self.threads.append(threading.current_thread().name)
        assert self.free.wait(_PATIENCE_S)
        scores = np.zeros((len(inputs), len(self.contract.labels)), np.float32)
        scores[:, 3] = 1.0
        return scores

    def status(self) -> list[ModelStatus]:
        """Return the models."""
        return [
            ModelStatus(name, (self._version(ready),))
            for name, ready in sorted(self.models.items())
        ]

    def _version(self, ready: bool) -> VersionStatus:
        state = State.AVAILABLE if ready else State.FAILED
        return VersionStatus(
            self.version,
            state,
            contract=self.contract,
            device_file=self.device_file,
        )

    def why_not_ready(self) -> str:
        """Return why no model can answer."""
        return "The test wants it so."

    def close(self) -> None:
        """There is nothing to close."""
