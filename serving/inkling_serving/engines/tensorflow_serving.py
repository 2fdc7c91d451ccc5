# SPDX-License-Identifier: Apache-2.0
"""The engine on other servers: one or several servers of TensorFlow Serving.

The servers report their versions and the contracts, so the gateway needs no model
files. Each request names its version, so that an answer never mixes two versions while
the servers change to a new version.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inkling.contract import Contract
from inkling.errors import (
    BrokenVersion,
    DeadlineExceeded,
    InklingError,
    InternalError,
    ModelNotFound,
    NotReady,
)
from inkling.model.repository import Repository
from inkling.types import are_scores
from inkling_serving.engines.base import (
    NO_SUCH_MODEL,
    ModelStatus,
    State,
    VersionStatus,
)
from inkling_serving.engines.channels import Channels
from inkling_serving.engines.coalescer import Coalescer
from inkling_serving.engines.credentials import engine_credentials
from inkling_serving.engines.label_moves import LabelMoves, Labels, labels_in
from inkling_serving.engines.selection import Wanted, selected
from inkling_serving.engines.silence import SharedSilence
from inkling_serving.engines.stub import ENGINE_MESSAGES, Stub
from inkling_serving.runtime.bounded_calls import BoundedCalls
from inkling_serving.runtime.poller import Repeating
from inkling_serving.tensorflow_serving_wire import tensorflow_serving_pb2 as wire

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from inkling_serving.settings import Settings

__all__ = ["RemoteVersion", "TensorFlowServingEngine"]

_log = logging.getLogger(__name__)

# A server has the status in memory; the gateway asks twice.
_STATUS_TIMEOUT_S = 0.5
# The version labels are a small file on a volume that may not answer.
_READING_S = 0.5
_POLL_WHILE_MISSING_S = 0.2
_PREDICT_TIMEOUT_S = 10.0
# The output of a model's `device` signature if the model runs on a GPU.
_GPU = 1
# TensorFlow Serving runs float32; the sum of a float32 softmax differs from 1 by less.
_SUM_TOLERANCE = 1e-3
_SILENT = "TensorFlow Serving does not answer."


class RemoteVersion:
    """One version of one model on the servers."""

    def __init__(
        self,
        model: str,
        version: int,
        contract: Contract,
        stub: Stub,
        settings: Settings,
    ) -> None:
        self.model = model
        self.version = version
        self.contract = contract
        self.on_gpu: bool | None = None
        self._stub = stub
        self._coalescer = Coalescer(
            self._call, settings.engine_batch, settings.engine_calls_at_once
        )

    @property
    def quick(self) -> bool:
        """Always False, because a prediction waits for the network."""
        return False

    @property
    def device_file(self) -> None:
        """Always None, because the servers have the files."""
        return None

    def predict(
        self, inputs: npt.NDArray[np.float32], timeout_s: float | None = None
    ) -> npt.NDArray[np.float32]:
        """Return scores (n, classes), float32, for inputs (n, h, w, c), float32.

        Raises:
            DeadlineExceeded: The scores took longer than `timeout_s`.
            NotReady: No server can be reached.
            Overloaded: Too many requests wait for the servers.
            InternalError: The response does not contain scores.
        """
        if timeout_s is None:
            timeout_s = _PREDICT_TIMEOUT_S
        return self._coalescer.predict(inputs, timeout_s)

    def _call(
        self, inputs: npt.NDArray[np.float32], timeout_s: float
    ) -> npt.NDArray[np.float32]:
        scores = self._stub.scores(self.model, self.version, inputs, timeout_s)
        shape = (len(inputs), len(self.contract.labels))
        sums = self.contract.scores_sum_to_one
        if not are_scores(scores, shape, _SUM_TOLERANCE, sum_to_one=sums):
            _log.error(
                "%s version %d answered with values of shape %s; expected scores of "
                "shape %s in [0, 1]%s",
                self.model,
                self.version,
                scores.shape,
                shape,
                ", each row with the sum 1" if sums else "",
            )
            raise InternalError("The engine's response does not contain scores.")
        return scores


@dataclass(frozen=True)
class _Model:
    """An immutable state of one model; a new state replaces it.

    Attributes:
        loaded: The versions that can get requests.
        status: The status that the gateway reports.
    """

    loaded: Mapping[int, RemoteVersion]
    status: ModelStatus

    def silent(self) -> _Model:
        """Return the model as not ready, because its servers do not answer.

        The gateway still sends requests: each has a deadline, and a server may answer.
        """
        versions = [
            replace(version, state=State.FAILED, reason=_SILENT)
            for version in self.status.versions
        ]
        return _Model(self.loaded, replace(self.status, versions=tuple(versions)))


class TensorFlowServingEngine:
    """Serves the models that the settings name, from TensorFlow Serving."""

    def __init__(self, settings: Settings, folder: Path | None = None) -> None:
        """Ask the servers for their versions now, and then repeatedly.

        Args:
            settings: The gateway's settings.
            folder: The directory that all processes of the gateway share, if any.

        Raises:
            InvalidRequest: A file for TLS cannot be used.
        """
        self._settings = settings
        self._channels = Channels(
            settings.addresses, settings.max_body_bytes, engine_credentials(settings)
        )
        self._stub = Stub(self._channels)
        # Version labels are those of the repository, where the gateway can read it:
        # TensorFlow Serving accepts a label for a version only once it is loaded.
        self._repository = Repository(settings.models_dir)
        self._moves = LabelMoves(folder)
        self._silence = SharedSilence(folder)
        self._calls = BoundedCalls(_READING_S)
        self._models: Mapping[str, _Model] = {
            name: _Model({}, ModelStatus(name, ())) for name in settings.model_names
        }
        # Why each model was not found at the last question; only changes are logged.
        self._refusals: dict[str, str] = {}
        self._refresh()
        self._watcher = Repeating("asking the engine", self._refresh, self._pause_s)

    def select(
        self,
        model: str,
        version: int | None = None,
        version_label: str | None = None,
        caller: str | None = None,
    ) -> RemoteVersion:
        """Return the requested version, or the one that answers without."""
        found = self._models.get(model)
        if found is None:
            raise ModelNotFound(NO_SUCH_MODEL)
        status = found.status
        labels = Labels(status.version_labels, status.shares)
        if not found.loaded and version_label in (None, *labels.versions):
            raise NotReady(ENGINE_MESSAGES[NotReady])
        failed = {one.version for one in status.versions}
        wanted = Wanted(model, version, version_label, caller)
        return selected(wanted, found.loaded, failed, labels)

    def status(self) -> list[ModelStatus]:
        """Return the status of all models, sorted by name.

        No model is ready while another process of the gateway gets no answer.
        """
        models = self._models
        if self._silence.is_told():
            models = {name: model.silent() for name, model in models.items()}
        return [models[name].status for name in sorted(models)]

    def why_not_ready(self) -> str:
        """Return which servers were asked for which models, and what they said."""
        reasons = dict.fromkeys(
            f"{name}: {self._reason(name, model)}"
            for name, model in sorted(self._models.items())
        )
        return (
            f"TensorFlow Serving at {', '.join(self._settings.addresses)} was asked "
            f"for the models of --served-models. {' '.join(reasons)} Its models.config "
            "names the models that it serves, and its log says why one is not loaded."
        )

    def _reason(self, name: str, model: _Model) -> str:
        failed = [one.reason for one in model.status.versions if one.reason]
        return failed[0] if failed else self._refusals.get(name, _SILENT)

    def close(self) -> None:
        """Stop the status calls, and close the connections."""
        self._watcher.stop()
        self._silence.tell(False)
        self._channels.close()

    def _pause_s(self) -> float:
        """Return the seconds to the next status call: few while a model is missing."""
        poll_s = self._settings.poll_s
        ready = all(model.status.ready for model in self._models.values())
        return poll_s if ready else min(poll_s, _POLL_WHILE_MISSING_S)

    def _refresh(self) -> None:
        self._ask()
        ready = any(model.status.ready for model in self._models.values())
        self._silence.tell(not ready)

    def _ask(self) -> None:
        for name, before in self._models.items():
            try:
                after = self._asked_about(name, before)
            except DeadlineExceeded:
                # All models have the same servers, so further calls would time out.
                self._fall_silent()
                return
            self._models = {**self._models, name: after}

    def _fall_silent(self) -> None:
        if any(model.status.ready for model in self._models.values()):
            _log.warning("not ready: %s", _SILENT)
        self._models = {name: model.silent() for name, model in self._models.items()}

    def _asked_about(self, name: str, before: _Model) -> _Model:
        """Return the model in the servers' current state.

        Raises:
            DeadlineExceeded: No server answers.
        """
        try:
            versions = self._versions_of(name)
        except DeadlineExceeded:
            raise
        except InklingError as error:
            if self._refusals.get(name) != error.message or before.loaded:
                _log.warning("%s is not served: %s", name, error.message)
            self._refusals[name] = error.message
            return _Model({}, ModelStatus(name, ()))
        self._refusals.pop(name, None)
        if versions is None:
            return before
        loaded: dict[int, RemoteVersion] = {}
        statuses: list[VersionStatus] = []
        for one in versions:
            if one.state == wire.ModelVersionStatus.AVAILABLE:
                statuses.append(self._with_version(name, one.version, before, loaded))
            elif one.status.error_code:
                reason = (
                    "TensorFlow Serving could not load the version; its log has the "
                    "reason."
                )
                statuses.append(VersionStatus(one.version, State.FAILED, reason))
        statuses.sort(key=lambda status: status.version, reverse=True)
        known = Labels(before.status.version_labels, before.status.shares)
        labels = self._labels(name, known, loaded)
        status = ModelStatus(name, tuple(statuses), labels.versions, labels.shares)
        return _Model(loaded, status)

    def _labels(
        self, name: str, before: Labels, loaded: Mapping[int, RemoteVersion]
    ) -> Labels:
        wanted: Labels | None = self._calls.result(
            f"reading the version labels of {name}",
            lambda: labels_in(self._repository, name, before),
        )
        if wanted is None:
            return before
        versions = wanted.versions
        begun = before.versions or self._moves.at_start(name, versions)
        return replace(
            wanted, versions=self._moves.moved(name, versions, begun, loaded)
        )

    def _versions_of(self, name: str) -> list[wire.ModelVersionStatus] | None:
        """Ask for the versions of a model, and ask again after a timeout.

        Returns:
            The versions; None if the servers are only busy: they answered other calls
            meanwhile.

        Raises:
            InklingError: The servers refused the call, or cannot be reached.
            DeadlineExceeded: The servers did not answer any call.
        """
        began = time.monotonic()
        try:
            return self._stub.versions(name, _STATUS_TIMEOUT_S)
        except DeadlineExceeded:
            # The next server in turn may answer.
            pass
        try:
            return self._stub.versions(name, _STATUS_TIMEOUT_S)
        except DeadlineExceeded:
            if self._channels.answered_at < began:
                raise
            return None

    def _with_version(
        self,
        name: str,
        version: int,
        before: _Model,
        loaded: dict[int, RemoteVersion],
    ) -> VersionStatus:
        """Add an available version to `loaded`; return the status of the version."""
        known = before.loaded.get(version)
        try:
            if known is None:
                contract = self._contract(name, version)
                known = RemoteVersion(
                    name, version, contract, self._stub, self._settings
                )
                _log.info("%s version %d is available", name, version)
                known.on_gpu = self._on_gpu(name, version)
        except InklingError as error:
            return VersionStatus(version, State.FAILED, error.message)
        loaded[version] = known
        return VersionStatus(
            version, State.AVAILABLE, contract=known.contract, on_gpu=known.on_gpu
        )

    def _contract(self, name: str, version: int) -> Contract:
        """Ask the model itself for its contract.

        Raises:
            BrokenVersion: The model has no contract.
        """
        try:
            text = self._stub.contract(name, version)
        except (ValueError, InternalError, NotReady):
            raise BrokenVersion(
                "The model does not contain a contract; publish it with inkling train."
            ) from None
        return Contract.from_json(text)

    def _on_gpu(self, name: str, version: int) -> bool | None:
        """Ask the model on which device a version runs, and log the device."""
        try:
            device = self._stub.device(name, version)
        except (InklingError, ValueError):
            _log.warning("%s version %d does not report its device", name, version)
            return None
        if device == _GPU:
            _log.info("%s version %d runs on a GPU", name, version)
        elif self._settings.expect_gpu:
            _log.warning(
                "%s version %d runs on the CPU, but the settings expect a GPU: "
                "TensorFlow Serving did not find a GPU or a matching driver",
                name,
                version,
            )
        else:
            _log.info("%s version %d runs on the CPU", name, version)
        return bool(device == _GPU)
