"""The seam between the service and whatever runs the models.

A request first selects a servable and keeps it until it is answered. A new version
that is swapped in meanwhile changes what the next request selects and nothing else,
so contract, labels, scores and version number of one answer always belong together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from inkling.contract import Contract

__all__ = [
    "NO_SUCH_MODEL",
    "Engine",
    "ModelStatus",
    "Servable",
    "State",
    "VersionStatus",
]

NO_SUCH_MODEL = "There is no such model. GET /v1/models lists those that are here."


class State(StrEnum):
    """Whether a version answers; AVAILABLE is TensorFlow Serving's word."""

    AVAILABLE = "AVAILABLE"
    FAILED = "FAILED"


class Servable(Protocol):
    """One version of one model, ready to answer for as long as it is held."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def version(self) -> int:
        """The version's number."""

    @property
    def contract(self) -> Contract:
        """What the version expects of an image."""

    @property
    def quick(self) -> bool:
        """Whether one input is answered sooner than a thread is found for it."""

    def predict(
        self, inputs: npt.NDArray[np.float32], timeout_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """Return scores (n, classes), float32, for inputs (n, h, w, c), float32.

        Raises:
            DeadlineExceeded: It took longer than `timeout_s`.
            NotReady: What runs the model cannot be reached.
        """


@dataclass(frozen=True)
class VersionStatus:
    """What is known of one version.

    Attributes:
        version: Its number.
        state: Where it is.
        reason: Why it, or what was published over it, is not served; else None.
        contract: Its contract, once it could be read.
        accuracy: Share of right answers on its test set, of the format that runs.
    """

    version: int
    state: State
    reason: str | None = None
    contract: Contract | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class ModelStatus:
    """What is known of one model; `versions` has the newest first."""

    name: str
    versions: tuple[VersionStatus, ...]
    version_labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether any version can answer."""
        return any(version.state == State.AVAILABLE for version in self.versions)

    def labels_of(self, version: int) -> list[str]:
        """Return the version labels of a version, sorted."""
        return sorted(n for n, v in self.version_labels.items() if v == version)


class Engine(Protocol):
    """Runs models."""

    def select(
        self, model: str, version: int | None = None, version_label: str | None = None
    ) -> Servable:
        """Return the version asked for, or the newest that is available.

        Raises:
            ModelNotFound: There is no such model, version or label.
            NotReady: It exists and cannot answer yet.
        """

    def status(self) -> list[ModelStatus]:
        """Return all models, sorted by name."""

    def close(self) -> None:
        """Stop working in the background; requests under way finish."""
