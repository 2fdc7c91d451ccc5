# SPDX-License-Identifier: Apache-2.0
"""The interface between the service and the engine that runs the models.

A request first selects a servable and keeps it until the request is answered. A new
version that arrives meanwhile only changes the selection of later requests. So the
contract, labels, scores and version number of one answer always belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from inkling.errors import ModelNotFound
from inkling.model.version_labels import default_version

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inkling.contract import Contract

__all__ = [
    "NO_SUCH_MODEL",
    "DeviceFile",
    "Engine",
    "ModelStatus",
    "Servable",
    "State",
    "VersionStatus",
    "no_such_label",
    "not_served",
]

NO_SUCH_MODEL = "This server does not have the model. GET /v1/models lists its models."


def not_served(model: str, served: Iterable[int]) -> ModelNotFound:
    """Return the error for a version that is not among the `served` versions."""
    shown = ", ".join(map(str, sorted(served))) or "none"
    return ModelNotFound(
        f'The model "{model}" does not serve this version; it serves: {shown}.'
    )


def no_such_label(model: str) -> ModelNotFound:
    """Return the error for a version label that the model does not have."""
    return ModelNotFound(
        f'The model "{model}" does not have this version label. GET '
        f"/v1/models/{model} lists its labels."
    )


class State(StrEnum):
    """The state of a version; the name AVAILABLE is TensorFlow Serving's."""

    AVAILABLE = "AVAILABLE"
    FAILED = "FAILED"


@dataclass(frozen=True)
class DeviceFile:
    """A TFLite file that an engine runs, and that a device can run, too.

    Attributes:
        tflite_format: `float32`, `float16` or `int8`.
        content: The file with its contract, as `inkling.model.bundle` reads it.
        sha256: The SHA-256 of `content` in hexadecimal digits.
    """

    tflite_format: str
    content: bytes = field(repr=False)
    sha256: str


class Servable(Protocol):
    """One version of one model; it can answer as long as a caller keeps it."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def version(self) -> int:
        """The version's number."""

    @property
    def contract(self) -> Contract:
        """The requirements of the version for an image."""

    @property
    def quick(self) -> bool:
        """Whether one prediction is quicker than the hand-over to a thread."""

    @property
    def device_file(self) -> DeviceFile | None:
        """The file that the engine runs in this process; None if it runs elsewhere."""

    def predict(
        self, inputs: npt.NDArray[np.float32], timeout_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """Return scores (n, classes), float32, for inputs (n, h, w, c), float32.

        Raises:
            DeadlineExceeded: The prediction took longer than `timeout_s`.
            NotReady: The engine cannot be reached.
        """


@dataclass(frozen=True)
class VersionStatus:
    """The status of one version.

    Attributes:
        version: The version's number.
        state: Whether the version can answer.
        reason: The reason why the version, or newer files of the version, cannot be
            served; None without a failure.
        contract: The contract, once the engine has read it.
        accuracy: The share of correct answers on the test set, from 0 to 1, for the
            format that runs.
        device_file: As `Servable.device_file`.
        on_gpu: Whether TensorFlow Serving runs the version on a GPU; None if the
            version runs elsewhere, or does not say.
    """

    version: int
    state: State
    reason: str | None = None
    contract: Contract | None = None
    accuracy: float | None = None
    device_file: DeviceFile | None = None
    on_gpu: bool | None = None


@dataclass(frozen=True)
class ModelStatus:
    """The status of one model.

    Attributes:
        name: The model's name.
        versions: Its versions, newest first.
        version_labels: Its labels, such as `stable`, and their versions.
        shares: The share of the requests, in percent, of each label that has one.
    """

    name: str
    versions: tuple[VersionStatus, ...]
    version_labels: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def default(self) -> int | None:
        """The version that answers if a request names none; None if none can."""
        available = [v.version for v in self.versions if v.state == State.AVAILABLE]
        wanted = default_version(self.version_labels, max(available, default=None))
        return wanted if wanted in available else None

    @property
    def ready(self) -> bool:
        """Whether a request that names no version is answered."""
        return self.default is not None

    def labels_of(self, version: int) -> list[str]:
        """Return the version labels of a version, sorted."""
        return sorted(n for n, v in self.version_labels.items() if v == version)


class Engine(Protocol):
    """Runs models."""

    def select(
        self,
        model: str,
        version: int | None = None,
        version_label: str | None = None,
        caller: str | None = None,
    ) -> Servable:
        """Return the requested version, or the one that answers without.

        Args:
            model: The model's name.
            version: The version's number, or None.
            version_label: The version label, or None.
            caller: A key of the caller, which always gets the same version while the
                share of `canary` stays; an empty one is drawn at random. None leaves
                `canary` out.

        Raises:
            ModelNotFound: The engine does not have the model, version or label.
            NotReady: The engine has the version, which cannot answer yet.
        """

    def status(self) -> list[ModelStatus]:
        """Return the status of all models, sorted by name."""

    def why_not_ready(self) -> str:
        """Return in sentences why no model can answer, and the remedy."""

    def close(self) -> None:
        """Stop the work in the background; open requests finish."""
