"""What the service expects of an engine, which is what runs the models.

A request first selects a servable and keeps it until it is answered. If a new version
is swapped in meanwhile, only later requests select it. So the contract, labels, scores
and version number of one answer always belong together.
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
    """Whether a version answers requests; the words are TensorFlow Serving's."""

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
        """The version's contract."""

    @property
    def quick(self) -> bool:
        """Whether predicting one input takes less time than handing it to a thread."""

    def predict(
        self, inputs: npt.NDArray[np.float32], timeout_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """Return scores (n, classes), float32, for inputs (n, h, w, c), float32.

        Raises:
            DeadlineExceeded: The scores took longer than `timeout_s`.
            NotReady: The engine cannot be reached.
        """


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version.

    Attributes:
        version: Its number.
        state: Whether it answers requests.
        reason: Why the version, or the files that replaced it, cannot be served; None
            if they can.
        contract: Its contract, once it could be read.
        accuracy: Share of right answers on its test set, of the format that runs, 0 to
            1; None if it is not known.
    """

    version: int
    state: State
    reason: str | None = None
    contract: Contract | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class ModelStatus:
    """The state of one model.

    Attributes:
        name: The model's name.
        versions: Its versions, the newest first.
        version_labels: Names, such as `stable`, and the versions they stand for.
    """

    name: str
    versions: tuple[VersionStatus, ...]
    version_labels: Mapping[str, int] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether any version answers requests."""
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
            ModelNotFound: The engine does not have this model, version or label.
            NotReady: The version exists and cannot answer yet.
        """

    def status(self) -> list[ModelStatus]:
        """Return all models, sorted by name."""

    def close(self) -> None:
        """Stop all background work."""
