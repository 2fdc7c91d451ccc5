# SPDX-License-Identifier: Apache-2.0
"""Mirrors answered requests to the version with the label `shadow`.

The caller never waits for it: a request is offered after its scores are there, the
queue is short, and whatever does not fit is dropped. One thread works it off, for at
most half of its time. Its priority is the usual one: a thread of a low priority that
holds the interpreter lock waits for a core, and all callers of the process wait for it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inkling.errors import InklingError
from inkling.image.budget import Budget, Limits
from inkling.model.assignment import SHADOW
from inkling_serving.batch import Batch, prepared
from inkling_serving.comparison import Compared
from inkling_serving.engines.selection import is_drawn
from inkling_serving.runtime.poller import Repeating
from inkling_serving.runtime.timings import Timings

if TYPE_CHECKING:
    import numpy.typing as npt

    from inkling.contract import Contract
    from inkling_serving.engines.base import Engine, Servable
    from inkling_serving.runtime.metrics import Metrics

    Floats = npt.NDArray[np.float32]

__all__ = ["Mirror", "Mirrored", "compared"]

_QUEUE, _QUEUE_BYTES = 32, 16 * 1024 * 1024
_LOOK_S = 1.0
# A request in the queue wakes nobody: the answer to its caller is not sent yet, and the
# thread would take the interpreter lock from the one that sends it.
_PAUSE_S = 0.02
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Mirrored:
    """A request that was answered.

    Attributes:
        answered: The version that answered it.
        inputs: Its model inputs, float32, (n, *input_shape).
        scores: Its scores, float32, (n, classes).
        seconds: How long the engine took.
        images: The encoded images, one for each input; none where the caller prepared
            the inputs.
    """

    answered: Servable
    inputs: Floats
    scores: Floats
    seconds: float
    images: Sequence[bytes]

    @property
    def size(self) -> int:
        """The bytes that it keeps."""
        return self.inputs.nbytes + sum(map(len, self.images))


@dataclass(frozen=True)
class _Shadow:
    servable: Servable
    share: float


class Mirror:
    """The shadows of the models, and the thread that asks them."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        limits: Limits,
        is_busy: Callable[[], bool],
    ) -> None:
        """Start the thread.

        Args:
            engine: The engine of the gateway.
            metrics: Gets the comparisons.
            limits: The limits of one picture, for a shadow that prepares otherwise.
            is_busy: Whether requests wait for a thread; then nothing is mirrored.
        """
        self._engine = engine
        self._metrics = metrics
        self._limits = limits
        self._is_busy = is_busy
        self._shadows: Mapping[str, _Shadow] = {}
        self._queue: queue.SimpleQueue[Mirrored] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._bytes = 0
        self._looked = -_LOOK_S
        self._rest_s = 0.0
        self._thread = Repeating("shadowing requests", self._step, lambda: self._rest_s)

    def close(self) -> None:
        """Stop the thread; what waits is dropped."""
        self._shadows = {}
        self._thread.stop()

    def offer(self, mirrored: Mirrored, caller: str) -> None:
        """Mirror a request whose caller belongs to the share, or drop it."""
        model = mirrored.answered.model
        shadow = self._shadows.get(model)
        if shadow is None or shadow.servable.version == mirrored.answered.version:
            return
        if not is_drawn(shadow.share, f"{model}/{SHADOW}", caller):
            return
        size = mirrored.size
        with self._lock:
            full = self._queue.qsize() >= _QUEUE or self._bytes + size > _QUEUE_BYTES
            if not full:
                self._bytes += size
        if full or self._is_busy():
            if not full:
                self._release(size)
            self._count(mirrored, shadow, Compared(dropped=len(mirrored.inputs)))
            return
        self._queue.put(mirrored)

    def _release(self, size: int) -> None:
        with self._lock:
            self._bytes -= size

    def _count(self, mirrored: Mirrored, shadow: _Shadow, found: Compared) -> None:
        answered = mirrored.answered
        pair = (str(answered.version), str(shadow.servable.version))
        self._metrics.compare(answered.model, *pair, found)

    def _step(self) -> None:
        """Compare the next request; look for shadows once a second."""
        if time.monotonic() - self._looked >= _LOOK_S:
            self._looked = time.monotonic()
            self._shadows = self._found()
        try:
            mirrored = self._queue.get_nowait()
        except queue.Empty:
            self._rest_s = _PAUSE_S if self._shadows else _LOOK_S
            return
        began = time.perf_counter()
        self._release(mirrored.size)
        shadow = self._shadows.get(mirrored.answered.model)
        if shadow is not None:
            self._count(mirrored, shadow, self._compared(mirrored, shadow.servable))
        self._rest_s = time.perf_counter() - began

    def _compared(self, mirrored: Mirrored, shadow: Servable) -> Compared:
        ours, theirs = mirrored.answered.contract, shadow.contract
        try:
            inputs = self._inputs(mirrored, theirs)
            began = time.perf_counter()
            scores = shadow.predict(inputs, _TIMEOUT_S)
        except InklingError:
            return Compared(failed=len(mirrored.inputs))
        seconds = time.perf_counter() - began
        agreed, difference = compared(mirrored.scores, ours, scores, theirs)
        count = len(mirrored.inputs)
        return Compared(count, agreed, difference, mirrored.seconds, seconds)

    def _inputs(self, mirrored: Mirrored, contract: Contract) -> Floats:
        """Return the inputs for a shadow: those of the answer, if it prepares alike."""
        if contract.preparation == mirrored.answered.contract.preparation:
            return mirrored.inputs
        if not mirrored.images:
            raise InklingError("The caller prepared these inputs for another contract.")
        batch = Batch(mirrored.images, (), False)
        return prepared(batch, contract, Budget(self._limits), Timings())

    def _found(self) -> dict[str, _Shadow]:
        found: dict[str, _Shadow] = {}
        for status in self._engine.status():
            share = status.shares.get(SHADOW, 0.0)
            if share:
                with suppress(InklingError):
                    servable = self._engine.select(status.name, None, SHADOW)
                    found[status.name] = _Shadow(servable, share)
        return found


def compared(
    ours: Floats, contract: Contract, theirs: Floats, other: Contract
) -> tuple[int, float]:
    """Return how many answers agree, and the largest difference of a score.

    Labels are compared by their names; a label that only one model has counts as a
    score of 0 by the other.

    Args:
        ours: The scores of the answer, (n, classes).
        contract: The contract of the version that answered.
        theirs: The scores of the shadow, (n, its classes).
        other: The contract of the shadow.
    """
    if contract.labels != other.labels:
        names = list(dict.fromkeys((*contract.labels, *other.labels)))
        ours, theirs = (
            _in_order(scores, one.labels, names)
            for scores, one in ((ours, contract), (theirs, other))
        )
    agreed = np.argmax(ours, axis=1) == np.argmax(theirs, axis=1)
    return int(agreed.sum()), float(np.abs(ours - theirs).max(initial=0.0))


def _in_order(scores: Floats, labels: Sequence[str], names: Sequence[str]) -> Floats:
    made = np.zeros((len(scores), len(names)), np.float32)
    made[:, [names.index(label) for label in labels]] = scores
    return made
